"""Random changes of training pictures on the device that they are on; pictures are uint8 [N, S, S, 3 or 4]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(low: float, high: float, count: int, device: torch.device) -> Tensor:
    return torch.empty(count, device=device).uniform_(low, high)


def crops(pictures: Tensor, least_area: float) -> Tensor:
    """Random crops, flips, rotations and colors: float [N, 3, S, S] in [0, 1].

    With a least area above 1 pictures are shrunk instead, and their edges repeated around them.
    """
    x = pictures.permute(0, 3, 1, 2).float() / 255
    count, device = len(x), x.device
    area = uniform(least_area, max(1.0, 1.7 * least_area), count, device)
    ratio = torch.exp(uniform(math.log(3 / 4), math.log(4 / 3), count, device))
    wide, high = (area * ratio).sqrt(), (area / ratio).sqrt()
    if least_area < 1:
        wide, high = wide.clamp(max=1), high.clamp(max=1)
    right, down = (uniform(-1, 1, count, device) * (1 - side).abs() for side in (wide, high))
    flip = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    angle = uniform(-0.25, 0.25, count, device) * (torch.rand(count, device=device) < 0.4)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([wide * cos * flip, -high * sin, right], 1),
        torch.stack([wide * sin * flip, high * cos, down], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return erase(recolor(F.grid_sample(x, grid, padding_mode="border", align_corners=False)))


def recolor(x: Tensor) -> Tensor:
    """Other brightness, contrast and saturation; a tenth of the pictures gray."""
    count, device = len(x), x.device

    def factor(change: float) -> Tensor:
        return uniform(1 - change, 1 + change, count, device)[:, None, None, None]

    x = x * factor(0.4)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * factor(0.4) + mean
    gray = x.mean(1, keepdim=True)
    saturation = factor(0.5) * (torch.rand(count, 1, 1, 1, device=device) > 0.1)
    return torch.lerp(gray.expand_as(x), x, saturation).clamp(0, 1)


def erase(x: Tensor) -> Tensor:
    """A square of a third of the pictures in their mean color."""
    count, size, device = len(x), x.shape[-1], x.device
    chosen = torch.rand(count, device=device) < 0.33
    hole = square(count, size, uniform(0.1, 0.25, count, device) * size, device) & chosen[:, None, None]
    return torch.where(hole[:, None], x.mean((2, 3), keepdim=True), x)


def square(count: int, size: int, half: Tensor, device: torch.device) -> Tensor:
    """Masks bool [N, S, S] of squares with random centers, half as wide as `half` [N] says."""
    line = torch.arange(size, device=device)
    inside = [(line - uniform(0, size, count, device)[:, None]).abs() < half[:, None] for _ in range(2)]
    return inside[0][:, :, None] & inside[1][:, None, :]


def mixed(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A third of the pictures blended with another one, a third with a square of another one, targets likewise."""
    count, size, device = len(x), x.shape[-1], x.device
    other = torch.randperm(count, device=device)
    kind = torch.rand(count, device=device)
    part = square(count, size, uniform(0.15, 0.5, count, device) * size, device) & (kind < 1 / 3)[:, None, None]
    blend = torch.where(kind > 2 / 3, uniform(0.1, 0.5, count, device), torch.zeros(count, device=device))
    weight = torch.maximum(part.float(), blend[:, None, None])
    share = weight.mean((1, 2))[:, None]
    return torch.lerp(x, x[other], weight[:, None]), torch.lerp(targets, targets[other], share)


def on_backgrounds(rgba: Tensor) -> Tensor:
    """Drawings over white, a color or a gradient of two: uint8 [N, S, S, 3]."""
    count, size, device = len(rgba), rgba.shape[1], rgba.device
    alpha = rgba[..., 3:].float() / 255
    first, second = torch.rand(2, count, 1, 1, 3, device=device)
    kind = torch.rand(count, 1, 1, 1, device=device)
    ramp = torch.linspace(0, 1, size, device=device).view(1, size, 1, 1)
    ramp = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, ramp, ramp.transpose(1, 2))
    background = torch.lerp(first, second, ramp * (kind > 0.7))
    background = torch.where(kind < 0.4, torch.ones_like(background), background)
    return torch.lerp(background * 255, rgba[..., :3].float(), alpha).to(torch.uint8)

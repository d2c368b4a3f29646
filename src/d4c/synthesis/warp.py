"""Warps images by affine maps, with a gradient that is the same in every run."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reach(rotation: float, scale: float) -> float:
    """Bound the distance in the output, per axis, of two pixels that are at most one apart per axis in the input.

    Args:
        rotation: Largest rotation of the maps in degrees.
        scale: The maps scale by 1 - `scale` or more.

    Returns:
        The distance in pixels.
    """
    angle = math.radians(min(rotation, 45.0))
    return (math.cos(angle) + math.sin(angle)) / (1 - scale)


class _Warp(torch.autograd.Function):
    """`F.grid_sample` along affine maps, with a gradient that is the same in every run on a GPU.

    The usual gradient adds in the order in which threads arrive. Here every input pixel gathers from the output pixels
    that read it: those that map to within one pixel of it lie in a square of `reach` pixels around its position under
    the inverse map.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, theta: Tensor, reach: float) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.reach = reach
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (theta,) = ctx.saved_tensors
        size = gradient.shape[-1]
        # In pixels, x_in = a x_out + b y_out + c and y_in = d x_out + e y_out + f.
        a, b, d, e = (theta[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
        c, f = (theta[:, i, 2, None, None] for i in (0, 1))
        c, f = ((c + (a + b) * (1 / size - 1) + 1) * size - 1) / 2, ((f + (d + e) * (1 / size - 1) + 1) * size - 1) / 2
        y, x = torch.meshgrid(*[torch.arange(size, device=theta.device, dtype=theta.dtype)] * 2, indexing="ij")
        det = a * e - b * d
        first_x = ((e * (x - c) - b * (y - f)) / det - ctx.reach).ceil()
        first_y = ((a * (y - f) - d * (x - c)) / det - ctx.reach).ceil()
        flat = gradient.flatten(2)
        image_gradient = torch.zeros_like(gradient)
        taps = range(math.floor(2 * ctx.reach) + 1)
        for row, column in product(taps, taps):
            v, u = first_y + row, first_x + column
            weight = (1 - (a * u + b * v + c - x).abs()).clamp(min=0) * (1 - (d * u + e * v + f - y).abs()).clamp(min=0)
            weight = weight * ((u >= 0) & (u < size) & (v >= 0) & (v < size))
            index = (v.clamp(0, size - 1) * size + u.clamp(0, size - 1)).long().flatten(1)
            values = flat.gather(2, index[:, None].expand_as(flat)).view_as(gradient)
            image_gradient = image_gradient + values * weight[:, None]
        return image_gradient, None, None


def warp(images: Tensor, theta: Tensor, reach: float) -> Tensor:
    """Warp images by affine maps, with zeros beyond the border.

    Args:
        images: Images [N, C, S, S].
        theta: Maps [N, 2, 3] of output to input coordinates.
        reach: Bound of the maps, from the function of this name.

    Returns:
        The warped images [N, C, S, S].
    """
    precise = images.to(torch.promote_types(images.dtype, torch.float32))  # positions need more digits than colors
    theta = theta.to(precise.dtype)
    if images.is_cuda:
        return _Warp.apply(precise, theta, reach).to(images.dtype)  # type: ignore[no-untyped-call]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(precise, grid, "bilinear", "zeros", align_corners=False).to(images.dtype)

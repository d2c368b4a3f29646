"""What the image tower is shown of each image: a foreground box, its perturbation, and the background.

Published method, section "image synthesis". Everything is batched over images; all random numbers of a step are
drawn for the whole set at once, so that how the set is cut into batches changes no image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from d4c.calibration.natural import uniform
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.warp import reach, warp


def uniform_integers(most: Tensor, generator: Generator) -> Tensor:
    """One integer from 0 to each value of `most`, both ends possible."""
    draw = torch.rand(most.shape, generator=generator, device=generator.device)
    return torch.minimum((draw * (most + 1)).long(), most)


@dataclass(frozen=True)
class Boxes:
    """One square box an image, in pixels: `top`, `left` and `side` are int64 [N]."""

    top: Tensor
    left: Tensor
    side: Tensor

    def __getitem__(self, rows: slice) -> Boxes:
        return Boxes(self.top[rows], self.left[rows], self.side[rows])


def draw_boxes(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Boxes:
    """Boxes of a random share of the area (uniform between the configured ends), at a uniform place inside."""
    share = torch.rand(n, generator=generator, device=generator.device)
    share = config.area_min + share * (config.area_max - config.area_min)
    side = (share * size * size).floor().sqrt().floor().long().clamp(min=1)
    return Boxes(uniform_integers(size - side, generator), uniform_integers(size - side, generator), side)


@dataclass(frozen=True)
class Perturbation:
    """How the foreground of each image is perturbed in one step.

    `theta` [N, 2, 3] maps output to input coordinates in [-1, 1] (flip, rotation, scale, translation), `reach` bounds
    how far apart in the output two pixels are that are at most one apart, per axis, in the input; `gain` and
    `saturation` [N] are factors, `blur` [N] is 0 or 1, `keep` [N, 1, S, S] is 0 in the erased square and 1 elsewhere.
    """

    theta: Tensor
    gain: Tensor
    saturation: Tensor
    blur: Tensor
    keep: Tensor
    reach: float

    def __getitem__(self, rows: slice) -> Perturbation:
        theta, gain, saturation, blur, keep = (
            part[rows] for part in (self.theta, self.gain, self.saturation, self.blur, self.keep)
        )
        return Perturbation(theta, gain, saturation, blur, keep, self.reach)


@dataclass(frozen=True)
class Move:
    """How each image is moved in one step: pixels `down` and `right`, int64 [N], then mirrored where `flip` [N]."""

    down: Tensor
    right: Tensor
    flip: Tensor

    def __getitem__(self, rows: slice) -> Move:
        return Move(self.down[rows], self.right[rows], self.flip[rows])


@dataclass(frozen=True)
class Draws:
    """All random numbers of one step, where the method has them: perturbation, the background's N(0, 1), move."""

    perturbation: Perturbation | None
    noise: Tensor | None
    move: Move | None

    def __getitem__(self, rows: slice) -> Draws:
        perturbation = None if self.perturbation is None else self.perturbation[rows]
        noise = None if self.noise is None else self.noise[rows]
        return Draws(perturbation, noise, None if self.move is None else self.move[rows])


def draw_step(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Draws:
    """The draws of one step for n images of `size` pixels a side."""
    needs = config.needs
    perturbation = draw_perturbation(n, size, config, generator) if needs.perturbation else None
    noise = torch.randn(n, 3, size, size, generator=generator, device=generator.device) if needs.boxes else None
    return Draws(perturbation, noise, draw_move(n, size, config, generator) if needs.moves else None)


def draw_move(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Move:
    """Shifts of up to the configured share of the side in each direction, and a flip."""
    most = torch.full((n,), 2 * int(config.jitter * size), device=generator.device)
    down, right = (uniform_integers(most, generator) - most // 2 for _ in range(2))
    return Move(down, right, uniform(n, 0, 1, generator) < config.flip_p)


def draw_perturbation(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Perturbation:
    """The random numbers of `perturb`, uniform between the configured ends."""
    c = config
    flip = uniform(n, 0, 1, generator) < c.flip_p
    angle = uniform(n, -math.radians(c.rotation), math.radians(c.rotation), generator)
    scale = uniform(n, 1 - c.scale, 1 + c.scale, generator)
    shift_x = uniform(n, -c.translate, c.translate, generator)
    shift_y = uniform(n, -c.translate, c.translate, generator)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # The flip comes first, so the rotation samples the mirrored image: x changes sign in the input coordinates.
    mirror = 1.0 - 2.0 * flip.float()
    theta = torch.stack(
        [torch.stack([cos, -sin, shift_x], -1) * mirror[:, None], torch.stack([sin, cos, shift_y], -1)], 1
    )
    brightness = uniform(n, 1 - c.brightness, 1 + c.brightness, generator)
    contrast = uniform(n, 1 - c.contrast, 1 + c.contrast, generator)
    saturation = uniform(n, 1 - c.saturation, 1 + c.saturation, generator)
    blur = (uniform(n, 0, 1, generator) < c.blur_p).float()
    erase = uniform(n, 0, 1, generator) < c.erase_p
    side = int(c.erase_side * size)
    room = torch.full((n,), size - side, device=generator.device)
    square = Boxes(uniform_integers(room, generator), uniform_integers(room, generator), torch.full_like(room, side))
    keep = (~(box_mask(square, size) & erase[:, None, None, None])).float()
    return Perturbation(theta, brightness * contrast, saturation, blur, keep, reach(c.rotation, c.scale))


def box_mask(boxes: Boxes, size: int) -> Tensor:
    """Boolean [N, 1, size, size], true inside each box."""
    position = torch.arange(size, device=boxes.top.device)

    def inside(start: Tensor) -> Tensor:
        return (position >= start[:, None]) & (position < (start + boxes.side)[:, None])

    return (inside(boxes.top)[:, :, None] & inside(boxes.left)[:, None, :])[:, None]


@dataclass(frozen=True)
class Windows:
    """What the boxes do to images: `rows` and `columns` [N, S, S] resize the box to full size, `outside` masks it.

    Linear resizing acts on rows and columns apart, so it is a product with a matrix on each side; its gradient is one
    too, and unlike that of a sampler on a GPU it is the same in every run. `outside` [N, 1, S, S] is 0 in the box.
    """

    rows: Tensor
    columns: Tensor
    outside: Tensor

    def __getitem__(self, part: slice) -> Windows:
        return Windows(self.rows[part], self.columns[part], self.outside[part])


def windows(boxes: Boxes, size: int) -> Windows:
    """The boxes as matrices for images of `size` pixels a side."""
    outside = (~box_mask(boxes, size)).float()
    return Windows(resize_matrix(boxes.top, boxes.side, size), resize_matrix(boxes.left, boxes.side, size), outside)


def resize_matrix(start: Tensor, side: Tensor, size: int) -> Tensor:
    """Weights [N, out, in] of `F.interpolate(mode="bilinear", align_corners=False)` from each box to full size.

    Output pixel i reads (i + 1/2) side / S - 1/2 of the box, clamped to the box.
    """
    position = torch.arange(size, device=start.device, dtype=torch.float64)
    last = (side - 1)[:, None]
    inner = torch.minimum(((position + 0.5) / size * (last + 1) - 0.5).clamp(min=0), last)
    distance = (inner + start[:, None])[:, :, None] - position
    return (1 - distance.abs()).clamp(min=0).float()


def crop(images: Tensor, window: Windows) -> Tensor:
    """Each image's box resized to full size, [N, 3, S, S]."""
    rows, columns = (matrix[:, None].to(images.dtype) for matrix in (window.rows, window.columns))
    return rows @ images @ columns.transpose(2, 3)


def blur(images: Tensor, amount: Tensor) -> Tensor:
    """The [1 2 1] / 4 filter along both axes, zeros beyond the border, where `amount` [N] is 1; nothing where it is 0.

    It is the sum of two neighbors, twice along each axis. On a CPU, sums are faster than a pooling.
    """
    blurred = F.pad(images, (1, 1, 1, 1))
    for _ in range(2):
        blurred = blurred[..., 1:] + blurred[..., :-1]
    for _ in range(2):
        blurred = blurred[..., 1:, :] + blurred[..., :-1, :]
    return images.lerp(blurred / 16, amount[:, None, None, None].to(images.dtype))


def perturb(images: Tensor, draws: Perturbation) -> Tensor:
    """Flip, rotate, scale and shift (zeros beyond the border); color gain; saturation; blur; an erased square."""
    images = warp(images, draws.theta, draws.reach)
    gain, saturation = (factor[:, None, None, None].to(images.dtype) for factor in (draws.gain, draws.saturation))
    gray = images.mean(1, keepdim=True) * (gain * (1 - saturation))
    return blur(torch.addcmul(gray, images, gain * saturation), draws.blur) * draws.keep.to(images.dtype)


def background(images: Tensor, window: Windows, noise: Tensor) -> Tensor:
    """Each image with its box set to zero, plus noise everywhere."""
    return torch.addcmul(noise.to(images.dtype), images, window.outside.to(images.dtype))


def move(images: Tensor, draws: Move) -> Tensor:
    """Each image shifted, what leaves on one side coming back on the other, then mirrored left to right."""
    position = torch.arange(images.shape[-1], device=images.device)
    rows = (position - draws.down[:, None]) % len(position)
    mirrored = torch.where(draws.flip[:, None], position.flip(0), position)
    columns = (mirrored - draws.right[:, None]) % len(position)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))

"""Makes the views of each image that the image tower sees: a foreground box, its perturbation, and the background.

They follow the section "image synthesis" of the published method. Everything is batched over images. All random numbers
of a step are drawn for the whole set at once, so that batches change no image.
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
    """Draw one integer from 0 to each value of `most`, including both ends."""
    draw = torch.rand(most.shape, generator=generator, device=generator.device)
    return torch.minimum((draw * (most + 1)).long(), most)


@dataclass(frozen=True)
class Boxes:
    """One square box per image, in pixels: `top`, `left` and `side` are int64 [N]."""

    top: Tensor
    left: Tensor
    side: Tensor

    def __getitem__(self, rows: slice) -> Boxes:
        return Boxes(self.top[rows], self.left[rows], self.side[rows])


def draw_boxes(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Boxes:
    """Draw boxes with a uniform share of the area between the configured ends, at a uniform position inside."""
    share = torch.rand(n, generator=generator, device=generator.device)
    share = config.area_min + share * (config.area_max - config.area_min)
    side = (share * size * size).floor().sqrt().floor().long().clamp(min=1)
    return Boxes(uniform_integers(size - side, generator), uniform_integers(size - side, generator), side)


@dataclass(frozen=True)
class Perturbation:
    """How the foreground of each image is perturbed in one step.

    Args:
        theta: Maps [N, 2, 3] of output to input coordinates in [-1, 1] (flip, rotation, scale, translation).
        gain: Factor of all colors [N].
        saturation: Factor of the difference from gray [N].
        blur: 1 where an image is blurred, else 0 [N].
        keep: 0 in the erased square, else 1 [N, 1, S, S].
        reach: Bound of the distance in the output, per axis, of two pixels that are at most one apart in the input.
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
    """How each image is moved in one step: by pixels `down` and `right`, int64 [N], then mirrored where `flip` [N]."""

    down: Tensor
    right: Tensor
    flip: Tensor

    def __getitem__(self, rows: slice) -> Move:
        return Move(self.down[rows], self.right[rows], self.flip[rows])


@dataclass(frozen=True)
class Draws:
    """All random numbers of one step that the method needs: perturbation, N(0, 1) of the background, and move."""

    perturbation: Perturbation | None
    noise: Tensor | None
    move: Move | None

    def __getitem__(self, rows: slice) -> Draws:
        perturbation = None if self.perturbation is None else self.perturbation[rows]
        noise = None if self.noise is None else self.noise[rows]
        return Draws(perturbation, noise, None if self.move is None else self.move[rows])


def draw_step(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Draws:
    """Draw the random numbers of one step for n images of `size` x `size` pixels."""
    needs = config.needs
    perturbation = draw_perturbation(n, size, config, generator) if needs.perturbation else None
    noise = torch.randn(n, 3, size, size, generator=generator, device=generator.device) if needs.boxes else None
    return Draws(perturbation, noise, draw_move(n, size, config, generator) if needs.moves else None)


def draw_move(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Move:
    """Draw shifts of up to the configured share of the side in each direction, and a flip."""
    most = torch.full((n,), 2 * int(config.jitter * size), device=generator.device)
    down, right = (uniform_integers(most, generator) - most // 2 for _ in range(2))
    return Move(down, right, uniform(n, 0, 1, generator) < config.flip_p)


def draw_perturbation(n: int, size: int, config: SynthesisConfig, generator: Generator) -> Perturbation:
    """Draw the random numbers of `perturb`, uniform between the configured ends."""
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
    """Return a boolean [N, 1, size, size] that is true inside each box."""
    position = torch.arange(size, device=boxes.top.device)

    def inside(start: Tensor) -> Tensor:
        return (position >= start[:, None]) & (position < (start + boxes.side)[:, None])

    return (inside(boxes.top)[:, :, None] & inside(boxes.left)[:, None, :])[:, None]


@dataclass(frozen=True)
class Windows:
    """Boxes as matrices that resize them to full size, and as masks.

    Linear resizing acts on rows and columns separately, so it is a product with a matrix on each side. So is its
    gradient, which, unlike that of a sampler on a GPU, is the same in every run.

    Args:
        rows: Matrices that resize the rows of each box [N, S, S].
        columns: Matrices that resize the columns of each box [N, S, S].
        outside: 0 in the box, else 1 [N, 1, S, S].
    """

    rows: Tensor
    columns: Tensor
    outside: Tensor

    def __getitem__(self, part: slice) -> Windows:
        return Windows(self.rows[part], self.columns[part], self.outside[part])


def windows(boxes: Boxes, size: int) -> Windows:
    """Return the boxes as matrices and masks for images of `size` x `size` pixels."""
    outside = (~box_mask(boxes, size)).float()
    return Windows(resize_matrix(boxes.top, boxes.side, size), resize_matrix(boxes.left, boxes.side, size), outside)


def resize_matrix(start: Tensor, side: Tensor, size: int) -> Tensor:
    """Return the weights [N, out, in] of `F.interpolate(mode="bilinear", align_corners=False)` from box to full size.

    Output pixel i reads (i + 1/2) side / S - 1/2 of the box, clamped to the box.
    """
    position = torch.arange(size, device=start.device, dtype=torch.float64)
    last = (side - 1)[:, None]
    inner = torch.minimum(((position + 0.5) / size * (last + 1) - 0.5).clamp(min=0), last)
    distance = (inner + start[:, None])[:, :, None] - position
    return (1 - distance.abs()).clamp(min=0).float()


def crop(images: Tensor, window: Windows) -> Tensor:
    """Cut out each image's box and resize it to full size, [N, 3, S, S]."""
    rows, columns = (matrix[:, None].to(images.dtype) for matrix in (window.rows, window.columns))
    return rows @ images @ columns.transpose(2, 3)


def blur(images: Tensor, amount: Tensor) -> Tensor:
    """Apply the filter [1 2 1] / 4 along both axes, with zeros beyond the border, where `amount` [N] is 1.

    It is the sum of two neighbors, twice along each axis. On a CPU, sums are faster than a pooling.
    """
    blurred = F.pad(images, (1, 1, 1, 1))
    for _ in range(2):
        blurred = blurred[..., 1:] + blurred[..., :-1]
    for _ in range(2):
        blurred = blurred[..., 1:, :] + blurred[..., :-1, :]
    return images.lerp(blurred / 16, amount[:, None, None, None].to(images.dtype))


def perturb(images: Tensor, draws: Perturbation) -> Tensor:
    """Perturb images: affine map (zeros beyond the border), gain, saturation, blur, and an erased square."""
    images = warp(images, draws.theta, draws.reach)
    gain, saturation = (factor[:, None, None, None].to(images.dtype) for factor in (draws.gain, draws.saturation))
    gray = images.mean(1, keepdim=True) * (gain * (1 - saturation))
    return blur(torch.addcmul(gray, images, gain * saturation), draws.blur) * draws.keep.to(images.dtype)


def background(images: Tensor, window: Windows, noise: Tensor) -> Tensor:
    """Set each image's box to zero and add noise everywhere."""
    return torch.addcmul(noise.to(images.dtype), images, window.outside.to(images.dtype))


def move(images: Tensor, draws: Move) -> Tensor:
    """Shift each image cyclically, then mirror it left to right where drawn."""
    position = torch.arange(images.shape[-1], device=images.device)
    rows = (position - draws.down[:, None]) % len(position)
    mirrored = torch.where(draws.flip[:, None], position.flip(0), position)
    columns = (mirrored - draws.right[:, None]) % len(position)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))

"""Makes a CLIP read pictures of another size, by interpolating the table of positions of its image tower."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError, warn
from d4c.models.clip import CLIP
from d4c.models.tower import replace_parameter
from d4c.reading.ranges import IMAGE_SIZE


@torch.no_grad()
def with_image_size(clip: CLIP, size: int) -> CLIP:
    """Change a CLIP in place so that it reads pictures of another size.

    Positions are interpolated as by `interpolate_pos_encoding` of transformers, bicubically and bit for bit;
    open_clip's own resize also smooths where the grid shrinks.

    Args:
        clip: A float CLIP.
        size: Side of the square pictures in pixels.

    Returns:
        The same CLIP.

    Raises:
        SettingError: The image tower cannot read squares of that size.
    """
    if type(size) is not int or not IMAGE_SIZE.low <= size <= IMAGE_SIZE.high:
        raise SettingError(
            f"The image size is {size!r}, expected one whole number of pixels up to {IMAGE_SIZE.high}, the side of a "
            "square; other shapes are not supported."
        )
    config = replace(clip.config, image=replace(clip.config.image, image_size=size))
    for clause in config.image.complaints():
        raise SettingError(f"The image size is {size}, which does not suit {clip.name!r}: {clause}; choose another.")
    positions = clip.image.positions
    table = clip.image.get_parameter(positions.table)
    if rest := size % positions.cell:
        warn(f"The image size {size} is not a multiple of {positions.cell}: {rest} pixels at two edges are not seen.")
    resized = interpolated(table, positions.first, size // positions.cell)
    replace_parameter(clip.image, positions.table, nn.Parameter(resized, requires_grad=False))
    clip.config = config
    return clip


def interpolated(table: Tensor, first: int, side: int) -> Tensor:
    """Return a table of positions for another grid.

    Args:
        table: Rows before the patches, then those of a square grid, row by row [first + L, C].
        first: Number of rows before the patches, which stay as they are.
        side: Side of the new grid.

    Returns:
        The table [first + side * side, C].
    """
    rows, channels = table[first:], table.shape[1]
    old = round(len(rows) ** 0.5)
    if old == side:
        return table
    grid = rows.reshape(1, old, old, channels).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:first], resized.permute(0, 2, 3, 1).reshape(-1, channels)])

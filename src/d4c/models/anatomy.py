"""The records in which towers and their parts describe themselves: stages, shared inputs, channel axes and the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

PublishedUnit = Literal["layer", "block"]
Slot = tuple[str, int]
"""Name of a layer and index of one of its inputs."""


@dataclass(frozen=True)
class SharedInput:
    """Inputs of layers that are one tensor, which a runtime quantizes once.

    Attributes:
        readers: The inputs.
        of_one_row: Layers that read a single row of the tensor, as the query of an attention pool does.
    """

    readers: tuple[Slot, ...]
    of_one_row: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChannelAxis:
    """Channels that modules share, so that a factor per channel can move between them.

    The function of the tower stays the same if the outputs of all writers are multiplied by a factor per channel and
    the inputs of all readers and the outputs of all partners are divided by it. With heads, the channels within a head
    may even be mixed by any invertible matrix.

    Attributes:
        name: What the axis is called, unique within a tower.
        writers: Norms, linear layers, convolutions and added parameters that write the channels.
        readers: Layers that read the channels.
        partners: Layers on the other side of a product, as k is to q.
        positive: Whether a ReLU lies between, so that factors must be positive.
        heads: Number of heads; 0 if there are none.
    """

    name: str
    writers: tuple[str, ...]
    readers: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    positive: bool = False
    heads: int = 0


@dataclass(frozen=True)
class Patches:
    """Where the patches of an image are rows of a sequence.

    Attributes:
        attentions: The attention layers that mix patches with each other, in order.
        first: Row of the first patch in the input of those layers.
        summary: The part with `watch_summary` whose first query summarizes the patches.
        summary_first: Row of the first patch in the input of that layer.
    """

    attentions: tuple[str, ...]
    first: int
    summary: str
    summary_first: int


@dataclass(frozen=True)
class Positions:
    """The table of positions of an image tower.

    Attributes:
        table: Name of the parameter [first + L, C].
        first: Number of rows before those of the grid.
        cell: Side of a cell of the grid in pixels.
    """

    table: str
    first: int
    cell: int


@dataclass(frozen=True)
class Published:
    """How the published method treats a tower, as patterns for the names of its layers.

    Attributes:
        layers: Layers that are quantized, a regular expression.
        eight_bits: Those of them that have 8 bits, patterns with shell wildcards as of overrides.
        per_channel: Those of them whose inputs have a scale per channel, regular expressions.
        unit: Whether the rounding of a block is learned layer by layer or for the whole block at once.
    """

    layers: str = ".*"
    eight_bits: tuple[str, ...] = ()
    per_channel: tuple[str, ...] = ()
    unit: PublishedUnit = "layer"


@dataclass(frozen=True)
class Stage:
    """One step of a tower: the embedding, a block or the head.

    Attributes:
        name: What the stage is called.
        parts: The children and parameters of the tower that the stage uses.
        run: `run(tower, state, inputs)` maps the state before the stage to the state after it; `inputs` are the pixels
            or tokens of the same samples.
        reads_inputs: Whether a stage after the first reads `inputs` as well as the state.
        published_unit: What the published method learns at once; see `Published.unit`.
    """

    name: str
    parts: tuple[str, ...]
    run: Callable[[Any, Tensor, Tensor], Tensor]
    reads_inputs: bool = False
    published_unit: PublishedUnit = "layer"

    def owns(self, layer: str) -> bool:
        """Whether the layer or parameter of that name belongs to this stage."""
        return any(layer == part or layer.startswith(f"{part}.") for part in self.parts)

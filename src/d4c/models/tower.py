"""What every tower tells of itself, so that nobody else has to know its type or the names of its layers.

Quantization, synthesis, inspection and export ask a tower for its stages, its first layer, the inputs that are one
tensor, the row that reaches the embedding, its patches, and its channel axes. To add a tower: a configuration
(`config.IMAGE_CONFIGS`) and a subclass of `Tower` (`clip.IMAGE_TOWERS`). Parts such as blocks explain themselves;
a tower adds only what lies between its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

PublishedUnit = Literal["layer", "block"]
Slot = tuple[str, int]
"""A layer by its name, and which of its inputs."""


@dataclass(frozen=True)
class SharedInput:
    """Inputs of layers that are one tensor, which a runtime quantizes once.

    Layers in `of_one_row` read a single row of it, as the query of an attention pool does.
    """

    readers: tuple[Slot, ...]
    of_one_row: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChannelAxis:
    """Channels that modules share: what multiplies a channel where it is written divides it where it is read.

    With a factor f per channel, the outputs of all `writers` (norms, linear layers, convolutions, and parameters
    added along the way) are multiplied by f, the inputs of all `readers` divided by f, and the function of the tower
    stays as it is. `partners` stand on the other side of a product, as k beside q: their outputs are divided by f.
    Where a ReLU lies between (`positive`), only positive factors pass. Channels of one of `heads` heads may even be
    mixed by any invertible matrix; 0 where there are no heads.
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

    `attentions` are the attention layers that mix patches with each other, in order; `summary` is the attention whose
    first query sums the patches up. In what they read, the first patch is row `first` and row `summary_first`.
    """

    attentions: tuple[str, ...]
    first: int
    summary: str
    summary_first: int


@dataclass(frozen=True)
class Published:
    """How the authors' code treats a tower: patterns over the names of its layers (see `published-method`).

    Only `layers` are quantized, those of `eight_bits` at 8 bits; inputs of `per_channel` have a scale per channel.
    In blocks, rounding is learned for a `unit`: layer by layer, or for the whole block.
    """

    layers: str = ".*"
    eight_bits: tuple[str, ...] = ()
    per_channel: tuple[str, ...] = ()
    unit: PublishedUnit = "layer"


@dataclass(frozen=True)
class Stage:
    """One step of a tower.

    `run(tower, state, inputs)` maps the state before it to the state after it; `inputs` are the pixels or tokens of
    the same samples. `parts` are the children of the tower that run in it. `reads_inputs` tells whether `inputs` are
    needed beside the state; `published_unit` is what the authors learn as one.
    """

    name: str
    parts: tuple[str, ...]
    run: Callable[[Any, Tensor, Tensor], Tensor]
    reads_inputs: bool = False
    published_unit: PublishedUnit = "layer"

    def owns(self, layer: str) -> bool:
        """Whether a layer or parameter of the tower, by its name, belongs to this stage."""
        return any(layer == part or layer.startswith(f"{part}.") for part in self.parts)


class Part(nn.Module):
    """A piece of a tower that explains itself; names are relative to it."""

    def shared_inputs(self) -> list[SharedInput]:
        """The groups of inputs in this part that are one tensor."""
        return []

    def channel_axes(self) -> list[ChannelAxis]:
        """The channel axes that lie in this part."""
        return []

    def batch_norms(self) -> list[tuple[str, str]]:
        """Convolutions with the BatchNorm, or what a fold has left of it, that follows each of them."""
        return []


class Tower(Part):
    """Embedding, blocks, head: from pixels or tokens to embeddings [N, D].

    The class attributes name children and layers of the tower; `eight_bit_layers` are patterns over the names of the
    layers that hold 8 bits on the deployable track.
    """

    embed_parts: ClassVar[tuple[str, ...]]
    head_parts: ClassVar[tuple[str, ...]]
    head_reads_inputs: ClassVar[bool] = False
    first_layer: ClassVar[str]
    """The layer that reads the pixels or tokens."""
    embedding_row: ClassVar[int | None] = None
    """The row of the last state that alone reaches the embedding, if it is the same one in every sample."""
    costly_parts: ClassVar[tuple[str, ...]] = ()
    """Children beside the blocks that take a notable share of the time."""
    eight_bit_layers: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[Published] = Published()

    blocks: nn.ModuleList

    def embed(self, inputs: Tensor) -> Tensor:
        """Pixels or tokens to the state that enters the first block."""
        raise NotImplementedError

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """The state after a block."""
        return block(x)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """The state after the last block to the embedding [N, D]."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels or tokens to embeddings [N, D], not normalized to unit length."""
        inputs = self.crop(inputs)
        x = self.embed(inputs)
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.head(x, inputs)

    def crop(self, inputs: Tensor) -> Tensor:
        """Inputs without what does not reach the output of any of them."""
        return inputs

    def batches(self, inputs: Tensor, size: int) -> Iterator[Tensor]:
        """Inputs a batch at a time, such that everything in a batch reaches the output."""
        yield from inputs.split(size)

    def live(self, inputs: Tensor) -> Tensor | None:
        """Boolean [N, L] of the rows of a state that reach the output, or None if all of them do."""
        return None

    def read_rows(self, inputs: Tensor) -> Tensor | None:
        """The row of the last state that alone reaches the embedding, int64 [N]; None if several do."""
        if self.embedding_row is None:
            return None
        return torch.full((len(inputs),), self.embedding_row, device=inputs.device)

    def patches(self) -> Patches | None:
        """Where the patches of an image are; None for a tower that has none."""
        return None

    def fold_constants(self, inputs: Tensor) -> None:
        """Turn what is the same for all inputs, of which some are given, into constants; outputs stay equal."""

    def stages(self) -> list[Stage]:
        """Embedding, blocks and head, in order."""

        def block(i: int) -> Stage:
            name, unit = f"blocks.{i}", self.published.unit
            return Stage(name, (name,), lambda tower, x, _: tower.run_block(tower.blocks[i], x), published_unit=unit)

        embed = Stage("embed", self.embed_parts, lambda tower, _, inputs: tower.embed(inputs))
        head = Stage("head", self.head_parts, lambda tower, x, inputs: tower.head(x, inputs), self.head_reads_inputs)
        return [embed, *(block(i) for i in range(len(self.blocks))), head]

    def shared_inputs(self) -> list[SharedInput]:
        """The groups of inputs in the whole tower that are one tensor."""
        return [
            SharedInput(
                tuple((f"{name}.{layer}", index) for layer, index in group.readers), _within(name, group.of_one_row)
            )
            for name, part in self._parts()
            for group in part.shared_inputs()
        ]

    def channel_axes(self) -> list[ChannelAxis]:
        """Every channel axis of the tower: those of its parts; towers add those between parts."""
        return [
            replace(
                axis,
                name=f"{name}.{axis.name}",
                writers=_within(name, axis.writers),
                readers=_within(name, axis.readers),
                partners=_within(name, axis.partners),
            )
            for name, part in self._parts()
            for axis in part.channel_axes()
        ]

    def batch_norms(self) -> list[tuple[str, str]]:
        """Every convolution that a BatchNorm follows, or followed before it was folded, with that norm."""
        return [
            (f"{name}.{conv}", f"{name}.{norm}") for name, part in self._parts() for conv, norm in part.batch_norms()
        ]

    def _parts(self) -> Iterator[tuple[str, Part]]:
        for name, module in self.named_modules():
            if isinstance(module, Part) and module is not self:
                yield name, module


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one that `root` has by a dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def _within(part: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{part}.{name}" for name in names)

"""The base classes of towers, which describe themselves so that no other code depends on their types and layer names.

Quantization, synthesis, inspection and export ask a tower for its stages, its first layer, the inputs that are one
tensor, the row that reaches the embedding, its patches, and its channel axes; `anatomy` has the records. A new tower is
a configuration in `tower_config.IMAGE_CONFIGS` and a subclass of `Tower` in `clip.IMAGE_TOWERS`. Parts such as blocks
describe themselves; a tower adds only what lies between its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis, Patches, Positions, Published, SharedInput, Stage


class Part(nn.Module):
    """A piece of a tower that describes itself; the names it returns are relative to it."""

    def shared_inputs(self) -> list[SharedInput]:
        """Return the groups of inputs in this part that are one tensor."""
        return []

    def channel_axes(self) -> list[ChannelAxis]:
        """Return the channel axes that lie within this part."""
        return []

    def rigid_inputs(self) -> list[str]:
        """Return the layers in this part whose input is on no channel axis, since an activation lies before it."""
        return []

    def batch_norms(self) -> list[tuple[str, str]]:
        """Return pairs of a convolution and the BatchNorm that follows it, or followed it before it was folded."""
        return []


class Tower(Part):
    """An embedding, blocks and a head that map pixels or tokens to embeddings [N, D]."""

    embed_parts: tuple[str, ...]
    """Children and parameters that `embed` uses."""
    head_parts: tuple[str, ...]
    """Children and parameters that `head` uses."""
    head_reads_inputs: ClassVar[bool] = False
    """Whether `head` reads the pixels or tokens as well as the state."""
    first_layer: ClassVar[str]
    """The layer that reads the pixels or tokens."""
    embedding_row: int | None = None
    """The only row of the last state that reaches the embedding, if it is the same in every sample."""
    costly_parts: ClassVar[tuple[str, ...]] = ()
    """Children besides the blocks that take a notable share of the time."""
    eight_bit_layers: ClassVar[tuple[str, ...]] = ()
    """Patterns with shell wildcards over the names of the layers that the deployable track keeps at 8 bits."""
    published: ClassVar[Published] = Published()
    """How the published method treats the tower."""

    blocks: nn.ModuleList

    def embed(self, inputs: Tensor) -> Tensor:
        """Map pixels or tokens to the state that enters the first block."""
        raise NotImplementedError

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Map the state before a block to the state after it."""
        return block(x)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Map the state after the last block to embeddings [N, D]."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Map pixels or tokens to embeddings [N, D], which are not normalized to unit length."""
        inputs = self.crop(inputs)
        x = self.embed(inputs)
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.head(x, inputs)

    def crop(self, inputs: Tensor) -> Tensor:
        """Drop what reaches the output of none of the inputs."""
        return inputs

    def batches(self, inputs: Tensor, size: int) -> Iterator[Tensor]:
        """Yield batches of at most `size` inputs such that everything in a batch reaches the output."""
        yield from inputs.split(size)

    def live(self, inputs: Tensor) -> Tensor | None:
        """Return which rows of a state reach the output, boolean [N, L]; None if all of them do."""
        return None

    def read_rows(self, inputs: Tensor) -> Tensor | None:
        """Return the only row of the last state that reaches the embedding, int64 [N]; None if several do."""
        if self.embedding_row is None:
            return None
        return torch.full((len(inputs),), self.embedding_row, device=inputs.device)

    def class_token_readers(self) -> list[str]:
        """Return the layers of the blocks that read rows [N, L, C] whose first one is the class token."""
        return []

    def patches(self) -> Patches | None:
        """Return where the patches of an image are; None for a tower without patches."""
        return None

    def patch_embeddings(self, inputs: Tensor) -> Tensor | None:
        """Map inputs to embeddings [N, P, D] of their patches; None for a tower without patches."""
        return None

    @property
    def positions(self) -> Positions:
        """Where the positions of an image are."""
        raise NotImplementedError

    def fold_constants(self, inputs: Tensor) -> None:
        """Turn what is the same for all inputs into constants; outputs stay equal.

        Args:
            inputs: Pixels or tokens of any samples.
        """

    def states(self, inputs: Tensor) -> Iterator[Tensor]:
        """Yield the state before each block and after the last one."""
        x = self.embed(inputs)
        yield x
        for block in self.blocks:
            x = self.run_block(block, x)
            yield x

    def outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return what users of the tower alone read, by name: the embedding, and rows of states where there are such.

        Args:
            inputs: Pixels or tokens.

        Returns:
            "embedding" [N, D]; a transformer also gives "penultimate" and "last", the rows [N, L, C] before and after
            the last block, which `transformers` calls `hidden_states[-2]` and `last_hidden_state`.
        """
        return {"embedding": self(inputs)}

    def stages(self) -> list[Stage]:
        """Return the embedding, the blocks and the head, in order."""

        def block(i: int) -> Stage:
            name, unit = f"blocks.{i}", self.published.unit
            return Stage(name, (name,), lambda tower, x, _: tower.run_block(tower.blocks[i], x), published_unit=unit)

        embed = Stage("embed", self.embed_parts, lambda tower, _, inputs: tower.embed(inputs))
        head = Stage("head", self.head_parts, lambda tower, x, inputs: tower.head(x, inputs), self.head_reads_inputs)
        return [embed, *(block(i) for i in range(len(self.blocks))), head]

    def shared_inputs(self) -> list[SharedInput]:
        """Return the groups of inputs in the whole tower that are one tensor."""
        return [
            SharedInput(
                tuple((f"{name}.{layer}", index) for layer, index in group.readers), _within(name, group.of_one_row)
            )
            for name, part in self._parts()
            for group in part.shared_inputs()
        ]

    def channel_axes(self) -> list[ChannelAxis]:
        """Return the channel axes of all parts; subclasses add those between parts."""
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

    def rigid_inputs(self) -> list[str]:
        """Return the layers of the whole tower whose input is on no channel axis."""
        return [layer for name, part in self._parts() for layer in _within(name, part.rigid_inputs())]

    def batch_norms(self) -> list[tuple[str, str]]:
        """Return pairs of a convolution and the BatchNorm that follows it, or followed it before it was folded."""
        return [
            (f"{name}.{conv}", f"{name}.{norm}") for name, part in self._parts() for conv, norm in part.batch_norms()
        ]

    def _parts(self) -> Iterator[tuple[str, Part]]:
        for name, module in self.named_modules():
            if isinstance(module, Part) and module is not self:
                yield name, module


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of `root` that has a dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def replace_parameter(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Replace the parameter of `root` that has a dotted name."""
    part, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(part), leaf, parameter)


def _within(part: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{part}.{name}" for name in names)


def drawn(*shape: int, std: float) -> nn.Parameter:
    """Return a parameter of normally distributed numbers; on the device "meta" nothing is drawn.

    Drawing there imports PyTorch's compiler, which takes a second, and each checkpoint is first compared with a model
    that has shapes alone.

    Args:
        shape: The shape of the parameter.
        std: Standard deviation of the numbers.

    Returns:
        The parameter.
    """
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else nn.init.normal_(values, std=std))

"""Builds a CLIP from a configuration and the tensors of a checkpoint, whose names, shapes and values are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from d4c.errors import CheckpointError, D4CError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.beside.own_tokenizer import TokenizerFiles
from d4c.models.inputs.prompt_tokenizers import OwnTokenizer
from d4c.models.inputs.tokenizer import VOCAB_SIZE
from d4c.models.tower_config import TextConfig


class Stored(Protocol):
    """Where a state dict holds one of our parameters, or what it follows from."""

    def shapes(self, ours: torch.Size) -> dict[str, tuple[int, ...]]:
        """Return the tensors that are needed for a parameter of shape `ours`, with their shapes."""

    def take(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return our parameter, as a view of a tensor where it is one."""


@dataclass(frozen=True)
class Source:
    """One tensor of a state dict that holds one of our parameters.

    Attributes:
        key: Name of the tensor in the state dict.
        part: Which part of the rows to take from a joint projection, and how many equal parts it has: (0, 3) for q of
            q, k and v; None for all rows.
        transpose: Whether the tensor holds the transposed matrix.
        leading: Number of dimensions of length 1 that come before ours.
    """

    key: str
    part: tuple[int, int] | None = None
    transpose: bool = False
    leading: int = 0

    def shape(self, ours: torch.Size) -> tuple[int, ...]:
        """Return the shape of the tensor that holds a parameter of shape `ours`."""
        if self.transpose:
            return tuple(reversed(ours))
        if self.part is not None:
            return (self.part[1] * ours[0], *ours[1:])
        return (*(1,) * self.leading, *ours)

    def shapes(self, ours: torch.Size) -> dict[str, tuple[int, ...]]:
        return {self.key: self.shape(ours)}

    def take(self, state: Mapping[str, Tensor]) -> Tensor:
        tensor = state[self.key]
        if self.transpose:
            return tensor.T
        if self.part is not None:
            return tensor.chunk(self.part[1])[self.part[0]]
        return tensor.reshape(tensor.shape[self.leading :])


Layout = Callable[[str], Stored]
"""Maps the name of one of our parameters to where a state dict holds it."""

CONFIG_ADVICE = "use another checkpoint or correct its configuration"
"""What to do about sizes that no CLIP has."""

CHEAP_BLOCKS = 64
"""So many are built in no time, whatever the weights hold."""

IGNORED = ("num_batches_tracked", "attn_mask", "input_resolution", "context_length", "vocab_size", "position_ids")
"""Endings of the names of tensors that a CLIP does not need."""


def blueprint(config: CLIPConfig) -> dict[str, torch.Size]:
    """Return the shapes of all parameters and buffers that a CLIP of this configuration needs; allocates nothing."""
    with torch.device("meta"):
        state = CLIP(config).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith(IGNORED)}


def check_depth(config: CLIPConfig, tensors: int, source: str, error: type[D4CError]) -> None:
    """Raise an error of class `error` for more blocks than there are tensors, before any of them is built."""
    depths = getattr(config.image, "layers", 0)
    blocks = config.text.layers + (sum(depths) if isinstance(depths, tuple) else depths)
    if blocks > max(CHEAP_BLOCKS, tensors):
        raise error(
            f"{source} announces {blocks} blocks and holds {tensors} tensors, expected several for each block; "
            "use weights that belong to the configuration."
        )


def check_prompts(text: TextConfig, tokenizer: OwnTokenizer | None, source: str) -> None:
    """Raise CheckpointError for a text tower that does not read the token ids of its tokenizer."""
    if text.absent:
        return
    if text.tokenizer == "own":
        if tokenizer is None:
            raise CheckpointError(
                f"{source} reads prompts with a tokenizer of its own and has no tokenizer.json; "
                "use a folder that holds one, such as transformers' AutoTokenizer saves."
            )
        tokenizer.check(text.context_length, text.vocab_size, source, CheckpointError)
        return
    if text.vocab_size != VOCAB_SIZE:
        raise CheckpointError(
            f"{source} has a vocabulary of {text.vocab_size} tokens, expected the {VOCAB_SIZE} of CLIP's tokenizer; "
            "use a CLIP with OpenAI's vocabulary."
        )
    if text.pooling == "end" and text.eos_id not in (None, VOCAB_SIZE - 1):
        raise CheckpointError(
            f"{source} ends prompts with the token {text.eos_id}, expected {VOCAB_SIZE - 1} as CLIP's tokenizer does; "
            "use a CLIP with OpenAI's vocabulary."
        )


def first_and_count(keys: list[str]) -> str:
    """Return the first key, quoted, and how many follow it."""
    return repr(keys[0]) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def assemble(
    config: CLIPConfig,
    state: Mapping[str, Tensor],
    layout: Layout,
    source: str,
    name: str,
    prompts: TokenizerFiles | None = None,
) -> CLIP:
    """Build a CLIP from the tensors of a checkpoint.

    All names, shapes and types are checked before anything large is allocated.

    Args:
        config: The architecture.
        state: The tensors by their names in the checkpoint.
        layout: Maps our names to those.
        source: Names the checkpoint in error messages.
        name: Label of the CLIP.
        prompts: The files of its own tokenizer, if it has one.

    Returns:
        The CLIP in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: The configuration is not that of a CLIP, or a tensor is missing, unknown, misshapen, not of a
            floating-point type or not finite.
    """
    config.check(source, CheckpointError, CONFIG_ADVICE)
    check_depth(config, len(state), source, CheckpointError)
    own = prompts if config.text.tokenizer == "own" else None
    tokenizer = None if own is None else own.read(config.text, source)
    check_prompts(config.text, tokenizer, source)
    shapes = blueprint(config)
    sources = {ours: layout(ours) for ours in shapes}
    expected = {key: shape for ours in sources for key, shape in sources[ours].shapes(shapes[ours]).items()}
    check_names(state, set(expected), source)
    for key, shape in expected.items():
        check_tensor(key, state[key], shape, source)
    with torch.device("meta"):
        clip = CLIP(config, name, tokenizer=tokenizer)
    parameters = clip.state_dict()
    for ours, stored in sources.items():
        value = stored.take(state).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all():
            keys = "', '".join(stored.shapes(value.shape))
            raise CheckpointError(f"{source}: weight '{keys}' is not finite everywhere; use an undamaged checkpoint.")
        parameters[ours] = value
    for ours, value in parameters.items():
        if value.is_meta:  # counters, which checkpoints need not have
            parameters[ours] = torch.zeros(value.shape, dtype=value.dtype)
    clip.load_state_dict(parameters, assign=True)
    return clip.eval().requires_grad_(False)


def check_names(state: Mapping[str, Tensor], expected: set[str], source: str) -> None:
    """Raise CheckpointError if a checkpoint lacks an expected tensor or holds an unknown one."""
    if missing := sorted(expected - state.keys()):
        raise CheckpointError(
            f"{source} lacks the weight {first_and_count(missing)}, which every supported CLIP has; "
            "use a complete checkpoint of a CLIP or SigLIP."
        )
    if unknown := sorted(key for key in state.keys() - expected if not key.endswith(IGNORED)):
        raise CheckpointError(
            f"{source} holds the weight {first_and_count(unknown)}, which no supported CLIP has; "
            "use a CLIP with OpenAI's ResNet or ViT towers, or a SigLIP."
        )


def check_tensor(key: str, tensor: Tensor, expected: tuple[int, ...], source: str) -> None:
    """Raise CheckpointError if a tensor has another shape than expected or is not of a floating-point type."""
    if tuple(tensor.shape) != expected:
        raise CheckpointError(
            f"{source}: weight '{key}' has shape {list(tensor.shape)}, expected {list(expected)}; "
            "use a checkpoint that matches its configuration."
        )
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{source}: weight '{key}' is {tensor.dtype}, expected floating point; "
            "use the checkpoint from before quantization."
        )

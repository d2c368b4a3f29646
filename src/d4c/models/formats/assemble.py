"""From a configuration and foreign tensors to a CLIP: every name, shape and value is checked before use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig, uneven_heads


@dataclass(frozen=True)
class Source:
    """Where one of our parameters stands in a foreign state dict.

    `third` picks the rows of q, k or v (0, 1, 2) from a joint projection; `transpose` swaps a matrix.
    """

    key: str
    third: int | None = None
    transpose: bool = False

    def shape(self, ours: torch.Size) -> tuple[int, ...]:
        """The foreign shape that yields ours."""
        if self.transpose:
            return tuple(reversed(ours))
        return (3 * ours[0], *ours[1:]) if self.third is not None else tuple(ours)

    def take(self, tensor: Tensor) -> Tensor:
        if self.transpose:
            return tensor.T
        return tensor.chunk(3)[self.third] if self.third is not None else tensor


Layout = Callable[[str], Source]
"""Maps the name of one of our parameters to its place in a foreign state dict."""

IGNORED = ("num_batches_tracked", "attn_mask", "input_resolution", "context_length", "vocab_size", "position_ids")
"""Ends of the names of foreign entries that carry nothing a CLIP needs."""


def blueprint(config: CLIPConfig) -> dict[str, torch.Size]:
    """Shapes of all parameters and buffers that a CLIP of this configuration needs; allocates nothing."""
    with torch.device("meta"):
        state = CLIP(config).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith(IGNORED)}


def check_config(config: CLIPConfig, source: str) -> None:
    """Raise CheckpointError for a configuration that no CLIP can have."""
    text = config.text
    sizes = {"embedding width": config.embed_dim, **config.image.sizes()}
    sizes |= {"text width": text.width, "text layers": text.layers, "text heads": text.heads}
    sizes |= {"context length": text.context_length, "vocabulary": text.vocab_size, "text MLP width": text.mlp_width}
    for what, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 20:
            raise CheckpointError(f"{source}: {what} is {value!r}, expected a positive whole number; use another file.")
        if ("layers" in what or "depth" in what) and value > 256:
            raise CheckpointError(f"{source}: {what} is {value}, expected at most 256; use another file.")
    for clause in (*uneven_heads("text", text.width, text.heads), *config.image.complaints()):
        raise CheckpointError(f"{source}: {clause}; use a matching configuration.")


def named(keys: list[str]) -> str:
    """The first of some keys and how many follow."""
    return repr(keys[0]) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def assemble(config: CLIPConfig, state: Mapping[str, Tensor], layout: Layout, source: str, name: str) -> CLIP:
    """A CLIP in evaluation mode, float32, without gradients, from the tensors of a foreign layout.

    Raises CheckpointError, before anything large is allocated, for missing, extra or misshapen tensors, and then
    for values that are not finite.
    """
    check_config(config, source)
    shapes = blueprint(config)
    places = {ours: layout(ours) for ours in shapes}
    wanted = {place.key for place in places.values()}
    if missing := sorted(wanted - state.keys()):
        raise CheckpointError(
            f"{source} lacks the weight {named(missing)}, so it is not a complete CLIP of a supported kind "
            "(OpenAI's ResNets and ViTs and their LAION likes); use a complete checkpoint of one of those."
        )
    if extra := sorted(key for key in state.keys() - wanted if not key.endswith(IGNORED)):
        raise CheckpointError(
            f"{source} holds the weight {named(extra)}, which no supported CLIP has; "
            "use a checkpoint of OpenAI's ResNets or ViTs or their LAION likes."
        )
    for ours, place in places.items():
        given, expected = tuple(state[place.key].shape), place.shape(shapes[ours])
        if given != expected:
            raise CheckpointError(
                f"{source}: weight '{place.key}' has shape {list(given)}, expected {list(expected)}; "
                "use a checkpoint that matches its configuration."
            )
        if not state[place.key].is_floating_point():
            raise CheckpointError(
                f"{source}: weight '{place.key}' is {state[place.key].dtype}, expected floating point; "
                "use the checkpoint from before quantization."
            )
    with torch.device("meta"):
        clip = CLIP(config, name)
    loaded = clip.state_dict()
    for ours, place in places.items():
        value = place.take(state[place.key]).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all():
            raise CheckpointError(
                f"{source}: weight '{place.key}' is not finite everywhere; use an undamaged checkpoint."
            )
        loaded[ours] = value
    for ours, value in loaded.items():
        if value.is_meta:
            loaded[ours] = torch.zeros(value.shape, dtype=value.dtype)
    clip.load_state_dict(loaded, assign=True)
    return clip.eval().requires_grad_(False)

"""Merges LoRA (Hu et al., 2021) into the weights that it belongs to: W + (alpha / r) B A."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from d4c.errors import CheckpointError

MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(\.[^.]+)??(\.weight)?")
"""LAYER.lora_A.ADAPTER.weight of PEFT, or the same without the name of the adapter or without `weight`."""
UNSUPPORTED = ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "fan_in_fan_out", "layer_replication")
ADVICE = "merge it into its model with PEFT's merge_and_unload and save the result"


def merge_lora(state: Mapping[str, Tensor], notes: Iterable[Mapping[Any, Any]], source: str) -> dict[str, Tensor]:
    """Return a state dict with its LoRA matrices merged and PEFT's wrappers around layers removed.

    Args:
        state: The weights by name; without such matrices they are returned as they are.
        notes: Dictionaries of any content, of which one may hold PEFT's settings, above all `lora_alpha`.
        source: Names the checkpoint in error messages.

    Returns:
        The state dict of the model without LoRA, in the types of its weights.

    Raises:
        CheckpointError: There are matrices without the weights that they change, more than one adapter, or settings
            that are missing or not supported.
    """
    pairs = lora_pairs(state, source)
    plain = without_wrappers({name: value for name, value in state.items() if not MATRIX.fullmatch(name)})
    if left := [name for name in plain if "lora_" in name]:
        raise CheckpointError(f"{source} holds {left[0]!r}, a kind of LoRA that is not supported; {ADVICE}.")
    if missing := [layer for layer in pairs if f"{layer}.weight" not in plain]:
        raise CheckpointError(
            f"{source} holds the LoRA matrices of {missing[0]!r} without the weight that they change, expected both; "
            f"{ADVICE}."
        )
    if not pairs:
        return plain
    alpha = read_alpha(notes, source)
    for layer, (down, up) in pairs.items():
        weight = plain[f"{layer}.weight"]
        if down.ndim != 2 or up.ndim != 2 or (up.shape[0], down.shape[1]) != weight.shape or up.shape[1] != len(down):
            raise CheckpointError(
                f"{source}: the LoRA matrices of {layer!r} have shapes {list(down.shape)} and {list(up.shape)}, which "
                f"do not make one of {list(weight.shape)}; {ADVICE}."
            )
        merged = weight.float() + alpha / len(down) * (up.float() @ down.float())
        plain[f"{layer}.weight"] = merged.to(weight.dtype)
    return plain


def lora_pairs(state: Mapping[str, Tensor], source: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the matrices A and B by the name of the layer that they change."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := MATRIX.fullmatch(name):
            of_layer = sides.setdefault(match["layer"], {})
            if match["side"] in of_layer:
                raise CheckpointError(f"{source} holds several LoRA adapters for {match['layer']!r}; {ADVICE}.")
            of_layer[match["side"]] = value
    for layer, of_layer in sides.items():
        if len(of_layer) == 1:
            raise CheckpointError(f"{source} holds one LoRA matrix for {layer!r}, expected A and B; {ADVICE}.")
    return {layer: (of_layer["A"], of_layer["B"]) for layer, of_layer in sides.items()}


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove PEFT's `base_layer` from names, and take what was trained whole in place of the original module."""
    trained = re.compile(r"\.modules_to_save\.[^.]+\.")
    plain = {name.replace(".base_layer.", "."): value for name, value in state.items() if not trained.search(name)}
    plain = {name.replace(".original_module.", "."): value for name, value in plain.items()}
    return plain | {trained.sub(".", name): value for name, value in state.items() if trained.search(name)}


def read_alpha(notes: Iterable[Mapping[Any, Any]], source: str) -> float:
    """Return the `lora_alpha` in PEFT's settings, with which no unsupported one may stand."""
    for note in notes:
        alpha = note.get("lora_alpha")
        if isinstance(alpha, int | float) and not isinstance(alpha, bool) and abs(alpha) < 1e6:
            if used := [key for key in UNSUPPORTED if note.get(key)]:
                raise CheckpointError(f"{source} uses LoRA with {used[0]}, which is not supported; {ADVICE}.")
            return float(alpha)
    raise CheckpointError(
        f"{source} holds LoRA matrices and no lora_alpha, which scales them; put PEFT's adapter_config.json beside it, "
        f"or {ADVICE}."
    )

"""Mixed precision: each layer gets a width, such that the sum of measured losses is smallest within a budget."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.progress import Progress, silent
from d4c.quantization.formats.packing import packed_size
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.layer_patterns import matches_any
from d4c.quantization.placement import Plan
from d4c.quantization.sensitivity.probe import Probe

CHOICES = (3, 4, 5, 6, 8)
"""Bits per weight that a layer may get; the time to measure grows with their number."""

Sizes = Mapping[str, Mapping[int, int]]
"""Sizes by layer and width."""


def allocate(losses: Mapping[str, Mapping[int, float]], sizes: Sizes, budget: int) -> dict[str, int]:
    """Choose one width per layer with the smallest sum of losses whose sizes fit a budget.

    The choice is exact: layer by layer, all sums are kept that no other sum beats in both size and loss (Nemhauser and
    Ullmann, Management Science 15, 1969). For the few shapes of a CLIP's layers these are some thousands.

    Args:
        losses: Loss by layer and width.
        sizes: Size by layer and width, in any unit.
        budget: Largest sum of sizes, in the same unit.

    Returns:
        Width by layer, in the order of `losses`.

    Raises:
        SettingError: Not even the smallest widths fit.
    """
    # The least that the layers still to come can take.
    remaining = sum(min(by_width.values()) for by_width in sizes.values())
    if remaining > budget:
        raise SettingError(f"The budget is {budget}, but the smallest choice takes {remaining}; give at least that.")
    size, loss = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    for name, by_width in losses.items():
        widths = list(by_width)
        remaining -= min(sizes[name].values())
        sums = np.concatenate([size + sizes[name][width] for width in widths])
        costs = np.concatenate([loss + by_width[width] for width in widths])
        order = np.lexsort((costs, sums))
        order = order[sums[order] <= budget - remaining]
        cheapest_smaller = np.minimum.accumulate(np.concatenate([[np.inf], costs[order][:-1]]))
        order = order[costs[order] < cheapest_smaller]
        steps.append((name, widths, order, len(size)))
        size, loss = sums[order], costs[order]
    index = len(size) - 1  # of the sums that are left, the largest size has the smallest loss
    chosen = {}
    for name, widths, order, sums_before in reversed(steps):
        choice, index = divmod(int(order[index]), sums_before)
        chosen[name] = widths[choice]
    return {name: chosen[name] for name in losses}


@dataclass(frozen=True)
class Budget:
    """What the layers of a model may take together.

    Attributes:
        sizes: Bytes of the packed weights by layer and width. A layer that keeps its width has that one alone.
        bytes: What all of them may take.
    """

    sizes: Sizes
    bytes: int

    def free(self) -> Sizes:
        """The sizes of the layers whose width is to be chosen."""
        return {name: by_width for name, by_width in self.sizes.items() if len(by_width) > 1}


def budget_of(
    clip: CLIP,
    plan: Plan,
    scheme: Scheme,
    fixed: Collection[str],
    target_bits: float | None,
    target_bytes: int | None,
) -> Budget:
    """Say what a target leaves to the layers of a float model, from their shapes alone.

    Args:
        clip: The model.
        plan: Formats of its layers before their widths are chosen.
        scheme: One of the widths; the others are `CHOICES`.
        fixed: Patterns of layers that keep their width. Like the token table, which keeps its own, they count.
        target_bits: Mean bits per weight, or None.
        target_bytes: Bytes of all packed weights, or None; scales, biases and norms come on top of them.

    Returns:
        The budget.

    Raises:
        SettingError: The target is out of reach, or every choice stays below it.
    """
    widths = sorted({*CHOICES, scheme.weight_bits})
    formats = {name: entry.weights for name, entry in plan.items() if entry.weights is not None}
    layers = {name: clip.get_submodule(name) for name in formats}
    counts = {name: stored_weights(layer) for name, layer in layers.items()}
    sizes = {
        name: {
            bits: packed_size(counts[name], bits)
            for bits in (widths if is_free(name, layer, fixed) else [formats[name].num_bits])
        }
        for name, layer in layers.items()
    }
    listed = ", ".join(map(str, widths))
    choices = f"the exceptions of {clip.name!r} and widths of {listed} bits for the other layers"
    return Budget(sizes, _allowed(sizes, sum(counts.values()), target_bits, target_bytes, choices))


def _allowed(sizes: Sizes, weights: int, target_bits: float | None, target_bytes: int | None, choices: str) -> int:
    """The bytes that a target allows; raises SettingError for one that the sizes by layer and width do not reach."""
    low, high = (sum(pick(by_width.values()) for by_width in sizes.values()) for pick in (min, max))
    bits_per_byte = 8 / weights  # mean bits per weight that one byte of all packed weights stands for
    if target_bits is not None:
        budget, target = target_bits / bits_per_byte, f"{target_bits} bits per weight"
        reach = f"{ceil(100 * low * bits_per_byte) / 100:.2f} to {floor(100 * high * bits_per_byte) / 100:.2f}"
    else:
        assert target_bytes is not None
        budget, target, reach = float(target_bytes), f"{target_bytes} bytes of weights", f"{low} to {high}"
    if not low <= budget <= high:
        raise SettingError(f"The target is {target}, expected {reach} with {choices}; choose one of these.")
    return floor(budget)


def stored_weights(layer: nn.Module) -> int:
    """How many codes an artifact holds for a float layer; rows of a token table that are zero are left out."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return int(weight.any(1).sum()) * weight.shape[1] if isinstance(layer, nn.Embedding) else weight.numel()


def is_free(name: str, layer: nn.Module, fixed: Collection[str]) -> bool:
    """Whether a layer may get another width: it is not the token table, and no pattern of `fixed` matches it."""
    return not isinstance(layer, nn.Embedding) and not matches_any(fixed, name)


def mixed_overrides(probe: Probe, scheme: Scheme, budget: Budget, progress: Progress = silent) -> dict[str, Scheme]:
    """Give each layer a width by its measured loss, such that all weights fit a budget.

    The loss of a layer at a width is its divergence alone; losses are summed as if layers did not interact.

    Args:
        probe: Measures the model.
        scheme: Bits of activations.
        budget: What the widths of each layer take, and what all may take.
        progress: Called with the divergences measured and their number.

    Returns:
        Overrides for the layers whose width is not that of the scheme.
    """
    free = budget.free()
    runs = sum(map(len, free.values()))
    losses = probe.alone(free, lambda done: progress(done, runs))
    fixed_size = sum(size for name in budget.sizes.keys() - free.keys() for size in budget.sizes[name].values())
    chosen = allocate(losses, free, budget.bytes - fixed_size)
    others = {name: bits for name, bits in chosen.items() if bits != scheme.weight_bits}
    return {pattern: Scheme(bits, scheme.activation_bits) for pattern, bits in patterns(others).items()}


def patterns(widths: Mapping[str, int]) -> dict[str, int]:
    """Turn widths by layer into widths by pattern, one for all blocks of a width: image.blocks.{0,3}.attn.q."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for name, bits in widths.items():
        head, *block = re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1)
        number, tail = block or ("", "")
        groups.setdefault((head, tail, bits), []).append(number)
    by_pattern = {}
    for (head, tail, bits), numbers in groups.items():
        middle = numbers[0] if len(numbers) == 1 else f"{{{','.join(numbers)}}}"
        by_pattern[head + middle + tail] = bits
    return by_pattern

"""Mixed precision: one width a layer, the smallest sum of measured losses that fits a budget."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import ceil, floor

import numpy as np

from d4c.errors import SettingError
from d4c.progress import Progress, silent
from d4c.quantization.formats.packing import packed_size
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.quantized_layers import QuantizedEmbedding, QuantizedLayer
from d4c.quantization.sensitivity.measure import Probe, quantized_layers

CHOICES = (3, 4, 5, 6, 8)
"""Bits a weight that a layer may get; the time to measure grows with their number."""


def allocate(
    losses: Mapping[str, Mapping[int, float]], sizes: Mapping[str, Mapping[int, int]], budget: int
) -> dict[str, int]:
    """The choice of one width for each layer with the smallest sum of losses whose sizes sum to `budget` or less.

    `losses` and `sizes` are by layer and width. Exact: layer by layer, all sums that no other sum beats in both size
    and loss are kept (Nemhauser and Ullmann 1969), which for the few shapes of a CLIP's layers are some thousands.
    Raises SettingError where not even the smallest choice fits.
    """
    # What the layers that are still to come take at least.
    rest = sum(min(own.values()) for own in sizes.values())
    if rest > budget:
        raise SettingError(f"The budget is {budget}, but the smallest choice takes {rest}; give at least that.")
    size, loss = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    for name, own in losses.items():
        widths = list(own)
        rest -= min(sizes[name].values())
        sums = np.concatenate([size + sizes[name][width] for width in widths])
        costs = np.concatenate([loss + own[width] for width in widths])
        order = np.lexsort((costs, sums))
        order = order[sums[order] <= budget - rest]
        cheapest_before = np.minimum.accumulate(np.concatenate([[np.inf], costs[order][:-1]]))
        order = order[costs[order] < cheapest_before]
        steps.append((name, widths, order, len(size)))
        size, loss = sums[order], costs[order]
    place = len(size) - 1  # of the sums that are left, the largest size has the smallest loss
    chosen = {}
    for name, widths, order, before in reversed(steps):
        choice, place = divmod(int(order[place]), before)
        chosen[name] = widths[choice]
    return {name: chosen[name] for name in losses}


def mixed_overrides(
    probe: Probe,
    scheme: Scheme,
    fixed: Collection[str],
    target_bits: float | None,
    target_bytes: int | None,
    progress: Progress = silent,
) -> dict[str, Scheme]:
    """Overrides that give each layer its width, so that all weights fit a target: mean bits, or bytes when packed.

    The width of a layer is the scheme's or one of `CHOICES`; the token table and layers that a pattern of `fixed`
    matches keep theirs and count. Scales, biases and norms come on top of the bytes. The loss of a layer at a width is
    its divergence alone; losses are summed as if layers did not interact. Raises SettingError for a target that no
    choice reaches or that every choice stays below.
    """
    layers = quantized_layers(probe.quantized)
    widths = sorted({*CHOICES, scheme.weight_bits})
    sizes = {
        name: {
            bits: packed_size(layer.stored_weights(), bits)
            for bits in (widths if is_free(name, layer, fixed) else [layer.weight_args.num_bits])
        }
        for name, layer in layers.items()
    }
    low, high = (sum(pick(own.values()) for own in sizes.values()) for pick in (min, max))
    bits_a_byte = 8 / sum(layer.stored_weights() for layer in layers.values())
    if target_bits is not None:
        budget, given = target_bits / bits_a_byte, f"{target_bits} bits a weight"
        reach = f"{ceil(100 * low * bits_a_byte) / 100:.2f} to {floor(100 * high * bits_a_byte) / 100:.2f}"
    else:
        assert target_bytes is not None
        budget, given, reach = float(target_bytes), f"{target_bytes} bytes of weights", f"{low} to {high}"
    if not low <= budget <= high:
        raise SettingError(
            f"The target is {given}, expected {reach} with the exceptions of {probe.quantized.name!r} and widths of "
            f"{', '.join(map(str, widths))} bits for the other layers; choose one of these."
        )
    free = {name: own for name, own in sizes.items() if len(own) > 1}
    runs = sum(map(len, free.values()))
    losses = probe.alone(free, lambda done: progress(done, runs))
    held = sum(size for name in sizes.keys() - free.keys() for size in sizes[name].values())
    chosen = allocate(losses, free, floor(budget) - held)
    others = {name: bits for name, bits in chosen.items() if bits != scheme.weight_bits}
    return {pattern: Scheme(bits, scheme.activation_bits) for pattern, bits in patterns(others).items()}


def is_free(name: str, layer: QuantizedLayer, fixed: Collection[str]) -> bool:
    return not isinstance(layer, QuantizedEmbedding) and not any(re.fullmatch(pattern, name) for pattern in fixed)


def patterns(widths: Mapping[str, int]) -> dict[str, int]:
    r"""Layer widths as patterns over layer names, blocks of one width together: image\.blocks\.(0|3)\.attn\.q."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for name, bits in widths.items():
        head, *block = re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1)
        number, tail = block or ("", "")
        groups.setdefault((head, tail, bits), []).append(number)
    out = {}
    for (head, tail, bits), numbers in groups.items():
        middle = numbers[0] if len(numbers) == 1 else f"({'|'.join(numbers)})"
        out[re.escape(head) + middle + re.escape(tail)] = bits
    return out

"""Sensitivity: what each quantized layer costs.

The cost is the divergence of the zero-shot distribution over generic prompts from that of the float model, in nats, the
mean over calibration images (`d4c.zeroshot.divergence`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.quantization.config import QuantizeConfig
from d4c.quantization.formats.scheme import Scheme, check_bits
from d4c.quantization.layers.quantized_weight import weighted_layers
from d4c.quantization.placement import LayerPlan
from d4c.quantization.sensitivity.prepared import prepared_probe
from d4c.quantization.sensitivity.probe import NO_WEIGHTS

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

WIDTHS = (4, 6, 8)
"""Bits per weight that layers are measured at; every runtime stores these without waste."""
PREPARING, MEASURING = 3.0, 30.0
"""About how long each part of the work takes relative to the others, for the progress."""


@dataclass(frozen=True)
class LayerSensitivity:
    """The cost of one layer, in nats.

    Attributes:
        name: Name of the layer in the CLIP.
        scheme: Its formats, such as W4A8, or A8 for a product of two activations.
        weights: How many weights an artifact stores for it; 0 for a product of two activations.
        alone: Divergence of the float model with only this layer quantized, weights and inputs, by the scheme.
        by_width: The same with its weights at other bits; empty for a layer without weights.
        recovery: By how much the divergence of the whole quantized model falls when only this layer stays in float.
            Layers interact, so it can be negative.
    """

    name: str
    scheme: str
    weights: int
    alone: float
    by_width: dict[int, float]
    recovery: float

    @property
    def tower(self) -> str:
        """The tower of the layer, "image" or "text"."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """The name without the number of the block; layers of one kind do the same work at different depths."""
        return re.sub(r"\.\d+\.", ".*.", self.name)


GROUPS: dict[str, Callable[[LayerSensitivity], str]] = {"tower": lambda x: x.tower, "kind": lambda x: x.kind}
"""What costs are summed by, in reports."""


@dataclass(frozen=True)
class Sensitivity:
    """The result of `measure_sensitivity`.

    Attributes:
        model: Name of the CLIP.
        scheme: Bits of weights and activations, such as W4A8.
        images: How many calibration images the costs are a mean over.
        prompts: How many prompts the distribution is over.
        divergence: Divergence of the whole quantized model, in nats.
        towers: Divergence of the model with only one tower quantized, by tower.
        layers: The costs of all quantized layers.
    """

    model: str
    scheme: str
    images: int
    prompts: int
    divergence: float
    towers: dict[str, float]
    layers: tuple[LayerSensitivity, ...]

    def ranked(self) -> list[LayerSensitivity]:
        """The layers by the divergence that each causes alone, the largest first."""
        return sorted(self.layers, key=lambda layer: -layer.alone)

    def sums(self, key: Callable[[LayerSensitivity], str]) -> dict[str, tuple[int, float, float]]:
        """Sum the costs over groups of layers.

        Args:
            key: Gives the group of a layer, such as a function of `GROUPS`.

        Returns:
            Weights, divergence alone and recovery by group, the costliest group first.
        """
        groups: dict[str, list[LayerSensitivity]] = {}
        for layer in self.layers:
            groups.setdefault(key(layer), []).append(layer)
        rows = {
            name: (sum(x.weights for x in group), sum(x.alone for x in group), sum(x.recovery for x in group))
            for name, group in groups.items()
        }
        return dict(sorted(rows.items(), key=lambda item: -item[1][1]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of all numbers, the costliest layer first."""
        sums = {
            f"by_{title}": {
                name: dict(zip(("weights", "alone", "recovery"), row, strict=True))
                for name, row in self.sums(key).items()
            }
            for title, key in GROUPS.items()
        }
        return {**asdict(self), **sums, "layers": [asdict(layer) for layer in self.ranked()]}


def measure_sensitivity(
    clip: CLIP,
    calibration: CalibrationSet,
    scheme: str | Scheme = QuantizeConfig.scheme,
    *,
    widths: Sequence[int] = WIDTHS,
    prompts: Sequence[str] | None = None,
    progress: Report = "auto",
) -> Sensitivity:
    """Measure what every layer of both towers costs, quantized on the deployable track without reconstruction.

    Each layer is quantized alone in the float model, at the scheme's bits and at each of `widths`, and is left in float
    alone in the quantized model.

    Args:
        clip: The float CLIP, which is not changed.
        calibration: Images that ranges are chosen on and divergences are measured on.
        scheme: Bits of weights and activations, such as "W4A8".
        widths: Bits per weight that each layer is measured at as well.
        prompts: Prompts of the ranges and of the distribution; by default 180 generic ones, each of another noun.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The costs of all layers, in nats.

    Raises:
        SettingError: The scheme or a width is not valid.
        DataError: The calibration images or the prompts cannot be used.
    """
    scheme = Scheme.parse(scheme)
    for bits in widths:
        check_bits(bits, "The width to measure")
    with reporting(progress, f"measure {scheme}") as report:
        report(0, WHOLE)
        sensitivity = _measure(clip, calibration, scheme, widths, prompts, report)
        report(WHOLE, WHOLE)
    return sensitivity


def _measure(
    clip: CLIP,
    calibration: CalibrationSet,
    scheme: Scheme,
    widths: Sequence[int],
    prompts: Sequence[str] | None,
    progress: Progress,
) -> Sensitivity:
    """`measure_sensitivity` with checked settings."""
    preparing, measuring = parts(progress, [PREPARING, MEASURING])
    probe, plan = prepared_probe(clip, calibration, scheme, prompts, preparing)
    weight_bits = {name: entry.weights.num_bits if entry.weights else NO_WEIGHTS for name, entry in plan.items()}
    choices = {name: sorted({*widths, bits} if bits else {NO_WEIGHTS}) for name, bits in weight_bits.items()}
    runs = sum(map(len, choices.values()))
    steps = runs + len(plan)
    alone = probe.alone(choices, lambda done: measuring(done, steps))
    without = probe.without(plan, lambda done: measuring(runs + done, steps))
    whole = probe.divergence()
    layers = weighted_layers(probe.quantized)
    return Sensitivity(
        model=clip.name,
        scheme=str(scheme),
        images=probe.samples("image"),
        prompts=probe.samples("text"),
        divergence=whole,
        towers={tower: probe.divergence((tower,)) for tower in TOWERS},
        layers=tuple(
            LayerSensitivity(
                name=name,
                scheme=_formats(plan[name]),
                weights=layers[name].stored_weights() if bits else 0,
                alone=alone[name][bits],
                by_width=alone[name] if bits else {},
                recovery=whole - without[name],
            )
            for name, bits in weight_bits.items()
        ),
    )


def _formats(entry: LayerPlan) -> str:
    """The formats of a layer like a scheme: W4A8, or W8 for a token table and A8 for a product of activations."""
    weights = [f"W{entry.weights.num_bits}"] if entry.weights else []
    return "".join(weights + [f"A{args.num_bits}" for args in entry.inputs[:1]])

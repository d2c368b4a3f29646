"""What each quantized layer costs: by how much the model diverges from the float one, the mean over calibration images.

`d4c.zeroshot.divergence` says what is measured: the zero-shot distribution over generic prompts, in nats.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d4c.calibration.prompts import NOUNS, generic_prompts
from d4c.models.clip import CLIP, TOWERS
from d4c.models.tower import replace_module
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.quantization.calibrate import prepare
from d4c.quantization.config import QuantizeConfig
from d4c.quantization.formats.scheme import Scheme, check_bits
from d4c.quantization.placement import LayerPlan, default_overrides, make_plan
from d4c.quantization.preparation import calibration_inputs, with_ranges, working_copy
from d4c.quantization.quantized_layers import QuantizedLayer
from d4c.quantization.stages import Stage, stages
from d4c.zeroshot.divergence import divergence, log_distribution

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

Step = Callable[[int], None]
WIDTHS = (4, 6, 8)
"""Bits a weight that every runtime stores without waste, and that layers are measured at."""
BATCH = 64
"""Images that go through the tower at once."""
NO_WEIGHTS = 0
"""In the place of bits a weight, for a product of two activations."""


@dataclass(frozen=True)
class LayerSensitivity:
    """The cost of one layer in nats; for a product of two activations `weights` is 0 and there are no widths.

    `alone` is the divergence when only this layer is quantized, weights and inputs, as the scheme says; `by_width` the
    same with its weights at other bits. `recovery` is by how much the divergence of the whole quantized model falls
    when only this layer is left in float; interaction can make it negative.
    """

    name: str
    scheme: str
    weights: int
    alone: float
    by_width: dict[int, float]
    recovery: float

    @property
    def tower(self) -> str:
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """The name without the number of the block: layers of one kind do the same work at another depth."""
        return re.sub(r"\.\d+\.", ".*.", self.name)


GROUPS: dict[str, Callable[[LayerSensitivity], str]] = {"tower": lambda x: x.tower, "kind": lambda x: x.kind}
"""What costs are summed by."""


@dataclass(frozen=True)
class Sensitivity:
    """What `measure_sensitivity` found; `divergence` is that of the whole quantized model, `towers` of each alone."""

    model: str
    scheme: str
    images: int
    prompts: int
    divergence: float
    towers: dict[str, float]
    layers: tuple[LayerSensitivity, ...]

    def ranked(self) -> list[LayerSensitivity]:
        """The layers, the costliest first."""
        return sorted(self.layers, key=lambda layer: -layer.alone)

    def sums(self, key: Callable[[LayerSensitivity], str]) -> dict[str, tuple[int, float, float]]:
        """Weights, divergence alone and recovery, each summed over the layers of one `key`, the costliest first."""
        groups: dict[str, list[LayerSensitivity]] = {}
        for layer in self.layers:
            groups.setdefault(key(layer), []).append(layer)
        found = {
            name: (sum(x.weights for x in group), sum(x.alone for x in group), sum(x.recovery for x in group))
            for name, group in groups.items()
        }
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of every number, the costliest layer first."""
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
    """Measure every layer of both towers, quantized by the deployable track with ranges only.

    Each layer is measured alone in the float model, at the scheme's bits and at each of `widths`, and left out of the
    quantized one.

    Args:
        clip: The float model, which is left as it is.
        calibration: Images that fit the model.
        scheme: Bits such as "W4A8".
        widths: Bits of weights that each layer is also measured at.
        prompts: What the ranges and the distribution are of, by default 180 generic ones, each of another noun.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        What each layer costs, in nats.

    Raises:
        SettingError: for an invalid scheme or width.
        DataError: for unusable calibration data.
    """
    scheme = Scheme.parse(scheme)
    for bits in widths:
        check_bits(bits, "a width to measure")
    with reporting(progress, f"measure {scheme}") as report:
        report(0, WHOLE)
        sensitivity = _measure(clip, calibration, scheme, widths, prompts, report)
        report(WHOLE, WHOLE)
    return sensitivity


FOLDING, RANGES, MEASURING = 1.0, 2.0, 30.0
"""About how long a piece of the work takes relative to the others, for the progress."""


def _measure(
    clip: CLIP,
    calibration: CalibrationSet,
    scheme: Scheme,
    widths: Sequence[int],
    prompts: Sequence[str] | None,
    progress: Progress,
) -> Sensitivity:
    """`measure_sensitivity` by checked settings."""
    folding, ranging, measuring = parts(progress, [FOLDING, RANGES, MEASURING])
    float_clip = working_copy(clip, "deployable")
    texts = generic_prompts(len(NOUNS)) if prompts is None else prompts
    pixels, tokens = calibration_inputs(float_clip, calibration, texts, soften=True)
    plan = make_plan(float_clip, scheme, "deployable", default_overrides(float_clip, "deployable"))
    prepare(float_clip, pixels, tokens, TOWERS, plan, folding)
    quantized = with_ranges(float_clip, plan, "deployable", pixels, tokens, TOWERS, progress=ranging)
    probe = Probe(float_clip, quantized, pixels, tokens)
    bits_of = {name: entry.weights.num_bits if entry.weights else NO_WEIGHTS for name, entry in plan.items()}
    choices = {name: sorted({*widths, own} if own else {NO_WEIGHTS}) for name, own in bits_of.items()}
    runs = sum(map(len, choices.values()))
    steps = runs + len(plan)
    alone = probe.alone(choices, lambda done: measuring(done, steps))
    without = probe.without(plan, lambda done: measuring(runs + done, steps))
    whole = probe.divergence()
    layers = quantized_layers(quantized)
    return Sensitivity(
        model=clip.name,
        scheme=str(scheme),
        images=len(pixels),
        prompts=len(tokens),
        divergence=whole,
        towers={tower: probe.divergence((tower,)) for tower in TOWERS},
        layers=tuple(
            LayerSensitivity(
                name=name,
                scheme=shown(plan[name]),
                weights=layers[name].stored_weights() if own else 0,
                alone=alone[name][own],
                by_width=alone[name] if own else {},
                recovery=whole - without[name],
            )
            for name, own in bits_of.items()
        ),
    )


def quantized_layers(clip: CLIP) -> dict[str, QuantizedLayer]:
    return {name: module for name, module in clip.named_modules() if isinstance(module, QuantizedLayer)}


def shown(entry: LayerPlan) -> str:
    """A layer's formats like a scheme: W4A8, or W8 for a table and A8 for a product of activations."""
    weights = [f"W{entry.weights.num_bits}"] if entry.weights else []
    return "".join(weights + [f"A{args.num_bits}" for args in entry.inputs[:1]])


class Probe:
    """Divergences of models that differ in one layer: the float one with a quantized layer, and the other way round.

    `reference` is the float CLIP that `quantized` was converted from, folded alike. Neither is changed.
    """

    @torch.no_grad()
    def __init__(self, reference: CLIP, quantized: CLIP, pixels: Tensor, tokens: Tensor) -> None:
        self.reference, self.quantized = reference, quantized
        text = [reference.text.crop(part) for part in reference.text.batches(tokens, BATCH)]
        self.inputs = {"image": list(pixels.split(BATCH)), "text": text}
        self.chains: dict[str, list[Stage]] = {tower: stages(reference, tower) for tower in TOWERS}
        self.features = {
            (tower, converted): self._rest(tower, 0, clip, self.inputs[tower])
            for tower in TOWERS
            for converted, clip in ((False, reference), (True, quantized))
        }
        self.expected = self._log_p(*(self.features[tower, False] for tower in TOWERS))

    def divergence(self, towers: Sequence[str] = TOWERS) -> float:
        """Divergence of the model with these towers quantized."""
        return self._divergence(*(self.features[tower, tower in towers] for tower in TOWERS))

    def alone(self, widths: Mapping[str, Iterable[int]], step: Step = lambda _: None) -> dict[str, dict[int, float]]:
        """Divergence of the float model with one layer quantized, by layer and bits a weight (`NO_WEIGHTS` if none)."""

        def variants(name: str) -> Iterator[tuple[int, nn.Module]]:
            module = self.quantized.get_submodule(name)
            for bits in widths[name]:
                yield bits, at_width(module, bits) if isinstance(module, QuantizedLayer) else module

        return self._scan(widths, False, variants, step)

    def without(self, names: Iterable[str], step: Step = lambda _: None) -> dict[str, float]:
        """Divergence of the quantized model with one layer in float, by layer."""
        found = self._scan(names, True, lambda name: [(NO_WEIGHTS, self.reference.get_submodule(name))], step)
        return {name: values[NO_WEIGHTS] for name, values in found.items()}

    @torch.no_grad()
    def _scan(
        self,
        names: Iterable[str],
        converted: bool,
        variants: Callable[[str], Iterable[tuple[int, nn.Module]]],
        step: Step,
    ) -> dict[str, dict[int, float]]:
        """Put each variant of each layer into one of the models; what runs before its stage is computed once."""
        clip, names, done = self.quantized if converted else self.reference, list(names), 0
        found: dict[str, dict[int, float]] = {name: {} for name in names}
        for tower in TOWERS:
            state = self.inputs[tower]
            for index, stage in enumerate(self.chains[tower]):
                for name in filter(stage.owns, names):
                    for bits, module in variants(name):
                        both = {side: self.features[side, converted] for side in TOWERS}
                        with swapped(clip, name, module):
                            both[tower] = self._rest(tower, index, clip, state)
                        found[name][bits] = self._divergence(both["image"], both["text"])
                        done += 1
                        step(done)
                state = self._run(tower, stage, clip, state)
        return found

    def _run(self, tower: str, stage: Stage, clip: CLIP, state: list[Tensor]) -> list[Tensor]:
        return [stage.run(clip, x, given) for x, given in zip(state, self.inputs[tower], strict=True)]

    def _rest(self, tower: str, index: int, clip: CLIP, state: list[Tensor]) -> Tensor:
        """Embeddings from the states, one a batch, that enter a stage."""
        for stage in self.chains[tower][index:]:
            state = self._run(tower, stage, clip, state)
        return torch.cat(state)

    def _log_p(self, images: Tensor, texts: Tensor) -> Tensor:
        return log_distribution(images, texts, self.reference.logit_scale)

    def _divergence(self, images: Tensor, texts: Tensor) -> float:
        return float(divergence(self._log_p(images, texts), self.expected).mean())


@contextmanager
def swapped(clip: CLIP, name: str, module: nn.Module) -> Iterator[None]:
    """Put a module in the place of another inside the block."""
    kept = clip.get_submodule(name)
    replace_module(clip, name, module)
    try:
        yield
    finally:
        replace_module(clip, name, kept)


def at_width(layer: QuantizedLayer, bits: int) -> QuantizedLayer:
    """A copy of a layer with its weights rounded to other bits."""
    other = copy.deepcopy(layer)
    other.weight_args = replace(layer.weight_args, num_bits=bits)
    other.calibrate_weight()
    return other

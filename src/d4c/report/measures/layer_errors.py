"""How much of each layer's output is noise after quantization: by the layer alone, and by all layers up to it.

With y the output of a layer in the float model and y' after quantization, the signal-to-noise ratio is
10 log10(sum y^2 / sum (y' - y)^2) in dB over all samples. "Alone" gives the layer its float inputs, "up to it" those
that the quantized layers before it give. Both models must be in one form (`prepare`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d4c.inspection.features import removed_after
from d4c.models.config import TOWERS
from d4c.progress import Progress, silent
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.stages import Stage, stages

if TYPE_CHECKING:
    from d4c.models.clip import CLIP
    from d4c.quantization.quantized import QuantizedCLIP

BATCH = 8
"""Samples whose outputs of all layers of a stage are held at a time."""
EXACT = 120.0
"""The ratio in dB of what is equal to float32 rounding."""


@dataclass(frozen=True)
class LayerError:
    """The signal-to-noise ratios of one layer in dB.

    Attributes:
        name: Name of the layer.
        tower: "image" or "text".
        weight_bits: Bits of its weights; 0 without weights.
        input_bits: Bits of its first input; 0 where that is not rounded.
        weights: How many weights an artifact stores for it.
        loud: Its loud input channels.
        alone: With float inputs, on calibration samples.
        by_weights: The same with only its weights rounded; None without weights.
        upto: With the inputs that the quantized layers before it give, on calibration samples.
        alone_on_others: As `alone`, on other samples; None where there are none.
        upto_on_others: As `upto`, on other samples.
        class_token: Whether the class token's row of its input has a range of its own at 8 bits.
    """

    name: str
    tower: str
    weight_bits: int
    input_bits: int
    weights: int
    loud: tuple[int, ...]
    alone: float
    by_weights: float | None
    upto: float
    alone_on_others: float | None
    upto_on_others: float | None
    class_token: bool = False

    @property
    def gap(self) -> float:
        """How much better the layer alone is on calibration samples than on others, in dB."""
        return 0.0 if self.alone_on_others is None else self.alone - self.alone_on_others


Samples = dict[str, Tensor]
"""Pixels [N, 3, S, S] and tokens [P, L] by the tower that reads them."""


class Noise:
    """Sums of squares of a layer's output and of three differences from it."""

    def __init__(self) -> None:
        self.signal = self.alone = self.by_weights = self.upto = 0.0

    def ratio(self, noise: float) -> float:
        """A signal-to-noise ratio in dB."""
        if noise <= 0:
            return EXACT
        return min(EXACT, 10 * math.log10(max(self.signal, 1e-30) / noise))


@torch.no_grad()
def layer_errors(
    reference: CLIP, quantized: QuantizedCLIP, samples: Samples, others: Samples, progress: Progress = silent
) -> tuple[LayerError, ...]:
    """Measure all quantized layers of both towers.

    Args:
        reference: The float model in the form that was quantized.
        quantized: The quantized model.
        samples: Calibration samples.
        others: Other samples, for one of the towers, both or none.
        progress: Called with thousandths of the work.

    Returns:
        The layers in the order in which they run.
    """
    errors = []
    jobs = [(tower, inputs) for tower in TOWERS for inputs in (samples, others) if tower in inputs]
    sums: list[dict[str, Noise]] = []
    for done, (tower, inputs) in enumerate(jobs, 1):
        sums.append(_noise(reference, quantized, tower, inputs[tower]))
        progress(done, len(jobs))
    by_job = {(tower, inputs is others): noise for (tower, inputs), noise in zip(jobs, sums, strict=True)}
    for tower in TOWERS:
        other = by_job.get((tower, True))
        for name, noise in by_job.get((tower, False), {}).items():
            errors.append(_error(quantized, name, noise, None if other is None else other[name]))
    return tuple(errors)


def _error(quantized: QuantizedCLIP, name: str, noise: Noise, other: Noise | None) -> LayerError:
    entry, layer = quantized.plan[name], quantized.get_submodule(name)
    return LayerError(
        name=name,
        tower=name.partition(".")[0],
        weight_bits=entry.weights.num_bits if entry.weights else 0,
        input_bits=entry.inputs[0].num_bits if entry.inputs else 0,
        weights=layer.stored_weights() if isinstance(layer, QuantizedLayer) else 0,
        loud=entry.loud_channels,
        alone=noise.ratio(noise.alone),
        by_weights=noise.ratio(noise.by_weights) if entry.weights else None,
        upto=noise.ratio(noise.upto),
        alone_on_others=None if other is None else other.ratio(other.alone),
        upto_on_others=None if other is None else other.ratio(other.upto),
        class_token=entry.class_token,
    )


def _noise(reference: CLIP, quantized: QuantizedCLIP, tower: str, inputs: Tensor) -> dict[str, Noise]:
    """Sums over all samples by layer, in the order in which the layers run."""
    noise: dict[str, Noise] = {}
    chain = stages(reference, tower)
    for batch in reference.tower(tower).batches(inputs, BATCH):
        batch = reference.tower(tower).crop(batch)
        state, rounded = batch, batch
        for stage in chain:
            names = [name for name in quantized.plan if stage.owns(name)]
            state, rounded = _run_both(reference, quantized, stage, names, state, rounded, batch, noise)
    return noise


def _run_both(
    reference: CLIP,
    quantized: QuantizedCLIP,
    stage: Stage,
    names: Sequence[str],
    state: Tensor,
    rounded: Tensor,
    batch: Tensor,
    noise: dict[str, Noise],
) -> tuple[Tensor, Tensor]:
    """Run a stage of both models, and add up what its layers give; returns both states after it."""
    outputs: dict[str, Tensor] = {}

    def see_float(name: str, _: nn.Module, given: tuple[Any, ...], y: Tensor) -> None:
        sums, layer = noise.setdefault(name, Noise()), quantized.get_submodule(name)
        outputs[name] = y
        sums.signal += _energy(y)
        sums.alone += _energy(layer(*given) - y)
        if isinstance(layer, QuantizedLayer):
            with float_inputs(layer):
                sums.by_weights += _energy(layer(*given) - y)

    def see_rounded(name: str, _: nn.Module, __: tuple[Any, ...], y: Tensor) -> None:
        noise[name].upto += _energy(y - outputs[name])

    with removed_after([reference.get_submodule(n).register_forward_hook(partial(see_float, n)) for n in names]):
        state = stage.run(reference, state, batch)
    with removed_after([quantized.get_submodule(n).register_forward_hook(partial(see_rounded, n)) for n in names]):
        rounded = stage.run(quantized, rounded, batch)
    return state, rounded


@contextmanager
def float_inputs(layer: nn.Module) -> Iterator[None]:
    """Pass the inputs of a layer on in float while the context lasts."""
    quantizers = [module for module in layer.modules() if isinstance(module, ActivationQuantizer)]
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.float())) ** 2

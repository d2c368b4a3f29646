"""Measures models that differ in one layer, and computes only once what they have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.tower import replace_module
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.stages import Stage, stages
from d4c.zeroshot.divergence import divergence, log_distribution

Step = Callable[[int], None]
BATCH = 64
"""Images or prompts that run through a tower at a time."""
NO_WEIGHTS = 0
"""Stands for the bits per weight of a product of two activations."""


class Probe:
    """Divergences of the float model with one layer quantized, and of the quantized model with one layer in float.

    Args:
        reference: The float CLIP that `quantized` was converted from.
        quantized: The converted CLIP, before its layers are frozen. Neither model is changed.
        pixels: Calibration pixels [N, 3, S, S].
        tokens: Tokens [P, L] of the prompts that the distribution is over.
    """

    @torch.no_grad()
    def __init__(self, reference: CLIP, quantized: CLIP, pixels: Tensor, tokens: Tensor) -> None:
        self.reference, self.quantized = reference, quantized
        text = [reference.text.crop(batch) for batch in reference.text.batches(tokens, BATCH)]
        self.inputs = {"image": list(pixels.split(BATCH)), "text": text}
        self.chains: dict[str, list[Stage]] = {tower: stages(reference, tower) for tower in TOWERS}
        self.features = {
            (tower, converted): self._rest(tower, 0, clip, self.inputs[tower])
            for tower in TOWERS
            for converted, clip in ((False, reference), (True, quantized))
        }
        self.expected = self._log_p(*(self.features[tower, False] for tower in TOWERS))

    def samples(self, tower: str) -> int:
        """The number of images or of prompts."""
        return sum(map(len, self.inputs[tower]))

    def divergence(self, towers: Sequence[str] = TOWERS) -> float:
        """Divergence in nats of the model with these towers quantized."""
        return self._divergence(*(self.features[tower, tower in towers] for tower in TOWERS))

    def alone(self, widths: Mapping[str, Iterable[int]], step: Step = lambda _: None) -> dict[str, dict[int, float]]:
        """Measure the float model with one layer quantized.

        Args:
            widths: Bits per weight that each layer is measured at, by layer; `NO_WEIGHTS` for one without weights.
            step: Called with how many divergences are measured.

        Returns:
            Divergence in nats by layer and bits per weight.
        """

        def variants(name: str) -> Iterator[tuple[int, nn.Module]]:
            module = self.quantized.get_submodule(name)
            for bits in widths[name]:
                yield bits, at_width(module, bits) if isinstance(module, QuantizedLayer) else module

        return self._scan(widths, False, variants, step)

    def with_features(self, tower: str, features: Tensor) -> float:
        """Divergence in nats of the float model with other embeddings [N, D] of one tower."""
        both = {other: self.features[other, False] for other in TOWERS} | {tower: features}
        return self._divergence(both["image"], both["text"])

    def without(self, names: Iterable[str], step: Step = lambda _: None) -> dict[str, float]:
        """Measure the quantized model with one layer in float.

        Args:
            names: The layers to leave in float, one at a time.
            step: Called with how many divergences are measured.

        Returns:
            Divergence in nats by layer.
        """
        divergences = self._scan(names, True, lambda name: [(NO_WEIGHTS, self.reference.get_submodule(name))], step)
        return {name: values[NO_WEIGHTS] for name, values in divergences.items()}

    @torch.no_grad()
    def _scan(
        self,
        names: Iterable[str],
        converted: bool,
        variants: Callable[[str], Iterable[tuple[int, nn.Module]]],
        step: Step,
    ) -> dict[str, dict[int, float]]:
        """Put each variant of each layer into one of the models; the stages before the layer are computed only once."""
        clip, names, done = self.quantized if converted else self.reference, list(names), 0
        divergences: dict[str, dict[int, float]] = {name: {} for name in names}
        for tower in TOWERS:
            state = self.inputs[tower]
            for index, stage in enumerate(self.chains[tower]):
                for name in filter(stage.owns, names):
                    for bits, module in variants(name):
                        features = {other: self.features[other, converted] for other in TOWERS}
                        with swapped(clip, name, module):
                            features[tower] = self._rest(tower, index, clip, state)
                        divergences[name][bits] = self._divergence(features["image"], features["text"])
                        done += 1
                        step(done)
                state = self._run(tower, stage, clip, state)
        return divergences

    def _run(self, tower: str, stage: Stage, clip: CLIP, state: list[Tensor]) -> list[Tensor]:
        return [stage.run(clip, x, inputs) for x, inputs in zip(state, self.inputs[tower], strict=True)]

    def _rest(self, tower: str, index: int, clip: CLIP, state: list[Tensor]) -> Tensor:
        """Embeddings [N, D] from the states that enter a stage, one per batch."""
        for stage in self.chains[tower][index:]:
            state = self._run(tower, stage, clip, state)
        return torch.cat(state)

    def _log_p(self, images: Tensor, texts: Tensor) -> Tensor:
        return log_distribution(images, texts, self.reference.logit_scale)

    def _divergence(self, images: Tensor, texts: Tensor) -> float:
        return float(divergence(self._log_p(images, texts), self.expected).mean())


@contextmanager
def swapped(clip: CLIP, name: str, module: nn.Module) -> Iterator[None]:
    """Replace a layer while the context lasts."""
    original = clip.get_submodule(name)
    replace_module(clip, name, module)
    try:
        yield
    finally:
        replace_module(clip, name, original)


def at_width(layer: QuantizedLayer, bits: int) -> QuantizedLayer:
    """A copy of a layer with its weights rounded to nearest at other bits."""
    copied = copy.deepcopy(layer)
    copied.weight_args = replace(layer.weight_args, num_bits=bits)
    copied.calibrate_weight()
    return copied

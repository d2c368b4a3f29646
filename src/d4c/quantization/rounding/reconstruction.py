"""Rebuilds a quantized tower from front to back, unit by unit.

A unit is one layer or one whole stage; layers that share an input quantizer count as one layer. Its inputs come from
the quantized model, rebuilt up to there, its targets from the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from d4c.compiled import lacks_memory
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.progress import Progress, parts, silent
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.rounding.config import ReconstructionConfig
from d4c.quantization.rounding.gptq import GPTQ, Layer
from d4c.quantization.rounding.importance import embedding_error, token_importance, zeroshot_error
from d4c.quantization.rounding.optimization import Unit, optimize
from d4c.quantization.rounding.resume import Checkpoint, set_stage_state, stage_state
from d4c.quantization.stages import Stage, record_input, record_output, run_stage, stages

UnitKind = Literal["layer", "block", "gptq"]
SOLVING, LEARNING = 1.0, 9.0
"""About how long the closed form and learning take for layers that share an input, for the progress."""


def reconstruct(
    quantized: CLIP,
    reference: CLIP,
    tower: str,
    inputs: Tensor,
    unit_of: Callable[[Stage], UnitKind],
    config: ReconstructionConfig,
    seed: int = 0,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Rebuild one tower in place, from front to back.

    Args:
        quantized: The converted CLIP, with its ranges chosen and its weights rounded to nearest.
        reference: The float CLIP that `quantized` was converted from.
        tower: "image" or "text".
        inputs: Pixels [N, 3, S, S] or tokens [N, L].
        unit_of: Gives the kind of unit for a stage.
        config: How units are optimized.
        seed: Seed of each unit's random numbers.
        progress: Called with thousandths of the work.
        checkpoint: Holds stages that are already rebuilt, and saves those that become so.

    Raises:
        SettingError: The GPU has too little memory. When memory is short, the states of all samples move to the
            host's memory; the error says that not even this is enough.
    """
    inputs = reference.tower(tower).crop(inputs)
    scale_lr = config.text_scale_lr if tower == "text" else config.image_scale_lr
    weights: dict[str, Tensor] = {}
    if config.importance != "none" and tower == "image" and has_tokens(reference):
        error = embedding_error if config.importance == "embedding" else zeroshot_error(reference)
        weights = token_importance(quantized, reference, inputs, error)
    walk = _Walk(quantized, reference, inputs, config, scale_lr, seed, weights, checkpoint)
    chain = stages(quantized, tower)
    for stage, stage_progress in zip(chain, parts(progress, [1] * len(chain)), strict=True):
        walk.pass_stage(stage, unit_of(stage), stage_progress)
        stage_progress(1, 1)


class _Walk:
    """The way through a tower: both models, and the states of all samples before the next stage of each."""

    def __init__(
        self,
        quantized: CLIP,
        reference: CLIP,
        inputs: Tensor,
        config: ReconstructionConfig,
        scale_lr: float,
        seed: int,
        importance: Mapping[str, Tensor],
        checkpoint: Checkpoint | None,
    ) -> None:
        self.quantized, self.reference = quantized, reference
        self.inputs = self.state = self.float_state = inputs
        self.on_host = False
        self.config, self.scale_lr, self.seed = config, scale_lr, seed
        self.importance, self.checkpoint = importance, checkpoint
        self.gptq = GPTQ()

    def pass_stage(self, stage: Stage, kind: UnitKind, progress: Progress) -> None:
        """Rebuild a stage and move the states past it, once more with all states on the host if GPU memory is short."""
        initial = {name: tensor.clone() for name, tensor in stage_state(self.quantized, stage).items()}
        layers = [_layer(self.quantized, name) for name in trainable_layers(self.quantized, stage)]
        sources = [layer.float_weight for layer in layers]
        try:
            self._pass_stage(stage, kind, progress)
            return
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            if self.on_host:
                raise SettingError(
                    f"Rebuilding {stage.name} takes more GPU memory than is free, even with all activations in host "
                    "memory; choose a smaller batch_size, reconstruction='layer' or a larger device."
                ) from None
        set_stage_state(self.quantized, stage, initial)
        for layer, source in zip(layers, sources, strict=True):
            layer.float_weight = source
        self.inputs, self.state, self.float_state = self.inputs.cpu(), self.state.cpu(), self.float_state.cpu()
        self.on_host = True
        torch.cuda.empty_cache()
        self.pass_stage(stage, kind, progress)

    def _pass_stage(self, stage: Stage, kind: UnitKind, progress: Progress) -> None:
        target = run_stage(stage, self.reference, self.float_state, self.inputs)
        names = trainable_layers(self.quantized, stage)
        if names and not (self.checkpoint and self.checkpoint.restore(self.quantized, stage)):
            self._rebuild(stage, names, kind, target, progress)
            if self.checkpoint:
                self.checkpoint.save_if_due(self.quantized, stage)
        self.state = run_stage(stage, self.quantized, self.state, self.inputs)
        self.float_state = target

    def _rebuild(self, stage: Stage, names: list[str], kind: UnitKind, target: Tensor, progress: Progress) -> None:
        # A whole stage is learned from states alone, but the text head also reads where prompts end. It has one layer.
        whole = kind == "block" and not stage.reads_inputs
        jobs: list[tuple[float, Callable[[Progress], None]]] = []
        for group in _shared_inputs(self.quantized, names):
            if kind == "gptq" or self.config.closed_form_start:
                jobs.append((SOLVING, partial(self._solve, stage, group)))
            if kind != "gptq" and not whole:
                jobs.append((LEARNING, partial(self._learn_layers, stage, group)))
        if whole:
            jobs.append((LEARNING * max(1, len(jobs)), partial(self._learn_block, stage, names, target)))
        for (_, job), job_progress in zip(jobs, parts(progress, [cost for cost, _ in jobs]), strict=True):
            job(job_progress)

    def _solve(self, stage: Stage, names: list[str], progress: Progress) -> None:
        layers = [_layer(self.quantized, name) for name in names]
        inputs = record_input(stage, self.quantized, layers[0], self.state, self.inputs)
        live = _live(self.quantized, stage, self.inputs)
        self.gptq.solve(layers, inputs if live is None or inputs.ndim != 3 else inputs[live], progress)

    def _learn_layers(self, stage: Stage, names: list[str], progress: Progress) -> None:
        unit = _layer_unit(self.quantized, self.reference, stage, names, self.state, self.float_state, self.inputs)
        self._optimize(unit, names, progress)

    def _learn_block(self, stage: Stage, names: list[str], target: Tensor, progress: Progress) -> None:
        unit = _block_unit(self.quantized, stage, names, self.state, target, self.inputs)
        self._optimize(unit, [stage.name], progress)

    def _optimize(self, unit: Unit, outputs: list[str], progress: Progress) -> None:
        """Learn a unit, whose outputs are those of the layers or of the stage named `outputs`."""
        if all(name in self.importance for name in outputs):
            unit.importance = torch.cat([self.importance[name] for name in outputs], -1)
        optimize(unit, self.config, self.scale_lr, self.seed, progress)


def trainable_layers(clip: CLIP, stage: Stage) -> list[str]:
    """Names of the layers of a stage whose rounding is chosen: all that have weights, except the token table."""
    return [
        name
        for name, module in clip.named_modules()
        if stage.owns(name) and isinstance(module, QuantizedLinear | QuantizedConv2d)
    ]


def _shared_inputs(clip: CLIP, names: Sequence[str]) -> list[list[str]]:
    """Layers in groups that read the same tensor through the same quantizer."""
    shared = [(tower, group) for tower in TOWERS for group in clip.tower(tower).shared_inputs()]
    one_row = {f"{tower}.{layer}" for tower, group in shared for layer in group.of_one_row}
    groups: dict[tuple[int, bool], list[str]] = {}
    for name in names:
        # A layer that reads only one row of a shared tensor has another input than the others.
        key = id(_layer(clip, name).input_quantizer), name in one_row
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _layer(clip: CLIP, name: str) -> Layer:
    layer = clip.get_submodule(name)
    assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
    return layer


def _layer_unit(
    quantized: CLIP, reference: CLIP, stage: Stage, names: list[str], state: Tensor, float_state: Tensor, inputs: Tensor
) -> Unit:
    """A unit of layers that share an input, whose outputs are concatenated."""
    layers = [_layer(quantized, name) for name in names]
    quantizers = [part for part in layers[0].input_quantizer.modules() if isinstance(part, ActivationQuantizer)]
    layer_inputs = record_input(stage, quantized, layers[0], state, inputs)
    outputs = [record_output(stage, reference, reference.get_submodule(n), float_state, inputs) for n in names]
    channel = 1 if layer_inputs.ndim == 4 else -1
    return Unit(
        list(layers),
        quantizers,
        lambda x: torch.cat([layer(x) for layer in layers], channel),
        layer_inputs,
        torch.cat(outputs, channel),
        _live(quantized, stage, inputs) if layer_inputs.ndim == 3 else None,
    )


def _block_unit(quantized: CLIP, stage: Stage, names: list[str], state: Tensor, target: Tensor, inputs: Tensor) -> Unit:
    """A unit of a whole stage."""
    quantizers = [
        module
        for name, module in quantized.named_modules()
        if stage.owns(name) and isinstance(module, ActivationQuantizer)
    ]
    layers: list[QuantizedLayer] = [_layer(quantized, name) for name in names]
    live = _live(quantized, stage, inputs)
    return Unit(layers, quantizers, lambda x: stage.run(quantized, x, x), state, target, live)


def _live(clip: CLIP, stage: Stage, inputs: Tensor) -> Tensor | None:
    return clip.tower(stage.tower).live(inputs)


def has_tokens(clip: CLIP) -> bool:
    """Whether the states of the image tower are sequences of patches."""
    patches = clip.image.patches()
    return patches is not None and bool(patches.attentions)

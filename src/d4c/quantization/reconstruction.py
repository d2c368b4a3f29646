"""Rebuilding a quantized tower from front to back, unit by unit.

A unit is one layer (layers that share an input quantizer count as one) or one whole stage. Its inputs come from the
partly quantized model, its targets from the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.quantization.gptq import GPTQ, Layer
from d4c.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLayer, QuantizedLinear
from d4c.quantization.optimization import ReconstructionConfig, Unit, optimize
from d4c.quantization.stages import Stage, record_input, record_output, run_stage, stages

UnitKind = Literal["layer", "block", "gptq"]
Progress = Callable[[int, int], None]


def reconstruct(
    quantized: CLIP,
    reference: CLIP,
    tower: str,
    inputs: Tensor,
    unit_of: Callable[[str], UnitKind],
    config: ReconstructionConfig,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Rebuild one tower in place, from front to back.

    `inputs` are pixels [N, 3, S, S] or tokens [N, L]; `reference` is the float model that `quantized` was made
    from, folded alike; `unit_of` gives the kind of unit for a stage name.
    """
    if tower == "text":
        inputs = reference.text.crop(inputs)
    chain = stages(quantized, tower)
    float_state = state = inputs
    gptq = GPTQ()
    scale_lr = config.text_scale_lr if tower == "text" else config.image_scale_lr
    for index, stage in enumerate(chain):
        target = run_stage(stage, reference, float_state, inputs)
        names = trainable_layers(quantized, stage)
        kind = unit_of(stage.name)
        # The text head reads one position of each prompt and holds one layer.
        whole = kind == "block" and stage.name != "text.head"
        for group in _shared_inputs(quantized, names):
            if kind == "gptq" or config.closed_form_start:
                _solve(gptq, quantized, stage, group, state, inputs)
            if kind != "gptq" and not whole:
                unit = _layer_unit(quantized, reference, stage, group, state, float_state, inputs)
                optimize(unit, config, scale_lr, seed)
        if names and whole:
            optimize(_block_unit(quantized, stage, names, state, target, inputs), config, scale_lr, seed)
        state, float_state = run_stage(stage, quantized, state, inputs), target
        if progress:
            progress(index + 1, len(chain))


def trainable_layers(clip: CLIP, stage: Stage) -> list[str]:
    """Names of the layers of a stage whose rounding is learned: all with weights but the token table."""
    return [
        name
        for name, module in clip.named_modules()
        if stage.owns(name) and isinstance(module, QuantizedLinear | QuantizedConv2d)
    ]


def _shared_inputs(clip: CLIP, names: Sequence[str]) -> list[list[str]]:
    groups: dict[tuple[int, bool], list[str]] = {}
    for name in names:
        # The query of the attention pool is one position of what its keys and values read.
        key = id(_layer(clip, name).input_quantizer), name == "image.pool.q"
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _layer(clip: CLIP, name: str) -> Layer:
    layer = clip.get_submodule(name)
    assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
    return layer


def _layer_unit(
    quantized: CLIP, reference: CLIP, stage: Stage, names: list[str], state: Tensor, float_state: Tensor, inputs: Tensor
) -> Unit:
    layers = [_layer(quantized, name) for name in names]
    given = record_input(stage, quantized, layers[0], state, inputs)
    outputs = [record_output(stage, reference, reference.get_submodule(n), float_state, inputs) for n in names]
    channel = 1 if given.ndim == 4 else -1
    return Unit(
        list(layers),
        [layers[0].input_quantizer],
        lambda x: torch.cat([layer(x) for layer in layers], channel),
        given,
        torch.cat(outputs, channel),
        _live(quantized, stage, inputs) if given.ndim == 3 else None,
    )


def _solve(gptq: GPTQ, quantized: CLIP, stage: Stage, names: list[str], state: Tensor, inputs: Tensor) -> None:
    layers = [_layer(quantized, name) for name in names]
    given = record_input(stage, quantized, layers[0], state, inputs)
    live = _live(quantized, stage, inputs)
    gptq.solve(layers, given if live is None or given.ndim != 3 else given[live])


def _block_unit(quantized: CLIP, stage: Stage, names: list[str], state: Tensor, target: Tensor, inputs: Tensor) -> Unit:
    quantizers = [
        module
        for name, module in quantized.named_modules()
        if stage.owns(name) and isinstance(module, ActivationQuantizer)
    ]
    layers: list[QuantizedLayer] = [_layer(quantized, name) for name in names]
    live = _live(quantized, stage, inputs)
    return Unit(layers, quantizers, lambda x: stage.run(quantized, x, x), state, target, live)


def _live(clip: CLIP, stage: Stage, inputs: Tensor) -> Tensor | None:
    return clip.text.live(inputs) if stage.name.startswith("text.") and clip.text.trim else None

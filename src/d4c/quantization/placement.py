"""Which layers are quantized, and how: a plan by name, and the surgery that carries it out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP, TOWERS
from d4c.models.layers import Add, MatMul
from d4c.models.tower import Published, Slot, replace_module
from d4c.quantization.formats.scheme import W8A8, QuantArgs, Scheme, Track
from d4c.quantization.quantized_layers import (
    ActivationQuantizer,
    QuantizedAdd,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatMul,
    QuantizedPair,
)

PRODUCTS = (nn.Linear, nn.Conv2d, MatMul, nn.Embedding)
EIGHT_BIT_TOKENS = QuantArgs(8, True, "channel")


@dataclass(frozen=True)
class LayerPlan:
    """Formats of one module: its weights, if it has any, and each of its inputs."""

    weights: QuantArgs | None
    inputs: tuple[QuantArgs, ...]

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"input_activations": [args.to_dict() for args in self.inputs]}
        return out if self.weights is None else {"weights": self.weights.to_dict(), **out}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LayerPlan:
        weights = data.get("weights")
        inputs = tuple(QuantArgs.from_dict(item) for item in data["input_activations"])
        return LayerPlan(None if weights is None else QuantArgs.from_dict(weights), inputs)


Plan = dict[str, LayerPlan]


def default_overrides(clip: CLIP, track: Track) -> dict[str, Scheme]:
    """Exceptions to the scheme, as patterns over layer names; every one is listed in the artifact.

    Deployable: what each tower says holds 8 bits, such as the layers that see pixels or give the embedding. Paper:
    what the authors hold at 8 bits, the MLPs of the text tower.
    """
    overrides = {}
    for name in TOWERS:
        tower = clip.tower(name)
        patterns = tower.published.eight_bits if track == "paper" else tower.eight_bit_layers
        overrides.update({rf"{name}\.({p})" if "|" in p else rf"{name}\.{p}": W8A8 for p in patterns})
    return overrides


def make_plan(
    clip: CLIP,
    scheme: Scheme,
    track: Track,
    overrides: Mapping[str, Scheme],
    towers: Sequence[str] = TOWERS,
    safe_int8: bool = False,
) -> Plan:
    """Formats of every module of `towers` that the track quantizes.

    The last override whose pattern matches a whole layer name wins. Inputs that are one tensor (`shared_inputs`) take
    the widest of their formats. With `safe_int8` the 8-bit weights of products take a reduced range. Raises
    SettingError for an override that matches no layer, unless it is one of the track's own, or is no regular
    expression.
    """
    kinds = PRODUCTS if track == "paper" else (*PRODUCTS, Add, nn.AvgPool2d)
    names = {name: module for name, module in clip.named_modules() if isinstance(module, kinds)}
    if track == "paper":
        names = {name: module for name, module in names.items() if _matches(clip, name, lambda p: (p.layers,))}
    standard = default_overrides(clip, track)
    for pattern in overrides:
        try:
            matches = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise SettingError(
                f"The override {pattern!r} is no regular expression ({error}); give a pattern over layer names."
            ) from None
        if not matches and pattern not in standard:
            raise SettingError(
                f"The override {pattern!r} matches no layer of {clip.name!r}; "
                f"layers are named like {next(iter(names), '')!r}."
            )
    plan: Plan = {}
    for name, module in names.items():
        if name.split(".")[0] not in towers:
            continue
        if isinstance(module, nn.Embedding):
            plan[name] = LayerPlan(EIGHT_BIT_TOKENS, ())
            continue
        own = scheme
        for pattern, chosen in overrides.items():
            own = chosen if re.fullmatch(pattern, name) else own
        per_tensor = QuantArgs(own.activation_bits, False, "tensor")
        if isinstance(module, MatMul | Add):
            plan[name] = LayerPlan(None, (per_tensor, per_tensor))
        elif isinstance(module, nn.AvgPool2d):
            plan[name] = LayerPlan(None, (per_tensor,))
        else:
            per_channel = track == "paper" and _matches(clip, name, lambda p: p.per_channel)
            inputs = QuantArgs(own.activation_bits, False, "channel" if per_channel else "tensor")
            reduced = safe_int8 and own.weight_bits == 8
            plan[name] = LayerPlan(QuantArgs(own.weight_bits, track != "paper", "channel", reduced), (inputs,))
    if track == "deployable":
        for readers in shared_inputs(clip):
            _widen(plan, [(name, index) for name, index in readers if name in plan])
    return plan


def shared_inputs(clip: CLIP) -> Iterator[tuple[Slot, ...]]:
    """The groups of inputs that read one tensor, which a runtime quantizes once, as both towers list them."""
    for tower in TOWERS:
        for group in clip.tower(tower).shared_inputs():
            yield tuple((f"{tower}.{layer}", index) for layer, index in group.readers)


def _widen(plan: Plan, readers: list[Slot]) -> None:
    """Give all readers of a tensor the widest of their formats."""
    formats = [plan[name].inputs[index] for name, index in readers]
    for name, index in readers:
        inputs = list(plan[name].inputs)
        inputs[index] = max(formats, key=lambda args: args.num_bits)
        plan[name] = replace(plan[name], inputs=tuple(inputs))


def _matches(clip: CLIP, name: str, patterns: Callable[[Published], tuple[str, ...]]) -> bool:
    """Whether a layer is among those that the published placement of its tower describes by some patterns."""
    tower, _, layer = name.partition(".")
    return any(re.fullmatch(pattern, layer) for pattern in patterns(clip.tower(tower).published))


def convert(clip: CLIP, plan: Plan, track: Track) -> None:
    """Replace every module of the plan by its quantized form, in place.

    On the deployable track inputs that are one tensor share one quantizer (`shared_inputs`).
    """
    for name, entry in plan.items():
        replace_module(clip, name, _quantized(clip.get_submodule(name), entry))
    if track == "deployable":
        for readers in shared_inputs(clip):
            _share(clip, [(name, index) for name, index in readers if name in plan])
    clip.to(clip.device)


def _share(clip: CLIP, readers: list[Slot]) -> None:
    """Give all readers of a tensor one quantizer; ValueError if the plan holds the tensor in two formats."""
    shared: ActivationQuantizer | None = None
    for name, index in readers:
        layer = clip.get_submodule(name)
        key = ("a", "b")[index] if isinstance(layer, QuantizedPair) else "input_quantizer"
        own = getattr(layer, key)
        shared = shared or own
        if own.args != shared.args:
            raise ValueError(f"{name} holds a tensor in another format than what else reads it")
        setattr(layer, key, shared)


def _quantized(source: nn.Module, entry: LayerPlan) -> nn.Module:
    if isinstance(source, MatMul | Add):
        kind = QuantizedMatMul if isinstance(source, MatMul) else QuantizedAdd
        return kind(ActivationQuantizer(entry.inputs[0]), ActivationQuantizer(entry.inputs[1]))
    if isinstance(source, nn.AvgPool2d):
        return QuantizedAvgPool2d(source, ActivationQuantizer(entry.inputs[0]))
    assert entry.weights is not None
    if isinstance(source, nn.Embedding):
        return QuantizedEmbedding(source, entry.weights)
    if isinstance(source, nn.Conv2d):
        return QuantizedConv2d(source, entry.weights, ActivationQuantizer(entry.inputs[0]))
    assert isinstance(source, nn.Linear)
    quantizer = ActivationQuantizer(entry.inputs[0], source.in_features)
    return QuantizedLinear(source, entry.weights, quantizer)

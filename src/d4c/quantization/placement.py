"""Which layers are quantized, and in which formats: a plan by layer name, and the conversion that carries it out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from d4c.errors import SettingError
from d4c.models.anatomy import Published, Slot
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.layers import Add, MatMul, WeightedSum
from d4c.models.tower import replace_module
from d4c.quantization.config import QuantizeConfig
from d4c.quantization.formats.scheme import W8A8, Override, QuantArgs, Scheme, Track
from d4c.quantization.layer_patterns import matches
from d4c.quantization.layers.activation_quantizer import WIDE_FORMAT, ActivationQuantizer
from d4c.quantization.layers.quantized_activations import (
    QuantizedAdd,
    QuantizedAvgPool2d,
    QuantizedMatMul,
    QuantizedPair,
)
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding
from d4c.reading.schema import Flag, List, Record, Whole, check

PRODUCTS = (nn.Linear, nn.Conv2d, MatMul, nn.Embedding)
ROWS_BELOW = 8
"""Below so many bits each row of a softmax has a range of its own; at 8 one range for all costs nothing."""
TOKEN_TABLE_FORMAT = QuantArgs(8, True, "channel")


@dataclass(frozen=True)
class LayerPlan:
    """Formats of one module.

    Attributes:
        weights: Format of its weights, if it has any.
        inputs: Format of each of its inputs.
        loud_channels: Channels of the input of a linear layer that are a product of their own at 8 bits.
        class_token: Whether the class token's row of the input has a range of its own at 8 bits.
    """

    weights: QuantArgs | None
    inputs: tuple[QuantArgs, ...]
    loud_channels: tuple[int, ...] = ()
    class_token: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the field names of compressed-tensors; what a layer does not have is left out."""
        data: dict[str, Any] = {"input_activations": [args.to_dict() for args in self.inputs]}
        if self.loud_channels:
            data["loud_channels"] = list(self.loud_channels)
        if self.class_token:
            data["class_token"] = True
        return data if self.weights is None else {"weights": self.weights.to_dict(), **data}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LayerPlan:
        """Inverse of `to_dict`; raises SettingError for anything else."""
        check(data, PLAN_KIND, "The plan of a layer", SettingError, "give what LayerPlan.to_dict returns")
        weights = QuantArgs.from_dict(data["weights"]) if "weights" in data else None
        inputs = tuple(QuantArgs.from_dict(item) for item in data["input_activations"])
        return LayerPlan(weights, inputs, tuple(data.get("loud_channels", ())), data.get("class_token", False))


PLAN_KIND = Record(
    {"input_activations": List(Record(), 0, 2)},
    {"weights": Record(), "loud_channels": List(Whole(0, 1 << 20)), "class_token": Flag()},
    closed=True,
)
"""What the dictionary of `LayerPlan.to_dict` holds; `QuantArgs.from_dict` checks the formats in it."""

Plan = dict[str, LayerPlan]
"""Formats by layer name, for every layer that is quantized."""


def loud_channels(plan: Plan) -> dict[str, list[int]]:
    """The loud channels of a plan, by name of the layer, for the layers that have some."""
    return {name: list(entry.loud_channels) for name, entry in plan.items() if entry.loud_channels}


def default_overrides(clip: CLIP, track: Track) -> dict[str, Scheme]:
    """Exceptions to the scheme, as patterns over layer names; the artifact lists every one of them.

    On the deployable track each tower names the layers that keep 8 bits, such as those that read pixels or give the
    embedding. On the paper track they are what the authors keep at 8 bits: the MLPs of the text tower.
    """
    overrides = {}
    for name in TOWERS:
        tower = clip.tower(name)
        patterns = tower.published.eight_bits if track == "paper" else tower.eight_bit_layers
        overrides.update({f"{name}.{pattern}": W8A8 for pattern in patterns})
    return overrides


def make_plan(
    clip: CLIP,
    scheme: Scheme,
    track: Track,
    overrides: Mapping[str, Override],
    towers: Sequence[str] = TOWERS,
    full_range: bool = QuantizeConfig.full_range,
    wide_class_token: bool = QuantizeConfig.wide_class_token,
) -> Plan:
    """Choose the formats of every module of `towers` that the track quantizes.

    Args:
        clip: The float CLIP.
        scheme: Bits of weights and activations where no override matches.
        track: Decides which modules are quantized, and whether weights are symmetric.
        overrides: Schemes, or None for float, by pattern over whole layer names (`layer_patterns`); the last match
            wins.
        towers: "image", "text" or both.
        full_range: Let pairs of products of 8-bit weights leave 16 bits (see `pair_sums`).
        wide_class_token: On the deployable track, give the class token's row of inputs with fewer than 8 bits a range
            of its own at 8 bits.

    Returns:
        The plan. On the deployable track, inputs that are one tensor (`shared_inputs`) have the widest of their
        formats.

    Raises:
        SettingError: An override is not a valid pattern, or matches no layer and is not one of the track's exceptions;
            or overrides leave all layers float.
    """
    check_overrides(clip, overrides, track)
    modules = _quantizable(clip, track)
    schemes = {name: _scheme_of(name, scheme, overrides) for name in modules if name.split(".")[0] in towers}
    plan = {
        name: _layer_plan(clip, name, modules[name], chosen, track, full_range)
        for name, chosen in schemes.items()
        if chosen is not None
    }
    if not plan:
        raise SettingError(
            "The overrides leave all layers float, and nothing would be quantized; leave one of them out."
        )
    if track == "deployable":
        for readers in shared_inputs(clip):
            _widen(plan, [(name, index) for name, index in readers if name in plan])
        if wide_class_token and "image" in towers:
            plan.update(_with_class_token(clip, plan))
    return plan


def _with_class_token(clip: CLIP, plan: Plan) -> Plan:
    """The layers of a plan that read the class token in fewer than 8 bits, with a range for it."""
    names = [f"image.{layer}" for layer in clip.image.class_token_readers() if f"image.{layer}" in plan]
    narrow = [name for name in names if plan[name].inputs[0].num_bits < WIDE_FORMAT.num_bits]
    return {name: replace(plan[name], class_token=True) for name in narrow}


def _quantizable(clip: CLIP, track: Track) -> dict[str, nn.Module]:
    """The modules of both towers that a track quantizes, by name."""
    kinds = PRODUCTS if track == "paper" else (*PRODUCTS, Add, nn.AvgPool2d)
    modules: dict[str, nn.Module] = {n: module for n, module in clip.named_modules() if isinstance(module, kinds)}
    if track == "paper":
        modules = {name: module for name, module in modules.items() if _is_published(clip, name, lambda p: (p.layers,))}
    return modules


def check_overrides(clip: CLIP, overrides: Iterable[str], track: Track) -> None:
    """Raise SettingError for a pattern that matches no layer, unless it is one of the track's own exceptions."""
    layers, exceptions = _quantizable(clip, track), default_overrides(clip, track)
    for pattern in overrides:
        if pattern not in exceptions and not any(matches(pattern, name) for name in layers):
            raise SettingError(
                f"The override {pattern!r} matches no layer of {clip.name!r}; "
                f"give a pattern over names like {next(iter(layers), '')!r}."
            )


def _scheme_of(layer: str, scheme: Scheme, overrides: Mapping[str, Override]) -> Override:
    """The scheme of one layer: that of the last override that matches."""
    chosen: Override = scheme
    for pattern, override in overrides.items():
        chosen = override if matches(pattern, layer) else chosen
    return chosen


def _layer_plan(clip: CLIP, name: str, module: nn.Module, scheme: Scheme, track: Track, full_range: bool) -> LayerPlan:
    if isinstance(module, nn.Embedding):
        return LayerPlan(TOKEN_TABLE_FORMAT, ())
    per_tensor = QuantArgs(scheme.activation_bits, False, "tensor")
    if isinstance(module, WeightedSum) and track == "deployable" and scheme.activation_bits < ROWS_BELOW:
        return LayerPlan(None, (replace(per_tensor, strategy="token"), per_tensor))
    if isinstance(module, MatMul | Add):
        return LayerPlan(None, (per_tensor, per_tensor))
    if isinstance(module, nn.AvgPool2d):
        return LayerPlan(None, (per_tensor,))
    per_channel = track == "paper" and _is_published(clip, name, lambda p: p.per_channel)
    symmetric = track != "paper"
    pairs_fit = symmetric and scheme.weight_bits == 8 and not full_range
    weights = QuantArgs(scheme.weight_bits, symmetric, "channel", pairs_fit)
    return LayerPlan(weights, (replace(per_tensor, strategy="channel") if per_channel else per_tensor,))


def _is_published(clip: CLIP, name: str, patterns: Callable[[Published], tuple[str, ...]]) -> bool:
    """Whether a layer matches some patterns of the published placement of its tower."""
    tower, _, layer = name.partition(".")
    return any(re.fullmatch(pattern, layer) for pattern in patterns(clip.tower(tower).published))


def shared_inputs(clip: CLIP) -> Iterator[tuple[Slot, ...]]:
    """The groups of inputs of both towers that read one tensor, which a runtime quantizes once."""
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


def convert(clip: CLIP, plan: Plan, track: Track) -> None:
    """Replace every module of the plan by its quantized form, in place.

    On the deployable track inputs that are one tensor share one quantizer (`shared_inputs`).

    Raises:
        ValueError: The plan holds such a tensor in two formats or gives it loud channels, or names loud channels that a
            layer does not have.
    """
    for name, entry in plan.items():
        replace_module(clip, name, _quantized(clip.get_submodule(name), entry))
    if track == "deployable":
        for readers in shared_inputs(clip):
            _share(clip, [(name, index) for name, index in readers if name in plan])
    clip.to(clip.device)


def _share(clip: CLIP, readers: list[Slot]) -> None:
    """Give all readers of a tensor one quantizer."""
    shared: ActivationQuantizer | None = None
    for name, index in readers:
        layer = clip.get_submodule(name)
        key = ("a", "b")[index] if isinstance(layer, QuantizedPair) else "input_quantizer"
        quantizer = getattr(layer, key)
        shared = shared or quantizer
        formats = {(each.args, each.class_token is None) for each in (quantizer, shared)}
        if len(formats) > 1 or quantizer.loud is not None:
            raise ValueError(
                f"{name} reads a tensor in another format than the other layers that read it, or with loud channels; "
                "give all of them one format without loud channels."
            )
        setattr(layer, key, shared)


def _quantized(source: nn.Module, entry: LayerPlan) -> nn.Module:
    if (entry.loud_channels or entry.class_token) and not isinstance(source, nn.Linear):
        raise ValueError("Only linear layers have loud channels or a class token; name none for other modules.")
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
    quantizer = ActivationQuantizer(entry.inputs[0], source.in_features, entry.loud_channels, entry.class_token)
    return QuantizedLinear(source, entry.weights, quantizer)

"""Which layers are quantized, and how: a plan by name, and the surgery that carries it out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.layers import Attention, MatMul
from d4c.models.resnet import AttentionPool
from d4c.quantization.layers import (
    ActivationQuantizer,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatMul,
)
from d4c.quantization.scheme import W8A8, QuantArgs, Scheme, Track

TOWERS = ("image", "text")
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


def default_overrides(track: Track) -> dict[str, Scheme]:
    """Exceptions to the scheme, as patterns over layer names; every one is listed in the artifact.

    Deployable: the layers that see pixels or give the embedding hold 8 bits. Paper: the text MLPs hold 8 bits.
    """
    if track == "paper":
        return {r"text\.blocks\.\d+\.mlp\.fc[12]": W8A8}
    return {r"image\.(patch_embed|stem\.conv1)": W8A8, r"(image|text)\.projection|image\.pool\.out": W8A8}


def make_plan(
    clip: CLIP, scheme: Scheme, track: Track, overrides: Mapping[str, Scheme], towers: tuple[str, ...] = TOWERS
) -> Plan:
    """Formats of every module of `towers` that the track quantizes.

    The last override whose pattern matches a whole layer name wins. Raises SettingError for one that matches none
    or is no regular expression.
    """
    names = {
        name: module
        for name, module in clip.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | MatMul | nn.Embedding)
    }
    if track == "paper":
        names = {name: module for name, module in names.items() if _published(name)}
    for pattern in overrides:
        try:
            matches = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise SettingError(
                f"The override {pattern!r} is no regular expression ({error}); give a pattern over layer names."
            ) from None
        if not matches:
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
        if isinstance(module, MatMul):
            plan[name] = LayerPlan(None, (per_tensor, per_tensor))
        else:
            per_channel = track == "paper" and _published_per_channel(name)
            inputs = QuantArgs(own.activation_bits, False, "channel" if per_channel else "tensor")
            plan[name] = LayerPlan(QuantArgs(own.weight_bits, track != "paper", "channel"), (inputs,))
    return plan


def _published(name: str) -> bool:
    """Whether the authors quantize a layer: block layers and the attention pool, no stem, shortcut or projection."""
    in_block = re.match(r"(image|text)\.blocks\.", name) and ".downsample." not in name
    return bool(in_block or name.startswith("image.pool."))


def _published_per_channel(name: str) -> bool:
    norm_output = r"(image|text)\.blocks\.\d+\.(attn\.[qkv]|mlp\.fc1)"
    return bool(re.fullmatch(norm_output + r"|text\.blocks\.\d+\.mlp\.fc2", name))


def convert(clip: CLIP, plan: Plan, track: Track) -> None:
    """Replace every module of the plan by its quantized form, in place.

    On the deployable track q, k and v share one input quantizer, since a runtime quantizes their input once.
    """
    for name, entry in plan.items():
        parent = clip.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], _quantized(clip.get_submodule(name), entry))
    for module in clip.modules():
        if isinstance(module, Attention | AttentionPool) and isinstance(module.scores, QuantizedMatMul):
            module.fused = False
            if track == "deployable":
                shared = module.q.input_quantizer
                module.k.input_quantizer = module.v.input_quantizer = shared
    clip.to(clip.device)


def _quantized(source: nn.Module, entry: LayerPlan) -> nn.Module:
    if isinstance(source, MatMul):
        return QuantizedMatMul(ActivationQuantizer(entry.inputs[0]), ActivationQuantizer(entry.inputs[1]))
    assert entry.weights is not None
    if isinstance(source, nn.Embedding):
        return QuantizedEmbedding(source, entry.weights)
    if isinstance(source, nn.Conv2d):
        return QuantizedConv2d(source, entry.weights, ActivationQuantizer(entry.inputs[0]))
    assert isinstance(source, nn.Linear)
    quantizer = ActivationQuantizer(entry.inputs[0], source.in_features)
    return QuantizedLinear(source, entry.weights, quantizer)

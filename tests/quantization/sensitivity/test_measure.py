"""Sensitivity of layers, against the same divergences computed by switching quantizers off one by one."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.errors import D4CError
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.formats.identity import model_hash
from d4c.progress import WHOLE
from d4c.quantization.calibrate import prepare
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import QuantizedMatMul
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding, QuantizedLayer
from d4c.quantization.placement import Plan, default_overrides, make_plan
from d4c.quantization.preparation import calibration_inputs, with_ranges, working_copy
from d4c.quantization.sensitivity.measure import GROUPS, Sensitivity, measure_sensitivity
from d4c.quantization.sensitivity.probe import NO_WEIGHTS, Probe, at_width

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow", "the moon over the sea", "an apple"]


class Case:
    """A float CLIP, its quantized form with float weights kept, and the data."""

    def __init__(self, clip: CLIP) -> None:
        self.calibration = d4c.synthesize(clip, "leaves", images=4)
        self.float = working_copy(clip, "deployable")
        self.pixels, self.tokens = calibration_inputs(self.float, self.calibration, PROMPTS, soften=True)
        self.plan: Plan = make_plan(self.float, Scheme(4, 6), "deployable", default_overrides(self.float, "deployable"))
        prepare(self.float, self.pixels, self.tokens, TOWERS, self.plan)
        self.quantized, _ = with_ranges(self.float, self.plan, "deployable", self.pixels, self.tokens, TOWERS)
        self.probe = Probe(self.float, self.quantized, self.pixels, self.tokens)

    def with_only(self, on: Collection[str]) -> CLIP:
        """The quantized model with every layer but these switched off."""
        clip = copy.deepcopy(self.quantized)
        for name in self.plan:
            module = clip.get_submodule(name)
            if isinstance(module, QuantizedLayer) and not isinstance(module, QuantizedEmbedding):
                # Shared by q, k and v until now.
                module.input_quantizer = copy.deepcopy(module.input_quantizer)
        for name in self.plan.keys() - set(on):
            module = clip.get_submodule(name)
            if isinstance(module, QuantizedLayer):
                module.weight.copy_(module.source_weight())
            for quantizer in module.modules():
                if isinstance(quantizer, ActivationQuantizer):
                    quantizer.enabled = False
        return clip

    @torch.no_grad()
    def divergence(self, clip: CLIP) -> float:
        """KL from the float model, from whole towers."""

        def p(model: CLIP) -> torch.Tensor:
            images, texts = model.encode_image(self.pixels).double(), model.encode_text(self.tokens).double()
            return (clip.logit_scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T).softmax(-1)

        expected, actual = p(self.float), p(clip)
        return float((expected * (expected / actual).log()).sum(-1).mean())


@pytest.fixture(scope="module", params=["tiny_vit", "tiny_rn"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.getfixturevalue(request.param))


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-3, abs=1e-9)


def test_alone_is_the_model_with_all_others_switched_off(case: Case) -> None:
    some = list(case.plan.items())[::3]
    bits_of = {name: entry.weights.num_bits if entry.weights else NO_WEIGHTS for name, entry in some}
    alone = case.probe.alone({name: [bits] for name, bits in bits_of.items()})
    assert alone.keys() == bits_of.keys()
    for name, values in alone.items():
        assert values == {bits_of[name]: close(case.divergence(case.with_only([name])))}


def test_without_is_the_model_with_one_switched_off(case: Case) -> None:
    for name, value in case.probe.without(list(case.plan)[::3]).items():
        assert value == close(case.divergence(case.with_only(case.plan.keys() - {name})))


def test_towers_are_measured_together_and_alone(case: Case) -> None:
    assert case.probe.divergence() == close(case.divergence(case.quantized))
    for tower in TOWERS:
        layers = [name for name in case.plan if name.startswith(tower)]
        assert case.probe.divergence((tower,)) == close(case.divergence(case.with_only(layers)))
    assert case.probe.divergence(()) == close(0)


def test_another_width_is_what_quantizing_to_it_gives(case: Case) -> None:
    plan = make_plan(case.float, Scheme(3, 6), "deployable", {})
    other, _ = with_ranges(case.float, plan, "deployable", case.pixels, case.tokens, TOWERS)
    for name, entry in plan.items():
        if entry.weights and entry.weights.num_bits == 3:
            layer, expected = case.quantized.get_submodule(name), other.get_submodule(name)
            assert isinstance(layer, QuantizedLayer)
            assert isinstance(expected, QuantizedLayer)
            assert torch.equal(at_width(layer, 3).codes, expected.codes)


def test_measuring_changes_neither_model(case: Case) -> None:
    before = model_hash(case.float), model_hash(case.quantized)
    names = [name for name, module in case.quantized.named_modules() if isinstance(module, QuantizedMatMul)]
    case.probe.alone({name: [NO_WEIGHTS] for name in names})
    case.probe.without(names)
    assert (model_hash(case.float), model_hash(case.quantized)) == before
    float_attention, attention = (clip.get_submodule("text.blocks.0.attn") for clip in (case.float, case.quantized))
    assert float_attention.plain
    assert not attention.plain


@pytest.fixture(scope="module")
def sensitivity(tiny_vit: CLIP) -> Sensitivity:
    return measure_sensitivity(tiny_vit, leaves(tiny_vit), widths=(2, 8), prompts=PROMPTS)


def leaves(clip: CLIP) -> CalibrationSet:
    return d4c.synthesize(clip, "leaves", images=4)


def test_the_whole_is_that_of_the_quantized_model(tiny_vit: CLIP, sensitivity: Sensitivity) -> None:
    calibration = leaves(tiny_vit)
    quantized = d4c.quantize(tiny_vit, calibration, "W4A8", reconstruction="none", prompts=PROMPTS)
    case = Case(tiny_vit)
    assert sensitivity.divergence == pytest.approx(case.divergence(quantized), rel=1e-3)


def test_every_quantized_layer_has_a_row(tiny_vit: CLIP, sensitivity: Sensitivity) -> None:
    quantized = d4c.quantize(tiny_vit, leaves(tiny_vit), "W4A8", reconstruction="none", prompts=PROMPTS)
    counts = {layer.name: layer.weights for layer in sensitivity.layers}
    assert counts.keys() == quantized.plan.keys()
    assert {name: n for name, n in counts.items() if n} == {
        name: layer.stored_weights() for name, layer in quantized.layers().items()
    }
    schemes = {layer.name: layer.scheme for layer in sensitivity.layers}
    assert schemes["image.patch_embed"] == "W8A8"
    assert schemes["image.blocks.0.mlp.fc1"] == "W4A8"
    assert schemes["image.blocks.0.attn.scores"] == "A8"
    assert schemes["text.token_embedding"] == "W8"


def test_more_bits_cost_less(sensitivity: Sensitivity) -> None:
    blocks = [layer for layer in sensitivity.layers if layer.scheme == "W4A8"]
    two, four, eight = (sum(layer.by_width[bits] for layer in blocks) for bits in (2, 4, 8))
    assert two > four > eight > 0


def test_sums_add_up(sensitivity: Sensitivity) -> None:
    whole = sum(layer.weights for layer in sensitivity.layers), sum(layer.alone for layer in sensitivity.layers)
    for key in GROUPS.values():
        sums = sensitivity.sums(key).values()
        assert sum(row[0] for row in sums) == whole[0]
        assert sum(row[1] for row in sums) == pytest.approx(whole[1])


def test_layers_of_one_kind_differ_in_the_block_alone(sensitivity: Sensitivity) -> None:
    kinds = {layer.kind for layer in sensitivity.layers}
    assert {"image.blocks.*.attn.q", "text.blocks.*.mlp.fc2", "image.patch_embed"} <= kinds
    assert not any(character.isdigit() for kind in kinds for character in kind.replace("fc1", "").replace("fc2", ""))


def test_the_record_is_json_and_sorted(sensitivity: Sensitivity) -> None:
    record = json.loads(json.dumps(sensitivity.to_dict(), allow_nan=False))
    costs = [row["alone"] for row in record["layers"]]
    assert costs == sorted(costs, reverse=True)
    assert record["by_tower"].keys() == set(TOWERS)


def test_progress_knows_the_total_at_once_and_counts_up_to_it(tiny_vit: CLIP) -> None:
    calls: list[tuple[int, int]] = []
    measure_sensitivity(
        tiny_vit, leaves(tiny_vit), widths=(), prompts=PROMPTS, progress=lambda *call: calls.append(call)
    )
    assert calls[0] == (0, WHOLE)
    assert calls[-1] == (WHOLE, WHOLE)
    assert calls == sorted(calls)
    assert len(set(calls)) > 40


REFUSED = {
    "scheme": ({"scheme": "W4"}, "not of the form W4A8"),
    "width": ({"widths": (4, 9)}, "The width to measure is 9"),
    "no prompts": ({"prompts": []}, "empty"),
}


@pytest.mark.parametrize(("settings", "about"), REFUSED.values(), ids=REFUSED)
def test_settings_that_are_refused(tiny_vit: CLIP, settings: dict[str, Any], about: str) -> None:
    with pytest.raises(D4CError, match=about) as caught:
        measure_sensitivity(tiny_vit, leaves(tiny_vit), **settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")

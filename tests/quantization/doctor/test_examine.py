"""A checkpoint that was made loud, uneven or dead on the spot is told so by name, and an even one that it is fine."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from d4c.errors import CheckpointError, SettingError
from d4c.models.clip import CLIP
from d4c.quantization.doctor.advice import findings_of
from d4c.quantization.doctor.diagnosis import Diagnosis, Finding, LoudToken
from d4c.quantization.doctor.examine import examine
from d4c.quantization.doctor.layer_inputs import SeenInput
from d4c.quantization.formats.scheme import QuantArgs, Scheme
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.symmetries.uneven import uneven


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d4c.quantization.doctor.examine.IMAGES", 4)
    monkeypatch.setattr("d4c.quantization.doctor.examine.PROMPTS", 16)


def finding(diagnosis: Diagnosis, kind: str, tower: str) -> Finding:
    (match,) = [x for x in diagnosis.findings if (x.kind, x.tower) == (kind, tower)]
    return match


@pytest.fixture(scope="module")
def even(short_vit: CLIP) -> Diagnosis:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d4c.quantization.doctor.examine.IMAGES", 4)
        patch.setattr("d4c.quantization.doctor.examine.PROMPTS", 16)
        return examine(short_vit, "W8A8", progress=None)


def test_an_even_checkpoint_is_fine(even: Diagnosis) -> None:
    assert even.findings == ()
    assert even.verdict == "W8A8: even and quiet; nothing to do."


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_tower_of_zeros_is_damaged_and_not_even(short_vit: CLIP, name: str) -> None:
    clip = copy.deepcopy(short_vit)
    for parameter in clip.tower(name).parameters():
        parameter.data.zero_()
    with pytest.raises(CheckpointError, match=f"The {name} tower of 'demo-vit' is damaged: .* are zero"):
        examine(clip, progress=None)


def test_a_diagnosis_is_frozen_and_survives_json(even: Diagnosis) -> None:
    data = json.loads(json.dumps(even.to_dict(), allow_nan=False))
    assert data["model"] == "demo-vit"
    assert [tower["name"] for tower in data["towers"]] == ["image", "text"]
    assert data["towers"][0]["axes"][0]["before"]["wide"] == even.towers[0].axes[0].before.wide
    with pytest.raises(FrozenInstanceError):
        even.verdict = "fine"  # type: ignore[misc]


def test_every_quantized_layer_has_an_outlook_and_more_bits_leave_more_signal(even: Diagnosis, short_vit: CLIP) -> None:
    fewer = examine(short_vit, "W4A4", progress=None)
    assert [(finding.kind, finding.harmless) for finding in fewer.findings] == 2 * [("bits", False)]
    assert fewer.verdict.startswith("W4A4: 2 of 2 findings may cost accuracy")
    for tower, worse in zip(even.towers, fewer.towers, strict=True):
        ratios = {layer.name: layer.least_db for layer in worse.layers}
        assert ratios.keys() == {layer.name for layer in tower.layers}
        assert [layer.least_db for layer in tower.layers] == sorted(layer.least_db for layer in tower.layers)
        assert all(ratios[layer.name] < layer.least_db - 12 for layer in tower.layers if layer.name.endswith("fc1"))


def test_an_uneven_checkpoint_is_told_so_and_what_rewriting_leaves(short_vit: CLIP, even: Diagnosis) -> None:
    diagnosis = examine(uneven(short_vit, 1.0, 0), "W8A8", progress=None)
    assert [x.kind for x in diagnosis.findings] == ["spread", "spread"]
    assert all(x.harmless for x in diagnosis.findings)
    for tower, same in zip(diagnosis.towers, even.towers, strict=True):
        norms = [i for i, axis in enumerate(tower.axes) if "norm" in axis.name]
        assert all(tower.axes[i].before.ratio > 10 * tower.axes[i].after.ratio for i in norms)
        for i in norms:
            assert tower.axes[i].after.ratio == pytest.approx(same.axes[i].after.ratio, rel=0.01)


def test_a_loud_neuron_is_named_and_gets_a_scale_of_its_own(short_vit: CLIP) -> None:
    clip = copy.deepcopy(short_vit)
    parameters = dict(clip.named_parameters())
    parameters["image.blocks.2.mlp.fc1.weight"][100] *= 60
    diagnosis = examine(clip, "W4A8", progress=None)
    loud = finding(diagnosis, "channels", "image")
    assert "100 of image.blocks.2.mlp.fc2" in loud.fact
    assert "scale of their own" in loud.advice
    assert loud.harmless


def test_layers_at_risk_come_first_with_an_override_that_helps(short_vit: CLIP) -> None:
    diagnosis = examine(short_vit, "W2A8", progress=None)
    worst = diagnosis.towers[0].layers[0]
    layers = diagnosis.findings[0]
    assert (layers.kind, layers.tower, layers.harmless) == ("layers", "image", False)
    assert worst.at_risk
    assert worst.name in layers.fact
    assert f"--override '{worst.name}=W4A8'" in layers.advice
    assert "may cost accuracy" in diagnosis.verdict


def test_begin_of_text_is_loud_and_harmless_and_a_word_is_not_constant(short_vit: CLIP) -> None:
    clip = copy.deepcopy(short_vit)
    clip.text.positional_embedding[0, 5] = 150
    clip.text.positional_embedding[0, 77] = -150
    diagnosis = examine(clip, "W8A8", progress=None)
    begin = finding(diagnosis, "tokens", "text")
    assert "'begin of text'" in begin.fact
    assert "residual channels 5 and 77" in begin.fact
    assert begin.harmless
    assert "no quantizer" not in begin.fact
    clip.text.positional_embedding[3, 7] = 400
    tokens = {token.token: token.constant for token in examine(clip, "W8A8", progress=None).towers[1].tokens}
    assert tokens == {"begin of text": True, "word": False}


def test_a_loud_class_token_gets_a_range_of_its_own_below_8_bits(even: Diagnosis) -> None:
    token = LoudToken("class token", "image.blocks.1", 300.0, 2.0, 1.0, constant=False)
    for scheme, apart, words in (
        ("W4A4", True, "Nothing to do: it gets a range of its own"),
        ("W4A4", False, "leave --no-wide-class-token out"),
        ("W4A8", False, "Nothing to do for the residual stream"),
    ):
        tower = replace(even.towers[0], tokens=(replace(token, apart=apart),))
        (advice,) = [x.advice for x in findings_of([tower], Scheme.parse(scheme)) if x.kind == "tokens"]
        assert words in advice


def test_a_class_token_apart_is_no_row_that_others_share_a_range_with() -> None:
    x = torch.randn(16, 50, 32, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 20
    seen = [SeenInput(class_token=apart) for apart in (True, False)]
    for each, batch in itertools.product(seen, x.split(2)):
        each.add(batch, has_channels=True)
    assert torch.equal(seen[0].largest, seen[1].largest)
    apart, among = (float(torch.cat(each.rows).abs().max()) for each in seen)
    assert apart < 10 < among
    ratios = [each.signal_to_noise(QuantArgs(4, False, "tensor")) for each in seen]
    assert ratios[0] > ratios[1] + 0.5  # measured: 0.86; the range of least error cuts off most of a loud row anyway


def test_a_loud_class_token_is_apart_unless_told_otherwise(short_vit: CLIP) -> None:
    clip = copy.deepcopy(short_vit)
    clip.image.get_parameter("class_embedding")[5] = 400
    clip.image.norm_pre = nn.Identity()
    images = [examine(clip, "W4A4", wide_class_token=wide, progress=None).towers[0] for wide in (True, False)]
    assert [image.tokens[0].apart for image in images] == [True, False]


@pytest.mark.parametrize("what", ["silent", "unread"])
def test_dead_channels_are_named(short_vit: CLIP, what: str) -> None:
    clip = copy.deepcopy(short_vit)
    parameters = dict(clip.named_parameters())
    if what == "silent":
        parameters["image.blocks.1.norm2.weight"][[3, 8]] = 0
        parameters["image.blocks.1.norm2.bias"][[3, 8]] = 0
    else:
        parameters["image.blocks.1.mlp.fc1.weight"][:, [3, 8]] = 0
    diagnosis = examine(clip, "W8A8", progress=None)
    assert diagnosis.towers[0].dead["image.blocks.1.norm2"] == (3, 8)
    assert "2 channels are dead" in finding(diagnosis, "dead", "image").fact


def test_a_resnet_is_examined_without_tokens(tiny_rn: CLIP) -> None:
    image = examine(tiny_rn, "W4A8", progress=None).towers[0]
    assert image.tokens == ()
    assert any(axis.name == "image.stem.stream" for axis in image.axes)


def test_the_checkpoint_stays_as_it_is(tiny_rn: CLIP) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_rn.state_dict().items()}
    examine(tiny_rn, "W4A8", progress=None)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny_rn.state_dict().items())


def test_a_wrong_scheme_and_a_quantized_model_are_refused(tiny_vit: CLIP, w4a8: QuantizedCLIP) -> None:
    with pytest.raises(SettingError, match="not of the form W4A8"):
        examine(tiny_vit, "8bit", progress=None)
    with pytest.raises(SettingError, match="already quantized"):
        examine(w4a8, "W4A8", progress=None)

"""The artifact gives back the same model bit for bit, and a save replaces it whole or not at all."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

import d4c
from d4c.errors import ArtifactError
from d4c.models.clip import CLIP
from d4c.quantization.artifact import write
from d4c.quantization.formats.packing import packed_size
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding
from d4c.quantization.quantized import QuantizedCLIP

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow"]


def made(clip: CLIP, scheme: str, **settings: Any) -> QuantizedCLIP:
    calibration = d4c.synthesize(clip, "noise", images=4)
    return d4c.quantize(clip, calibration, scheme, reconstruction="none", prompts=PROMPTS, **settings)


def layers_of(config: dict[str, Any]) -> dict[str, Any]:
    return config["quantization_config"]["layers"]


def assert_reads_back(clip: QuantizedCLIP, folder: Path) -> None:
    clip.save_pretrained(folder)
    loaded = d4c.load_quantized(folder)
    pixels = d4c.synthesize(clip, "leaves", images=4).pixels
    tokens = clip.tokenize(["a red car", "an old photo of the sea", "x"])
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(pixels), clip.encode_image(pixels))
        assert torch.equal(loaded.encode_text(tokens), clip.encode_text(tokens))
    assert loaded.plan == clip.plan
    assert loaded.recipe == json.loads(json.dumps(clip.recipe))
    assert (loaded.name, loaded.config, loaded.logit_scale) == (clip.name, clip.config, clip.logit_scale)


def test_embedded_models_read_back_bit_for_bit(w4a8: QuantizedCLIP, tmp_path: Path) -> None:
    assert_reads_back(w4a8, tmp_path / "artifact")


@pytest.mark.parametrize("scheme", ["W6A6", "W3A5"])
@pytest.mark.parametrize("track", ["deployable", "paper"])
def test_both_tracks_read_back(tiny_vit: CLIP, tiny_rn: CLIP, scheme: str, track: str, tmp_path: Path) -> None:
    clip = tiny_vit if scheme == "W6A6" else tiny_rn
    assert_reads_back(made(clip, scheme, track=track), tmp_path / "artifact")


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_quantized_tower_reads_back(tiny_rn: CLIP, tower: str, tmp_path: Path) -> None:
    assert_reads_back(made(tiny_rn, "W5A7", towers=(tower,)), tmp_path / "artifact")


def test_learned_scales_and_rounding_read_back(tiny_vit: CLIP, tmp_path: Path) -> None:
    calibration = d4c.synthesize(tiny_vit, "noise", images=4)
    clip = d4c.quantize(tiny_vit, calibration, "W4A4", iterations=3, prompts=PROMPTS)
    assert_reads_back(clip, tmp_path / "artifact")


FC1 = "image.blocks.0.mlp.fc1"
LOUD = "image.blocks.1.mlp.fc2"


def test_loud_channels_read_back_and_are_told(loud_tiny_vit: CLIP, tmp_path: Path) -> None:
    clip = made(loud_tiny_vit, "W4A4")
    assert clip.loud_channels() == {LOUD: [7]}
    assert_reads_back(clip, tmp_path / "artifact")
    config = json.loads((tmp_path / "artifact" / "config.json").read_text())
    assert {name: e["loud_channels"] for name, e in layers_of(config).items() if "loud_channels" in e} == {LOUD: [7]}
    assert f"| `{LOUD}` | input channels 7 with a scale of their own" in (tmp_path / "artifact/README.md").read_text()
    stored = load_file(tmp_path / "artifact" / "model.safetensors")
    assert {name for name in stored if "loud" in name} == {f"{LOUD}.loud_scale", f"{LOUD}.loud_zero_point"}


@pytest.mark.parametrize(
    ("key", "value", "about"),
    [
        ("loud_scale", None, "lacks the tensor"),
        ("loud_scale", torch.tensor(-1.0), "not valid"),
        ("loud_scale", torch.ones(2), "expected float32"),
        ("loud_zero_point", torch.tensor(3.0), "expected uint8"),
        ("extra", torch.tensor(1.0), "does not announce"),
    ],
)
def test_damaged_ranges_of_loud_channels(
    loud_tiny_vit: CLIP, key: str, value: Tensor | None, about: str, tmp_path: Path
) -> None:
    made(loud_tiny_vit, "W4A4", towers=("image",)).save_pretrained(tmp_path / "artifact")
    file = tmp_path / "artifact" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(f"{LOUD}.{key}", None)
    save_file(tensors | ({} if value is None else {f"{LOUD}.{key}": value}), file)
    with pytest.raises(ArtifactError, match=about):
        d4c.load_quantized(tmp_path / "artifact", verify=False)


@pytest.mark.parametrize("full_range", [False, True], ids=["pairs that fit", "full range"])
def test_the_range_reads_back(tiny_vit: CLIP, full_range: bool, tmp_path: Path) -> None:
    """The artifact says of each layer and as a whole whether all pairs of products fit."""
    assert_reads_back(made(tiny_vit, "W8A8", full_range=full_range), tmp_path / "artifact")
    config = json.loads((tmp_path / "artifact" / "config.json").read_text())
    assert layers_of(config)[FC1]["weights"].get("observer_kwargs") == (None if full_range else {"pairs_fit": True})
    assert config["recipe"]["full_range"] is full_range
    assert ("in full range" in (tmp_path / "artifact" / "README.md").read_text()) is full_range


def test_pairs_that_do_not_fit_are_refused_where_they_should(tiny_vit: CLIP, tmp_path: Path) -> None:
    made(tiny_vit, "W8A8", full_range=True).save_pretrained(tmp_path / "artifact")
    path = tmp_path / "artifact" / "config.json"
    config = json.loads(path.read_text())
    layers_of(config)[FC1]["weights"]["observer_kwargs"] = {"pairs_fit": True}
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=rf"products of {re.escape(FC1)} .* leave the 16 bits"):
        d4c.load_quantized(tmp_path / "artifact", verify=False)


def test_saving_what_was_loaded_writes_the_same_files(base: Path, tmp_path: Path) -> None:
    d4c.load_quantized(base).save_pretrained(tmp_path / "again")
    for file in base.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_weights_take_exactly_their_bits(w4a8: QuantizedCLIP, tmp_path: Path) -> None:
    w4a8.save_pretrained(tmp_path / "artifact")
    stored = load_file(tmp_path / "artifact" / "model.safetensors")
    for name, layer in w4a8.layers().items():
        count = layer.codes.numel()
        if isinstance(layer, QuantizedEmbedding):
            # Rows of tokens that the embedded model never saw are all zero and not stored.
            count = len(stored[f"{name}.token_ids"]) * layer.codes.shape[1]
            assert 0 < count < layer.codes.numel()
        assert stored[f"{name}.weight_packed"].nbytes == packed_size(count, layer.weight_args.num_bits)
    four = [name for name, layer in w4a8.layers().items() if layer.weight_args.num_bits == 4]
    weights = sum(w4a8.layers()[name].codes.numel() for name in four)
    assert sum(stored[f"{name}.weight_packed"].nbytes for name in four) == weights // 2


def test_learned_scales_of_sums_and_pools_read_back(tiny_rn: CLIP, tmp_path: Path) -> None:
    calibration = d4c.synthesize(tiny_rn, "noise", images=4)
    clip = d4c.quantize(tiny_rn, calibration, "W4A6", iterations=2, batch_size=2, towers=("image",))
    assert_reads_back(clip, tmp_path / "artifact")
    stored = load_file(tmp_path / "artifact" / "model.safetensors")
    # One tensor, one range: block 1 has a pool in its shortcut.
    for key in ("scale", "zero_point"):
        ranges = [stored[f"image.blocks.1.{layer}.input_{key}"] for layer in ("conv1", "downsample.pool")]
        assert torch.equal(*ranges)
    assert {f"image.blocks.1.{n}.scale" for n in ("add.a", "add.b")} <= set(stored)


def test_two_ranges_for_one_tensor_are_refused(tiny_vit: CLIP, tmp_path: Path) -> None:
    made(tiny_vit, "W4A4").save_pretrained(tmp_path / "artifact")
    file = tmp_path / "artifact" / "model.safetensors"
    tensors = load_file(file)
    tensors["text.blocks.1.attn.v.input_scale"] *= 2
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=r"text\.blocks\.1\.attn\.v.* is not that of the other layers"):
        d4c.load_quantized(tmp_path / "artifact", verify=False)


def test_config_has_the_field_names_of_compressed_tensors(base: Path) -> None:
    section = json.loads((base / "config.json").read_text())["quantization_config"]
    weights = section["layers"]["image.blocks.0.mlp.fc1"]["weights"]
    assert weights == {"type": "int", "num_bits": 4, "symmetric": True, "strategy": "channel"}
    inputs = section["layers"]["image.blocks.0.attn.scores"]["input_activations"]
    assert inputs == 2 * [{"type": "int", "num_bits": 4, "symmetric": False, "strategy": "tensor"}]
    assert section["ignore"] == []
    eight_bits = ("image.patch_embed", "image.projection", "text.projection")
    assert section["overrides"] == dict.fromkeys(eight_bits, "W8A8")


def test_the_tokenizer_file_gives_the_tokens_of_the_model(base: Path, tiny_vit: CLIP) -> None:
    stored = Tokenizer.from_file(str(base / "tokenizer.json"))
    for text in ("a photo of a cat.", "don't  PANIC &amp; relax", "日本 2024 🚀"):
        assert tiny_vit.tokenize(text)[0].tolist() == stored.encode(html.unescape(text)).ids


def test_the_preprocessor_file_gives_the_pixels_of_the_model(base: Path, tiny_vit: CLIP) -> None:
    c = json.loads((base / "preprocessor_config.json").read_text())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8))
    short, size = c["size"]["shortest_edge"], c["crop_size"]["height"]
    wide = picture.resize((50 * short // 30, short), Image.Resampling(c["resample"]))
    left = round((wide.width - size) / 2)
    x = np.asarray(wide.crop((left, 0, left + size, size))) * c["rescale_factor"]
    x = (x - np.array(c["image_mean"])) / np.array(c["image_std"])
    assert np.allclose(tiny_vit.preprocess(picture).numpy(), x.transpose(2, 0, 1), atol=1e-5)


def test_the_card_names_scheme_exceptions_and_origin(tiny_vit: CLIP, tmp_path: Path) -> None:
    made(tiny_vit, "W4A4", overrides={"text.blocks.{0,1}.*": "W6A6"}).save_pretrained(tmp_path / "artifact")
    card = (tmp_path / "artifact" / "README.md").read_text()
    assert "tiny, W4A4" in card
    assert "| `image.patch_embed` | W8A8 |" in card
    assert "| `text.blocks.{0,1}.*` | W6A6 |" in card
    assert "noise, 4 images" in card


def test_what_is_loaded_does_not_depend_on_the_file_any_more(copied: Path) -> None:
    clip = d4c.load_quantized(copied)
    tokens = clip.tokenize("a cat")
    before = clip.encode_text(tokens)
    shutil.rmtree(copied)
    assert torch.equal(clip.encode_text(tokens), before)


def test_an_interrupted_save_leaves_the_old_artifact(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = d4c.load_quantized(copied)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    def full_disk(_tensors: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        clip.save_pretrained(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_saving_replaces_an_artifact_and_nothing_else(copied: Path, tmp_path: Path) -> None:
    clip = d4c.load_quantized(copied)
    clip.save_pretrained(copied)
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds notes"):
        clip.save_pretrained(copied)
    assert (copied / "notes.txt").read_text() == "mine"
    other = tmp_path / "home"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="is not a quantized model"):
        clip.save_pretrained(other)
    assert (other / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ArtifactError, match="is not a quantized model"):
        clip.save_pretrained(other / "thesis.txt")
    (other / "thesis.txt").unlink()
    clip.save_pretrained(other)
    assert (other / "model.safetensors").is_file()

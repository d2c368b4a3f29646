"""Damaged artifacts are refused in one sentence, whatever is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import d4c
from d4c.errors import ArtifactError

LOUD = "image.blocks.1.mlp.fc2"


def assert_refused(folder: Path, about: str) -> None:
    """Whoever damages a file on purpose adapts its checksum, so that the reader must not rest on it."""
    with pytest.raises(ArtifactError, match=about) as caught:
        d4c.load_quantized(folder, verify=False)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")


Tensors = dict[str, Tensor]
FC1 = "image.blocks.0.mlp.fc1"
TOKENS = "text.token_embedding"


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name] = change(tensors[name]).contiguous()

    return edit


def first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        flat = tensor.flatten().clone()
        flat[0] = value
        return flat.view_as(tensor)

    return change


def number_rows(ids: list[int], tensors: Tensors) -> None:
    tensors[f"{TOKENS}.token_ids"] = torch.tensor(ids, dtype=torch.int32)


TENSOR_ATTACKS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing weights": (lambda t: t.pop(f"{FC1}.weight_packed"), "lacks the tensor"),
    "missing scale": (lambda t: t.pop(f"{FC1}.weight_scale"), "lacks the tensor"),
    "missing input range": (lambda t: t.pop(f"{FC1}.input_scale"), "lacks the tensor"),
    "missing operand range": (lambda t: t.pop("image.blocks.0.attn.scores.a.scale"), "lacks the tensor"),
    "missing bias": (lambda t: t.pop(f"{FC1}.bias"), "lacks the tensor"),
    "missing norm": (lambda t: t.pop("image.norm_post.weight"), "lacks the tensor"),
    "extra tensor": (lambda t: t.update(extra=torch.zeros(1)), "holds the tensor extra"),
    "weight too short": (put(f"{FC1}.weight_packed", lambda x: x[:-1]), "expected uint8"),
    "weight too long": (put(f"{FC1}.weight_packed", lambda x: torch.cat([x, x])), "expected uint8"),
    "weight of another type": (put(f"{FC1}.weight_packed", lambda x: x.to(torch.int8)), "expected uint8"),
    "scale of another type": (put(f"{FC1}.weight_scale", lambda x: x.double()), "expected float32"),
    "scale of another shape": (put(f"{FC1}.weight_scale", lambda x: x[None]), "expected float32"),
    "norm of another shape": (put("image.norm_post.bias", lambda x: x[:5]), "expected float32"),
    "NaN scale": (put(f"{FC1}.weight_scale", first(float("nan"))), "not finite"),
    "infinite bias": (put(f"{FC1}.bias", first(float("inf"))), "not finite"),
    "NaN norm": (put("image.norm_post.bias", first(float("nan"))), "not finite"),
    "negative scale": (put(f"{FC1}.weight_scale", first(-0.1)), "not positive"),
    "zero scale": (put(f"{FC1}.weight_scale", first(0.0)), "not positive"),
    "negative input scale": (put(f"{FC1}.input_scale", first(-0.1)), "not valid"),
    "zero point beyond the codes": (put(f"{FC1}.input_zero_point", first(16)), "not valid"),
    "operand zero point beyond the codes": (put("image.blocks.0.attn.context.b.zero_point", first(16)), "not valid"),
    "negative logit scale of another shape": (put("log_logit_scale", lambda x: x[None]), "expected float32"),
    "token ids of another type": (
        lambda t: t.update({f"{TOKENS}.token_ids": torch.arange(5)}),
        "expected int32",
    ),
    "token ids as a matrix": (
        lambda t: t.update({f"{TOKENS}.token_ids": torch.zeros(5, 5, dtype=torch.int32)}),
        "expected int32",
    ),
    "token ids as a number": (
        lambda t: t.update({f"{TOKENS}.token_ids": torch.tensor(3, dtype=torch.int32)}),
        "expected int32",
    ),
    **{
        f"token ids {label}": (
            partial(number_rows, ids),
            "rising row numbers",
        )
        for label, ids in {
            "out of range": [1, 49408],
            "negative": [-1, 3],
            "repeated": [4, 4],
            "falling": [9, 2],
            "empty": [],
        }.items()
    },
}


@pytest.mark.parametrize(("edit", "about"), TENSOR_ATTACKS.values(), ids=TENSOR_ATTACKS)
def test_damaged_tensors(copied: Path, edit: Callable[[Tensors], object], about: str) -> None:
    tensors = load_file(copied / "model.safetensors")
    edit(tensors)
    save_file(tensors, copied / "model.safetensors")
    assert_refused(copied, about)


@pytest.mark.parametrize("keep", [0, 7, 100, -1], ids=["empty", "no header", "half a header", "one byte short"])
def test_a_truncated_file(copied: Path, keep: int) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(copied, "cannot be read|has 0 bytes|has 7 bytes|has 100 bytes|but config.json announces")


def test_a_missing_file(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert_refused(copied, "cannot be read|has 0 bytes|has 7 bytes|has 100 bytes|but config.json announces")


Config = dict[str, Any]


def layers(config: Config) -> Config:
    return config["quantization_config"]["layers"]


def tokens_of(config: Config) -> Config:
    return config["architecture"]["text"]


def name_loud(layer: str, channels: object, config: Config) -> None:
    layers(config)[layer]["loud_channels"] = channels


WRONG = "does not describe|expected|is missing"

CONFIG_ATTACKS: dict[str, tuple[Callable[[Config], object], str]] = {
    "newer version": (lambda c: c.update(format_version=2), "install a newer d4c"),
    "no version": (lambda c: c.pop("format_version"), "format_version"),
    "version as text": (lambda c: c.update(format_version="1"), "format_version"),
    "no architecture": (lambda c: c.pop("architecture"), WRONG),
    "no formats": (lambda c: c.pop("quantization_config"), WRONG),
    "no recipe": (lambda c: c.pop("recipe"), WRONG),
    "recipe as text": (lambda c: c.update(recipe="W4A4"), WRONG),
    "unknown track": (lambda c: c["quantization_config"].update(track="x"), WRONG),
    "layers as a list": (lambda c: c["quantization_config"].update(layers=[]), WRONG),
    "unknown strategy": (lambda c: layers(c)[FC1]["weights"].update(strategy="group"), WRONG),
    "9 bits": (lambda c: layers(c)[FC1]["weights"].update(num_bits=9), WRONG),
    "no bits": (lambda c: layers(c)[FC1]["weights"].pop("num_bits"), WRONG),
    "a layer without weights": (lambda c: layers(c)[FC1].pop("weights"), WRONG),
    "a layer without inputs": (lambda c: layers(c)[FC1].update(input_activations=[]), WRONG),
    "a layer that is not there": (lambda c: layers(c).update({"image.fc9": layers(c)[FC1]}), WRONG),
    "a norm as a layer": (lambda c: layers(c).update({"image.norm_post": layers(c)[FC1]}), WRONG),
    "the model as a layer": (lambda c: layers(c).update({"": layers(c)[FC1]}), WRONG),
    "a layer twice as wide": (lambda c: tokens_of(c).update(mlp_width=128), "expected"),
    "other bits than stored": (lambda c: layers(c)[FC1]["weights"].update(num_bits=5), "expected uint8"),
    "fewer layers than stored": (lambda c: tokens_of(c).update(layers=1), WRONG),
    "width 0": (lambda c: tokens_of(c).update(width=0), WRONG),
    "negative width": (lambda c: tokens_of(c).update(width=-32), WRONG),
    "width as text": (lambda c: tokens_of(c).update(width="wide"), WRONG),
    "no heads": (lambda c: c["architecture"]["image"].pop("heads"), WRONG),
    "patch size 0": (lambda c: c["architecture"]["image"].update(patch_size=0), WRONG),
    "unknown kind": (lambda c: c["architecture"]["image"].update(kind="mixer"), WRONG),
    "float instead of quantized": (lambda c: layers(c).pop(FC1), "lacks the tensor"),
    **{
        f"loud channels {channels} of {layer}": (
            partial(name_loud, layer, channels),
            WRONG,
        )
        for layer, channels in (
            (LOUD, [64]),
            (LOUD, [-1]),
            (LOUD, [3, 3]),
            (LOUD, [3, 2]),
            (LOUD, [1.0]),
            (LOUD, [True]),
            (LOUD, "1"),
            (LOUD, list(range(64))),
            ("image.blocks.0.attn.k", [1]),
            ("image.blocks.0.attn.scores", [1]),
            ("image.patch_embed", [1]),
        )
    },
    "loud channels without ranges": (lambda c: layers(c)[LOUD].update(loud_channels=[1]), "lacks the tensor"),
}


@pytest.mark.parametrize(("edit", "about"), CONFIG_ATTACKS.values(), ids=CONFIG_ATTACKS)
def test_damaged_config(copied: Path, edit: Callable[[Config], object], about: str) -> None:
    path = copied / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
    assert_refused(copied, about)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "\xff"], ids=repr)
def test_config_that_is_no_json_object(copied: Path, text: str) -> None:
    (copied / "config.json").write_bytes(text.encode("latin-1"))
    assert_refused(copied, "is not JSON|expected a table")


def test_a_flipped_bit_is_noticed(copied: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        path = copied / name
        whole = path.read_bytes()
        # The last bytes of the tensors, or a digit or letter of the text.
        at = max(i for i, byte in enumerate(whole) if name.startswith("model") or chr(byte).isalnum())
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ArtifactError, match=f"{name} has changed since it was written"):
            d4c.load_quantized(copied)
        path.write_bytes(whole)
    d4c.load_quantized(copied)


def test_what_was_changed_on_purpose_is_read_without_verification(copied: Path) -> None:
    path = copied / "config.json"
    path.write_text(path.read_text().replace('"name": "', '"name": "my ', 1))
    with pytest.raises(ArtifactError, match="or load it with verify=False if you changed it yourself"):
        d4c.load_quantized(copied)
    assert d4c.load_quantized(copied, verify=False).name.startswith("my ")


def test_config_missing(copied: Path) -> None:
    (copied / "config.json").unlink()
    assert_refused(copied, "holds no config.json")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", "is not an existing folder")

"""The training example learns colored shapes on the CPU and writes a file that d4c loads."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import save_file

import d4c
from d4c import DataError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig

SCRIPT = Path(__file__).parents[2] / "examples" / "train_demo_clip.py"
SHAPES = {"red_circle": "red", "blue_circle": "blue", "green_square": "green", "yellow_square": "yellow"}
TEXT = TextConfig(width=64, layers=1, heads=1, mlp_width=128)
SMALL_VIT = CLIPConfig(32, ViTConfig(32, 8, width=64, layers=1, heads=1, mlp_width=128), TEXT)
SMALL_RN = CLIPConfig(32, ResNetConfig(32, width=4, layers=(1, 1, 1, 1), heads=2), TEXT)


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("train_demo_clip", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_demo_clip"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_demo_clip"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures a class, transparent around a shape of random place and size."""
    root, rng = tmp_path_factory.mktemp("shapes"), random.Random(0)
    for name, color in SHAPES.items():
        (root / name).mkdir()
        for i in range(8):
            picture = Image.new("RGBA", (40, 40))
            x, y, side = rng.randrange(12), rng.randrange(12), rng.randrange(20, 28)
            draw = ImageDraw.Draw(picture)
            (draw.ellipse if "circle" in name else draw.rectangle)((x, y, x + side, y + side), fill=color)
            picture.save(root / name / f"{i}.png")
    (root / "captions.json").write_text(json.dumps({name: [name.split("_")[1], "Shape"] for name in SHAPES}))
    return root


def test_words_are_chances_and_shared_words_hold_for_all_their_classes(example: ModuleType, shapes: Path) -> None:
    data = example.read_folders([shapes], 32)
    assert data.rgba.shape == (32, 4, 32, 32)
    torch.testing.assert_close(data.words.sum(1), torch.ones(4))
    assert (data.words > 0).sum(0).sort().values.tolist() == [1, 1, 1, 1, 2, 2, 4]


def test_each_set_is_drawn_by_the_root_of_its_size(example: ModuleType, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "cat" / f"{i}.png")
    data = example.read_folders([shapes, tmp_path], 8)
    of_second = data.labels == 4
    assert float(data.draw[~of_second].sum() / data.draw[of_second].sum()) == pytest.approx((32 / 2) ** 0.5)


@pytest.mark.parametrize("text", ["[]", "{", '{"red circle": 3}', '{"red circle": [3]}'])
def test_captions_of_another_form_are_refused(example: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(DataError, match="does not read as"):
        example.read_captions(tmp_path, ["red circle"])


def test_loss_is_what_loops_over_images_and_captions_give(example: ModuleType) -> None:
    image, text = (F.normalize(torch.randn(n, 5), dim=-1) for n in (6, 4))
    own = torch.tensor([0, 1, 2, 0, 1, 2])
    true = (torch.rand(6, 4) < 0.4).scatter(1, own[:, None], True)
    true[:, 3] = False  # a caption that holds for no image is a negative only
    s = (7.0 * image @ text.T).exp()
    to_text = sum(
        -(s[i, own[i]] / sum(s[i, k] for k in range(4) if k == own[i] or not true[i, k])).log() for i in range(6)
    )
    to_image = sum(
        sum(-(s[i, k] / s[:, k].sum()).log() for i in range(6) if true[i, k]) / true[:, k].sum() for k in range(3)
    )
    found = example.contrastive_loss(image, text, torch.tensor(7.0), own, true)
    torch.testing.assert_close(found, 0.7 * to_text / 6 + 0.3 * to_image / 3)


def test_augmented_pixels_stay_in_range(example: ModuleType) -> None:
    rgba = torch.randint(0, 256, (64, 4, 16, 16), dtype=torch.uint8)
    x = example.erase(example.jitter(example.crop_and_turn(example.on_random_background(rgba))))
    assert x.shape == (64, 3, 16, 16)
    assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_opaque_pixels_keep_their_color_on_any_background(example: ModuleType) -> None:
    rgba = torch.randint(0, 256, (8, 4, 5, 5), dtype=torch.uint8)
    rgba[:, 3] = 255
    torch.testing.assert_close(example.on_random_background(rgba), rgba[:, :3] / 255)


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RN], ids=["vit", "resnet"])
def test_saved_weights_load_as_the_same_model(example: ModuleType, tmp_path: Path, config: CLIPConfig) -> None:
    model = CLIP(config).eval()
    save_file(example.to_openai(model), tmp_path / "model.safetensors")
    loaded = d4c.load(tmp_path / "model.safetensors")
    assert loaded.config == config
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name].half().to(tensor.dtype), msg=name)


def test_architectures_are_read_back_from_their_weights(example: ModuleType, tmp_path: Path) -> None:
    for name in ("demo-vit", "demo-rn"):
        assert d4c.load(name).config == example.ARCHITECTURES[name]


def test_training_learns_shapes(example: ModuleType, shapes: Path, tmp_path: Path) -> None:
    data = example.read_folders([shapes], 32)
    model, losses = example.train(SMALL_VIT, data, lambda step: step / 80, 32, 1e-3, "cpu")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    save_file(example.to_openai(model), tmp_path / "model.safetensors")
    assert d4c.evaluate(d4c.load(tmp_path / "model.safetensors"), f"folder:{shapes}").top1.value > 80


def test_command_writes_a_model(example: ModuleType, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    command = ["--images", str(shapes), "--minutes", "0.002", "--batch-size", "4", "--out", str(out), "--device", "cpu"]
    assert example.main(command) == 0
    assert d4c.load(out).config == example.ARCHITECTURES["demo-vit"]


def test_command_says_what_is_wrong_with_the_images(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(["--images", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert "holds no folders" in capsys.readouterr().err

"""An artifact, its exports for other tools, and the pictures and labels that these classify."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

import d4c
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.pictures import as_rgb
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.zeroshot.classification import unit_rows

TEMPLATE = "a {} icon"


@dataclass(frozen=True)
class Pack:
    """The emoji pack, and what our runtime says of it.

    Args:
        pictures: Paths of RGB pictures.
        labels: Name of each picture.
        prompts: A prompt for each label.
        image: Our embeddings of the pictures.
        text: Our embeddings of the prompts.
    """

    pictures: tuple[Path, ...]
    labels: tuple[str, ...]
    prompts: tuple[str, ...]
    image: NDArray[np.float32]
    text: NDArray[np.float32]

    @property
    def classes(self) -> list[str]:
        """Our label of each picture."""
        return [self.labels[i] for i in (unit_rows(self.image) @ unit_rows(self.text).T).argmax(-1)]


class Immich:
    """A folder in the steps of immich's machine learning on a CPU, by its source of release 2.7.5 and of November 2026.

    The newer source obeys `resize_mode`; 2.7.5 scales the shortest side and crops whatever it says.
    """

    def __init__(self, folder: Path) -> None:
        self.visual, self.textual = (self._session(folder / part / "model.onnx") for part in ("visual", "textual"))
        self.how = json.loads((folder / "visual" / "preprocess_cfg.json").read_text())
        length = json.loads((folder / "config.json").read_text())["text_cfg"].get("context_length", 77)
        padding = json.loads((folder / "textual" / "tokenizer_config.json").read_text())["pad_token"]
        self.tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
        self.tokenizer.enable_padding(length=length, pad_token=padding, pad_id=self.tokenizer.token_to_id(padding))
        self.tokenizer.enable_truncation(max_length=length)

    @staticmethod
    def _session(graph: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads, options.intra_op_num_threads = 1, 2
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
        return onnxruntime.InferenceSession(graph, options, providers=[provider])

    def text(self, prompt: str) -> NDArray[np.float32]:
        """The embedding [D] of a prompt."""
        ids = self.tokenizer.encode(" ".join(prompt.split())).ids
        row: NDArray[np.float32] = self.textual.run(None, {"text": np.array([ids], np.int32)})[0][0]
        return row

    def image(self, path: Path | str) -> NDArray[np.float32]:
        """The embedding [D] of a picture."""
        size, resample = self.how["size"][0], Image.Resampling[self.how["interpolation"].upper()]
        picture = Image.open(path).convert("RGB")
        if self.how["resize_mode"] == "squash":
            picture = picture.resize((size, size), resample)
        else:
            factor = size / min(picture.size)
            picture = picture.resize((int(picture.width * factor), int(picture.height * factor)), resample)
            left, top = int(picture.width / 2 - size / 2), int(picture.height / 2 - size / 2)
            picture = picture.crop((left, top, left + size, top + size))
        mean, std = np.float32(self.how["mean"]), np.float32(self.how["std"])
        values = np.asarray(picture, np.float32) / 255 * (1 / std) - mean / std
        row: NDArray[np.float32] = self.visual.run(None, {"image": values.transpose(2, 0, 1)[None]})[0][0]
        return row


@pytest.fixture(scope="session")
def immich() -> type[Immich]:
    return Immich


@pytest.fixture(scope="session")
def small(quantize: Callable[..., QuantizedCLIP], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of random weights, small enough to be exported for every tool."""
    torch.manual_seed(0)
    config = CLIPConfig(32, ViTConfig(64, 16, 64, 2, 2, 128), TextConfig(width=64, layers=2, heads=2, mlp_width=128))
    folder = tmp_path_factory.mktemp("small") / "artifact"
    quantize(CLIP(config, "small").eval().requires_grad_(False), "W4A8").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ours(small: Path) -> RuntimeCLIP:
    """The small artifact in our own runtime."""
    return d4c.load_quantized(d4c.export(small, check=False).folder, runtime="onnxruntime")


def made_pack(ours: RuntimeCLIP, folder: Path, size: int) -> Pack:
    """The first classes of the emoji pack."""
    data = demo_dataset()
    labels, paths = data.classes[:size], tuple(folder / f"{i}.png" for i in range(size))
    for i, path in enumerate(paths):
        as_rgb(data.picture(i)).save(path)
    prompts = tuple(TEMPLATE.format(label.lower()) for label in labels)
    pixels = [ours.preprocess(path) for path in paths]
    return Pack(paths, labels, prompts, ours.encode_image(pixels), ours.encode_text(ours.tokenize(prompts)))


@pytest.fixture(scope="session")
def few(ours: RuntimeCLIP, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Some of the emoji pack."""
    return made_pack(ours, tmp_path_factory.mktemp("few"), 24)


@pytest.fixture(scope="session")
def pack_in(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pack]:
    """All of the emoji pack, in each of our runtimes, for what trained weights are needed for."""
    exported = d4c.export(artifact, check=False).folder

    @cache
    def made(runtime: str) -> Pack:
        return made_pack(RuntimeCLIP(exported, runtime), tmp_path_factory.mktemp("pictures"), len(demo_dataset()))

    return made


@pytest.fixture(scope="session")
def export_for(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of the small artifact for a tool, with options of `d4c.export`; tests must not change it."""

    @cache
    def made(target: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("for") / "export"
        return d4c.export(small, folder, target=target, check=False, **options).folder

    return made


@pytest.fixture(scope="session")
def trained_for(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the demo artifact for a tool."""

    @cache
    def made(target: str) -> Path:
        return d4c.export(artifact, tmp_path_factory.mktemp("for") / "export", target=target, check=False).folder

    return made

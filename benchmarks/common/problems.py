"""Models, zero-shot problems and calibration images that benchmarks share; what is slow to make is kept in a folder.

Pictures are decoded once for each dataset and image size and kept as 8-bit integers; a float model embeds them once.
Any number of processes may use one folder: who comes first makes a file, the others wait for it.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.comparison.workers.decoded import decode, normalized
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import Embeddings, Encoder, text_embeddings
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics.record import Metrics
from d4c.evaluation.score import score
from d4c.models.clip import CLIP
from d4c.models.config import Interpolation, Resize
from d4c.models.formats.identity import model_hash
from d4c.settings.presets import Preset
from d4c.storage.files import atomic_file
from d4c.synthesis.config import PRESETS, PromptForm

PHOTOS = ("tiny-imagenet-val", "cifar10-test")
"""What the bench models are judged on; the demo models, on the embedded emoji pack."""


@dataclass(frozen=True)
class Places:
    """Where models, data and cached files are, how many rows of each dataset count (None: all), and the device."""

    models: Path
    data: Path
    cache: Path
    rows: int | None
    device: str
    batch: int

    def clip(self, name: str) -> CLIP:
        """A demo model by its name, or a checkpoint of the folder."""
        return d4c.load(name if name.startswith("demo") else checkpoint(self.models, name), device=self.device)

    def problem(self, clip: CLIP, data: str) -> Problem:
        return Problem(self, clip, data)


def checkpoint(models: Path, name: str) -> Path:
    """A model of a folder: a file, or a folder of its own."""
    file = models / f"{name}.safetensors"
    return file if file.exists() else models / name


def datasets(model: str) -> tuple[str, ...]:
    return ("demo",) if model.startswith("demo") else PHOTOS


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Other processes wait here while one works on `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def made_once(path: Path) -> Iterator[Path | None]:
    """A temporary file to write where `path` is missing, else None; other processes wait meanwhile."""
    with alone_with(path):
        if path.exists():
            yield None
        else:
            with atomic_file(path) as file:
                yield file


class Problem:
    """A dataset decoded for one model, with the float model's embeddings of it."""

    def __init__(self, places: Places, clip: CLIP, data: str) -> None:
        dataset = load_dataset(data if data == "demo" else f"parquet:{places.data / data}.parquet")
        dataset = replace(dataset, name=data)
        self.places, self.clip = places, clip
        self.dataset: Dataset = dataset if places.rows is None else dataset.subset(places.rows)
        count = len(self.dataset)
        size, resize, interpolation = clip.image_size, clip.config.resize, clip.config.interpolation
        stored = places.cache / f"pixels-{data}-{size}-{resize}-{interpolation}-{count}.safetensors"
        with made_once(stored) as file:
            if file:
                save_file({"pixels": decoded(self.dataset, size, resize, interpolation)}, file)
        self.pixels = load_file(stored, device=places.device)["pixels"]
        stored = places.cache / f"float-{data}-{count}-{model_hash(clip)[:16]}.safetensors"
        with made_once(stored) as file:
            if file:
                text = text_embeddings(clip, self.dataset, places.batch)
                save_file({"image": self.images(clip), "text": text}, file)
        known = load_file(stored)
        self.reference = Embeddings(data, known["image"], known["text"], clip.logit_scale, 0.0)

    def batches(self) -> Iterator[Tensor]:
        """Normalized pixels, exactly as the model's own preprocessing gives them."""
        return normalized(self.clip, self.pixels, self.places.batch)

    @torch.no_grad()
    def images(self, model: Encoder) -> Tensor:
        """Unit embeddings [N, D] of all pictures, on the CPU."""
        parts = [torch.as_tensor(model.encode_image(batch)).float().cpu() for batch in self.batches()]
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def score(self, model: Encoder, towers: tuple[str, ...] = ("image", "text")) -> dict[str, Any]:
        """Metrics of a model beside those of float; a tower that is not named is the float model's."""
        started = time.perf_counter()
        embeddings = reference = self.reference
        if "image" in towers:
            embeddings = replace(embeddings, image=self.images(model))
        if "text" in towers:
            embeddings = replace(embeddings, text=text_embeddings(model, self.dataset, self.places.batch))
        embeddings = replace(embeddings, seconds=time.perf_counter() - started)
        metrics: Metrics = score(embeddings, self.dataset, reference=reference)
        return {**metrics.to_dict(), "float_top1": score(reference, self.dataset).top1.value}


def decoded(dataset: Dataset, size: int, resize: Resize = "crop", interpolation: Interpolation = "bicubic") -> Tensor:
    """All pictures as a model of this size sees them before normalization: uint8 [N, 3, size, size]."""
    pixels = decode(dataset, size, resize, interpolation)
    assert pixels is not None, f"{dataset.name} is too large or holds pictures that do not decode"
    return pixels


class Bench:
    """Models, problems and calibration sets, each made on first use; sets are kept in a folder."""

    def __init__(self, places: Places, sets: Path, preset: Preset, real: Path, precision: str = "auto") -> None:
        self.places, self.sets, self.preset, self.real, self.precision = places, sets, preset, real, precision
        self.clips: dict[str, CLIP] = {}
        self.problems: dict[tuple[str, str], Problem] = {}

    def clip(self, name: str) -> CLIP:
        if name not in self.clips:
            self.clips[name] = self.places.clip(name)
        return self.clips[name]

    def problem(self, model: str, data: str) -> Problem:
        if (model, data) not in self.problems:
            self.problems[model, data] = Problem(self.places, self.clip(model), data)
        return self.problems[model, data]

    def calibration(self, model: str, method: str, seed: int, prompt_form: PromptForm = "softmax") -> CalibrationSet:
        """Images of a method, of which `real` draws from the parquet file of real images."""
        form = "" if prompt_form == "softmax" else f"-{prompt_form}"
        folder = self.sets / f"{model}-{method}{form}-{self.preset}-{seed}"
        with alone_with(folder):
            if not folder.exists():
                self._made(model, method, seed, prompt_form).save(folder)
        return CalibrationSet.load(folder)

    def _made(self, model: str, method: str, seed: int, prompt_form: PromptForm) -> CalibrationSet:
        clip = self.clip(model)
        if method == "real":
            return real_images(clip, self.real, PRESETS[self.preset].images, seed)
        return d4c.synthesize(clip, method, self.preset, seed=seed, precision=self.precision, prompt_form=prompt_form)


def real_images(clip: CLIP, path: Path, count: int, seed: int) -> CalibrationSet:
    """Randomly drawn pictures of a labeled parquet file, as calibration images without prompts."""
    dataset = load_dataset(f"parquet:{path}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
    pixels = torch.stack([clip.preprocess(dataset.image(i)) for i in order.tolist()])
    statistics = {"mean": list(clip.config.mean), "std": list(clip.config.std)}
    provenance = {"method": "real", "images": count, "seed": seed, "source": path.name, **statistics}
    return CalibrationSet(pixels, ("",) * count, torch.full((count,), -1), (), provenance)

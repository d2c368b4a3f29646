"""What a worker does: make calibration images, or measure one cell. Everything comes and goes by value."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d4c.calibration.images import CalibrationSet
from d4c.comparison.config import REAL, Cell, ComparisonConfig, Source, name_of, prompts_file
from d4c.comparison.workers.decoded import decode, normalized
from d4c.device import processor_name
from d4c.errors import SettingError
from d4c.evaluation.dataset import AnyDataset
from d4c.evaluation.embed import Embeddings, embed
from d4c.evaluation.load_dataset import load_pictures
from d4c.evaluation.score import hits, score
from d4c.models.clip import CLIP
from d4c.models.config import Interpolation, Resize
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import load
from d4c.quantization.layers.quantized_weight import effective_bits
from d4c.quantization.quantize import quantize
from d4c.quantization.quantized import QuantizedCLIP
from d4c.run.rows import float_size
from d4c.storage.files import sha256
from d4c.storage.manifest import versions
from d4c.synthesis.methods.table import METHODS
from d4c.synthesis.synthesize import synthesize

Result = dict[str, Any]
"""What a cell ends with, JSON-ready."""


@dataclass(frozen=True)
class Images:
    """A calibration set as arrays, which any process can be sent; `unfit` says why a method cannot serve a model."""

    pixels: NDArray[np.float32] | None
    prompts: tuple[str, ...] = ()
    targets: NDArray[np.int64] | None = None
    texts: tuple[str, ...] = ()
    provenance: dict[str, Any] | None = None
    boxes: NDArray[np.int64] | None = None
    unfit: str | None = None

    @staticmethod
    def of(images: CalibrationSet) -> Images:
        """Pack a calibration set."""
        boxes = None if images.boxes is None else images.boxes.numpy()
        return Images(
            images.pixels.numpy(), images.prompts, images.targets.numpy(), images.texts, images.provenance, boxes
        )

    @property
    def bytes(self) -> int:
        """Bytes of the pixels."""
        return 0 if self.pixels is None else self.pixels.nbytes

    def unpacked(self) -> CalibrationSet:
        """The calibration set again."""
        assert self.pixels is not None
        assert self.targets is not None
        assert self.provenance is not None
        boxes = None if self.boxes is None else torch.from_numpy(self.boxes.copy())
        pixels, targets = torch.from_numpy(self.pixels.copy()), torch.from_numpy(self.targets.copy())
        return CalibrationSet(pixels, self.prompts, targets, self.texts, self.provenance, boxes)


def make_images(config: ComparisonConfig, source: Source, device: str) -> Images:
    """Make the calibration images of a source, or say why its method cannot serve the model."""
    clip = _clip(source.model, config.pretrained, device)
    settings = config.synthesis(source.method, source.seed)
    if source.method.startswith(REAL):
        return Images.of(_real_images(clip, source.method.removeprefix(REAL), settings.images, source.seed))
    try:
        METHODS[name_of(source.method)].check(clip)
    except SettingError as error:
        return Images(None, unfit=str(error))
    return Images.of(synthesize(clip, settings, prompts=prompts_file(source.method), progress=None))


def _real_images(clip: CLIP, spec: str, count: int, seed: int) -> CalibrationSet:
    """Images of a dataset, drawn by the seed without repetition."""
    dataset = _data(spec, None)
    if count > len(dataset):
        raise SettingError(f"{spec} has {len(dataset)} images, expected {count} to calibrate with; ask for fewer.")
    chosen = np.random.default_rng(seed).choice(len(dataset), count, replace=False)
    return CalibrationSet.from_pictures(clip, [dataset.image(int(i)) for i in chosen])


def measure_cell(config: ComparisonConfig, cell: Cell, images: Images | None, device: str) -> Result:
    """Quantize as a cell says, and measure the result on every dataset."""
    clip = _clip(cell.model, config.pretrained, device)
    seconds: dict[str, float] = {}
    model: CLIP = clip
    facts: Result = {"bytes": float_size(clip)}
    if not cell.is_float:
        assert images is not None
        calibration = images.unpacked()
        started = time.perf_counter()
        model = quantize(clip, calibration, config.quantization(cell), progress=None)
        seconds["quantize"] = time.perf_counter() - started
        seconds["synthesize"] = float(calibration.provenance.get("seconds", 0.0))
        facts = _facts(model, calibration)
    results = {spec: _measured(config, cell, model, spec, device) for spec in config.datasets}
    # No integer kernel computes the formats of the published track.
    if config.latency and isinstance(model, QuantizedCLIP) and cell.track == "deployable":
        from d4c.comparison.latency import latencies

        facts["latency"] = latencies(clip, model)
    return {
        **facts,
        "seconds": {**seconds, "evaluate": sum(result["metrics"]["seconds"] for result in results.values())},
        "model_sha256": _hash(cell.model, config.pretrained, device),
        "float_bytes": float_size(clip, whole_table=cell.towers == "image"),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else processor_name(),
        "versions": versions(),
        "results": results,
    }


def _facts(model: QuantizedCLIP, calibration: CalibrationSet) -> Result:
    """What is known of a quantized model without data."""
    with tempfile.TemporaryDirectory() as folder:
        model.write(Path(folder))
        file = Path(folder) / "model.safetensors"
        size, digest = file.stat().st_size, sha256(file)
    return {
        "bytes": size,
        "artifact_sha256": digest,
        "bits": {tower: effective_bits(model.tower(tower)) or 32.0 for tower in ("image", "text")},
        "exceptions": model.recipe["overrides"],
        "calibration_images": len(calibration),
    }


def _measured(config: ComparisonConfig, cell: Cell, model: CLIP, spec: str, device: str) -> Result:
    """Metrics on a dataset, and what each image says: whether it counts for the leading figure, as bits in hex."""
    dataset, reference = _float_embeddings(cell.model, config.pretrained, device, spec, config.limit)
    clip = _clip(cell.model, config.pretrained, device)
    embeddings = reference if cell.is_float else _embed(model, clip, spec, config.limit)
    metrics = score(embeddings, dataset, reference=None if cell.is_float else reference)
    counted = hits(embeddings, dataset)
    choices = embeddings.scores().argmax(-1).numpy().astype("<i4")
    return {
        "figure": metrics.leading,
        "metrics": metrics.to_dict(),
        "hits": None if counted is None else np.packbits(counted).tobytes().hex(),
        "predictions_sha256": hashlib.sha256(choices.tobytes()).hexdigest(),
    }


def _embed(model: CLIP, clip: CLIP, spec: str, limit: int | None) -> Embeddings:
    """Embeddings of a dataset by a model made from `clip`; a process decodes the pictures once if it can keep them."""
    batch = GPU_BATCH if clip.device.type == "cuda" else CPU_BATCH
    pixels = _decoded(spec, limit, clip.image_size, clip.config.resize, clip.config.interpolation)
    decoded = None if pixels is None else normalized(clip, pixels, batch)
    return embed(model, _data(spec, limit), batch_size=batch, decoded=decoded)


CPU_BATCH, GPU_BATCH = 64, 512
"""Pictures that a tower takes at once."""
KEPT = 8
"""Models, datasets and embeddings that a process keeps, in the order of their use."""


@lru_cache(maxsize=KEPT)
def _clip(model: str, pretrained: str | None, device: str) -> CLIP:
    """A float model."""
    return load(model, pretrained, device=device)


@lru_cache(maxsize=KEPT)
def _hash(model: str, pretrained: str | None, device: str) -> str:
    return model_hash(_clip(model, pretrained, device))


@lru_cache(maxsize=KEPT)
def _data(spec: str, limit: int | None) -> AnyDataset:
    dataset = load_pictures(spec)
    return dataset if limit is None else dataset.subset(limit)


@lru_cache(maxsize=KEPT)
def _decoded(spec: str, limit: int | None, size: int, resize: Resize, interpolation: Interpolation) -> Tensor | None:
    return decode(_data(spec, limit), size, resize, interpolation)


@lru_cache(maxsize=2 * KEPT)
def _float_embeddings(
    model: str, pretrained: str | None, device: str, spec: str, limit: int | None
) -> tuple[AnyDataset, Embeddings]:
    """A dataset, and the float model's embeddings of it."""
    clip = _clip(model, pretrained, device)
    return _data(spec, limit), _embed(clip, clip, spec, limit)

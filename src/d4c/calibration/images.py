"""`CalibrationSet`: images to calibrate with, what they are meant to show, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d4c.calibration.sheet import contact_sheet
from d4c.errors import ArtifactError, DataError
from d4c.files import atomic_folder, refuse_occupied, sha256, write_json

TENSORS = "calibration.safetensors"
RECORD = "provenance.json"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Calibration images with their provenance.

    `pixels` is float32 [N, 3, S, S] on the CPU, normalized with the model's mean and std. `prompts` holds each
    image's target prompt ("" where it has none), `targets` int64 [N] its index in `texts` (-1 where none), `texts` all
    prompts that were candidates. `provenance` is JSON: method, settings, seed, model, versions; "mean" and "std"
    must be in it, since they turn pixels back into pictures. `boxes` int64 [N, 4] are the left, top, right and bottom
    edges in pixels, the last two behind the box, of the square that each image's object was put into: of "d4c" and
    "pgsi+scg", the only methods that have a foreground; elsewhere, and in sets of before they were kept, None.
    Raises DataError when these do not fit together.
    """

    pixels: Tensor
    prompts: tuple[str, ...]
    targets: Tensor
    texts: tuple[str, ...]
    provenance: dict[str, Any]
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        pixels, targets = self.pixels, self.targets
        n = len(self.prompts)
        if pixels.dtype != torch.float32 or pixels.device.type != "cpu" or pixels.dim() != 4 or not pixels.numel():
            raise DataError(f"the pixels are {describe(pixels)}, expected float32 [N, 3, S, S] on the CPU.")
        if pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise DataError(f"the pixels are {describe(pixels)}, expected square images of 3 channels.")
        if len(pixels) != n or targets.dtype != torch.int64 or list(targets.shape) != [n]:
            raise DataError(
                f"there are {len(pixels)} images, {n} prompts and targets of {describe(targets)}; "
                "expected one prompt and one int64 target for each image."
            )
        if not bool(torch.isfinite(pixels).all()):
            raise DataError("the pixels hold values that are not finite; make the images anew.")
        for i, (prompt, target) in enumerate(zip(self.prompts, targets.tolist(), strict=True)):
            if not -1 <= target < len(self.texts) or prompt != (self.texts[target] if target >= 0 else ""):
                raise DataError(
                    f"image {i} has prompt {prompt[:60]!r} and target {target}, which is another of the "
                    f"{len(self.texts)} texts or none; expected texts[target], or '' and -1."
                )
        if self.boxes is not None and not are_boxes(self.boxes, n, pixels.shape[-1]):
            raise DataError(
                f"the boxes are {describe(self.boxes)}, expected int64 [{n}, 4] with left < right and top < bottom "
                f"inside of {pixels.shape[-1]} pixels; make the images anew."
            )
        mean, std = self.provenance.get("mean"), self.provenance.get("std")
        if not is_triple(mean) or not is_triple(std) or min(std) <= 0:
            raise DataError("the provenance has no 'mean' and 'std' of three numbers each; take them from the model.")

    def __len__(self) -> int:
        return len(self.pixels)

    def pictures(self) -> NDArray[np.uint8]:
        """The images as 8-bit RGB [N, S, S, 3]; values outside [0, 1] are clipped, in the pictures only."""
        mean, std = (torch.tensor(self.provenance[key])[:, None, None] for key in ("mean", "std"))
        values = ((self.pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        return values.permute(0, 2, 3, 1).contiguous().numpy()

    def save(self, folder: str | Path) -> None:
        """Write the exact tensors, the provenance, each image as PNG and a contact sheet; all of it or nothing.

        An earlier set in `folder` is replaced; ArtifactError is raised if something else is there.
        """
        path = Path(folder)
        refuse_occupied(path, is_calibration_set, "a calibration set")
        pictures = self.pictures()
        digits = max(3, len(str(len(self) - 1)))
        with atomic_folder(path) as temporary:
            tensors = {"pixels": self.pixels, "targets": self.targets}
            if self.boxes is not None:
                tensors["boxes"] = self.boxes
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
            (temporary / "images").mkdir()
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(temporary / "images" / f"{i:0{digits}d}.png")
            captions = [prompt or f"image {i}" for i, prompt in enumerate(self.prompts)]
            contact_sheet(pictures, captions).save(temporary / "contact_sheet.png")
            record = {
                "format": FORMAT,
                "sha256": sha256(temporary / TENSORS),
                "provenance": self.provenance,
                "prompts": self.prompts,
                "texts": self.texts,
            }
            write_json(temporary / RECORD, record)

    @classmethod
    def load(cls, folder: str | Path) -> CalibrationSet:
        """Read what `save` wrote, bit for bit; raises ArtifactError for anything else."""
        path = Path(folder)
        record = read_record(path)
        try:
            if sha256(path / TENSORS) != record["sha256"]:
                raise ArtifactError(f"{path / TENSORS} differs from what was saved; make the calibration set anew.")
            tensors = load_file(path / TENSORS)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"{path / TENSORS} cannot be read ({type(error).__name__}); make the calibration set anew."
            ) from None
        if set(tensors) - {"boxes"} != {"pixels", "targets"}:
            raise ArtifactError(f"{path / TENSORS} holds {sorted(tensors)}, expected pixels, targets and maybe boxes.")
        prompts, texts = tuple(record["prompts"]), tuple(record["texts"])
        try:
            return cls(prompts=prompts, texts=texts, provenance=record["provenance"], **tensors)
        except DataError as error:
            raise ArtifactError(f"{path} is no valid calibration set: {error}") from None


def is_calibration_set(folder: Path) -> bool:
    """Whether `CalibrationSet.save` wrote this folder."""
    return (folder / RECORD).is_file()


def read_record(path: Path) -> dict[str, Any]:
    """The content of provenance.json with every field of the right kind."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except OSError:
        raise ArtifactError(f"{path} has no readable {RECORD}; give the folder of a calibration set.") from None
    except ValueError:
        raise ArtifactError(f"{path / RECORD} is not JSON; make the calibration set anew.") from None
    kinds = {"format": int, "sha256": str, "provenance": dict, "prompts": list, "texts": list}
    if not isinstance(record, dict) or any(not isinstance(record.get(name), kind) for name, kind in kinds.items()):
        raise ArtifactError(f"{path / RECORD} lacks one of {', '.join(kinds)}; make the calibration set anew.")
    if record["format"] != FORMAT:
        raise ArtifactError(f"{path / RECORD} has format {record['format']}, this d4c reads {FORMAT}; make it anew.")
    if not all(isinstance(text, str) for text in record["prompts"] + record["texts"]):
        raise ArtifactError(f"{path / RECORD} has a prompt that is no string; make the calibration set anew.")
    return record


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def are_boxes(boxes: Tensor, n: int, size: int) -> bool:
    """Whether these are n boxes that are not empty inside of images of `size` pixels a side."""
    if boxes.dtype != torch.int64 or list(boxes.shape) != [n, 4]:
        return False
    low, high = boxes[:, :2], boxes[:, 2:]
    return bool((low >= 0).all() and (low < high).all() and (high <= size).all())


def is_triple(value: Any) -> TypeGuard[Sequence[float]]:
    return isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(item, int | float) for item in value)

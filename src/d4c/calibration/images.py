"""`CalibrationSet`: calibration images, the prompts that they are made for, and how they were made."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d4c.calibration.sheet import contact_sheet
from d4c.errors import ArtifactError, DataError, reason_of, warn
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_record
from d4c.picture_files import PICTURE_SUFFIXES, none_readable, pictures_below, skipped_summary
from d4c.pictures import Picture
from d4c.reading.json_file import read_json
from d4c.reading.ranges import PIXEL_MEAN, PIXEL_STD
from d4c.reading.schema import AnyText, List, Record, Text, check, check_version
from d4c.reading.seal import check_seal, write_sealed
from d4c.storage.files import sha256
from d4c.storage.outputs import output_folder
from d4c.version import __version__

TENSORS = "calibration.safetensors"
RECORD = "provenance.json"
FORMAT_VERSION = 1
KIND = "calibration set"
"""What the manifest of a saved set calls it."""
ADVICE = "make the calibration set again"
PROVENANCE = Record(
    {"mean": PIXEL_MEAN, "std": PIXEL_STD}, {"method": Text(), "model": Record({"name": Text(), "sha256": Text()})}
)
RECORD_KIND = Record(
    {
        "sha256": Text(64),
        "provenance": PROVENANCE,
        "prompts": List(AnyText()),
        "texts": List(AnyText()),
    }
)
"""What `provenance.json` holds."""
PICTURES = "pictures"
"""The method in the provenance of a set of a user's pictures."""


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Calibration images with their provenance.

    Args:
        pixels: float32 [N, 3, S, S] on the CPU, normalized with the model's mean and std.
        prompts: Target prompt of each image, "" where it has none.
        targets: Index of each image's prompt in `texts`, int64 [N], -1 where it has none.
        texts: All prompts that were candidates.
        provenance: How the images were made, JSON-ready: method, settings, seed, model, versions. "mean" and "std" are
            required, since they turn pixels back into pictures.
        boxes: Square that each image's object was put into, int64 [N, 4]: left, top, right and bottom edge in pixels,
            the last two just outside; None where the method has no foreground, and in sets saved before boxes were
            kept.

    Raises:
        DataError: These do not fit together.
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
            raise DataError(
                f"The pixels are {describe(pixels)}, expected float32 [N, 3, S, S] on the CPU; convert them."
            )
        if pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise DataError(
                f"The pixels are {describe(pixels)}, expected square images of 3 channels; use the model's preprocess."
            )
        if len(pixels) != n or targets.dtype != torch.int64 or list(targets.shape) != [n]:
            raise DataError(
                f"There are {len(pixels)} images, {n} prompts and targets of {describe(targets)}, "
                "expected one prompt and one int64 target for each image; add what is missing."
            )
        if not bool(torch.isfinite(pixels).all()):
            raise DataError("The pixels hold values that are not finite numbers; make the images again.")
        for i, (prompt, target) in enumerate(zip(self.prompts, targets.tolist(), strict=True)):
            if not -1 <= target < len(self.texts) or prompt != (self.texts[target] if target >= 0 else ""):
                raise DataError(
                    f"Image {i} has prompt {prompt[:60]!r} and target {target}, which is another of the "
                    f"{len(self.texts)} texts or none, expected texts[target], or '' and -1; correct one of them."
                )
        if self.boxes is not None and not are_boxes(self.boxes, n, pixels.shape[-1]):
            raise DataError(
                f"The boxes are {describe(self.boxes)}, expected int64 [{n}, 4] with left < right and top < bottom "
                f"within {pixels.shape[-1]} pixels; make the images again."
            )
        pixels_kind = Record({"mean": PIXEL_MEAN, "std": PIXEL_STD})
        check(self.provenance, pixels_kind, "The provenance", DataError, "take mean and std from the model")

    def __len__(self) -> int:
        return len(self.pixels)

    def pictures(self) -> NDArray[np.uint8]:
        """Return the images as 8-bit RGB [N, S, S, 3], with values outside [0, 1] clipped."""
        mean, std = (torch.tensor(self.provenance[key])[:, None, None] for key in ("mean", "std"))
        values = ((self.pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        return values.permute(0, 2, 3, 1).contiguous().numpy()

    @classmethod
    def from_pictures(cls, clip: CLIP, pictures: Sequence[Picture]) -> CalibrationSet:
        """Make a set of your own pictures, preprocessed as the model does it, so that no synthesis is needed.

        Args:
            clip: The model to calibrate.
            pictures: Paths, encoded bytes, open files, arrays or Pillow images of any size and mode; transparent parts
                become white.

        Returns:
            A set without prompts, whose provenance has "method": "pictures" and the names of the files.

        Raises:
            DataError: There are no pictures, or one does not decode.
        """
        names = [Path(picture).name if isinstance(picture, str | PathLike) else "" for picture in pictures]
        return cls._from_pixels(clip, [clip.preprocess(picture).cpu() for picture in pictures], names)

    @classmethod
    def _from_pixels(cls, clip: CLIP, pixels: list[Tensor], names: list[str]) -> CalibrationSet:
        if not pixels:
            raise DataError("There are no pictures to calibrate with, expected at least one; give a picture.")
        provenance = {
            "method": PICTURES,
            "pictures": names,
            "model": model_record(clip),
            "mean": list(clip.config.mean),
            "std": list(clip.config.std),
            "versions": {"d4c": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        n = len(pixels)
        return cls(torch.stack(pixels), ("",) * n, torch.full((n,), -1), (), provenance)

    def save(self, folder: str | Path) -> None:
        """Write the exact tensors, the provenance, each image as PNG and a contact sheet; all of it or nothing.

        Args:
            folder: Folder to write; an earlier set there is replaced.

        Raises:
            ArtifactError: The folder holds something that d4c did not write, or cannot be replaced.
        """
        with output_folder(Path(folder), KIND) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write the files of `save` into an empty folder."""
        pictures = self.pictures()
        digits = max(3, len(str(len(self) - 1)))
        tensors = {"pixels": self.pixels, "targets": self.targets}
        if self.boxes is not None:
            tensors["boxes"] = self.boxes
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
        (folder / "images").mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / "images" / f"{i:0{digits}d}.png")
        captions = [prompt or f"image {i}" for i, prompt in enumerate(self.prompts)]
        contact_sheet(pictures, captions).save(folder / "contact_sheet.png")
        record = {
            "format_version": FORMAT_VERSION,
            "sha256": sha256(folder / TENSORS),
            "provenance": self.provenance,
            "prompts": self.prompts,
            "texts": self.texts,
        }
        write_sealed(folder / RECORD, record)

    @classmethod
    def load(cls, folder: str | Path) -> CalibrationSet:
        """Read what `save` wrote, bit for bit.

        Args:
            folder: The folder.

        Returns:
            The set.

        Raises:
            ArtifactError: The folder does not hold a calibration set, or the set is damaged.
        """
        path = Path(folder)
        record = read_record(path)
        try:
            if sha256(path / TENSORS) != record["sha256"]:
                raise ArtifactError(f"{path / TENSORS} differs from what was saved; make the calibration set again.")
            tensors = load_file(path / TENSORS)
        except (OSError, SafetensorError, UnicodeError) as error:
            raise ArtifactError(
                f"{path / TENSORS} cannot be read ({reason_of(error)}); make the calibration set again."
            ) from None
        if set(tensors) - {"boxes"} != {"pixels", "targets"}:
            raise ArtifactError(
                f"{path / TENSORS} holds {sorted(tensors)}, expected pixels, targets and optionally boxes; "
                "make the calibration set again."
            )
        prompts, texts = tuple(record["prompts"]), tuple(record["texts"])
        try:
            return cls(prompts=prompts, texts=texts, provenance=record["provenance"], **tensors)
        except DataError as error:
            raise ArtifactError(f"{path} is not a valid calibration set: {error}") from None


def load_calibration(path: str | Path, clip: CLIP) -> CalibrationSet:
    """Load the calibration images in a folder: a saved set, or pictures, with a warning that names what is not read.

    Args:
        path: Folder that `CalibrationSet.save` wrote, or folder of pictures, which may be in sub-folders.
        clip: The model that pictures are preprocessed for.

    Returns:
        The saved set, or the pictures in the order of their paths.

    Raises:
        ArtifactError: The saved set is damaged.
        DataError: The folder does not exist, or holds no pictures or none that decodes.
    """
    folder = Path(path)
    check_calibration(folder)
    if is_calibration_set(folder):
        return CalibrationSet.load(folder)
    pictures = sorted(pictures_below(folder))
    if not pictures:
        raise DataError(
            f"{folder} holds neither a calibration set nor pictures ({', '.join(PICTURE_SUFFIXES)}); give one of them."
        )
    pixels: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for picture in pictures:
        name = picture.relative_to(folder).as_posix()
        try:
            pixels[name] = clip.preprocess(picture).cpu()
        except DataError as error:
            skipped[name] = str(error)
    if not pixels:
        raise none_readable(folder, skipped)
    if skipped:
        warn(" ".join(skipped_summary(skipped.values())))
    return CalibrationSet._from_pixels(clip, list(pixels.values()), [Path(name).name for name in pixels])


def check_calibration(folder: Path) -> None:
    """Raise an error for what cannot hold calibration images, and for a damaged record of them; loads nothing large."""
    if is_calibration_set(folder):
        read_record(folder)
    elif not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a calibration set or a folder of pictures.")


def is_calibration_set(folder: Path) -> bool:
    """Whether `CalibrationSet.save` wrote this folder."""
    return (folder / RECORD).is_file()


def read_record(path: Path) -> dict[str, Any]:
    """Read provenance.json and check the type of every field; raise ArtifactError if it is not what `save` wrote."""
    file = path / RECORD
    if not file.is_file():
        raise ArtifactError(f"{path} has no readable {RECORD}; give the folder of a calibration set.")
    record: dict[str, Any] = read_json(file, ArtifactError, ADVICE)
    check_version(record, FORMAT_VERSION, str(file), ArtifactError, ADVICE)
    check_seal(record, str(file), ArtifactError, ADVICE)
    check(record, RECORD_KIND, str(file), ArtifactError, ADVICE)
    return record


def describe(tensor: Tensor) -> str:
    """Return type, shape and device of a tensor for an error message."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def are_boxes(boxes: Tensor, n: int, size: int) -> bool:
    """Whether a tensor holds n boxes that are not empty, within images of `size` x `size` pixels."""
    if boxes.dtype != torch.int64 or list(boxes.shape) != [n, 4]:
        return False
    low, high = boxes[:, :2], boxes[:, 2:]
    return bool((low >= 0).all() and (low < high).all() and (high <= size).all())

"""Reads the folder that `d4c export` wrote and checks it before a runtime does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4c.errors import ArtifactError
from d4c.files import read_json
from d4c.files import sha256 as digest

FORMAT_VERSION = 1
ADVICE = "the export is damaged, run d4c export again"
FILES = ("image.onnx", "text.onnx", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ExportedModel:
    """The settings of an export.

    Args:
        folder: Where it is.
        name: Label of the model.
        opset: Opset of the graphs.
        embed_dim: Width D of the embeddings.
        image_size: Side of the square input in pixels.
        context_length: Largest number of tokens of a prompt.
        eos_id: Token that marks the end of a prompt; None where the largest id does.
        begin_id: Token that every prompt begins with; None where any token may.
        logit_scale: Factor from cosine to logit.
        mean: Mean of red, green and blue that pixels are normalized with.
        std: Standard deviation of red, green and blue.
        origin: SHA-256 of the weights of the float model that it was made from; None if they are not known.
        saturating: Layers whose 8-bit weights need VNNI instructions; none unless quantized with `full_range`.
        fingerprint: Hash of everything that image embeddings depend on.
    """

    folder: Path
    name: str
    opset: int
    embed_dim: int
    image_size: int
    context_length: int
    eos_id: int | None
    begin_id: int | None
    logit_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str | None
    saturating: tuple[str, ...]
    fingerprint: str


def read_export(folder: Path) -> ExportedModel:
    """Check an export against the sizes and hashes in its export.json and read its settings.

    Args:
        folder: What `d4c export` wrote.

    Raises:
        ArtifactError: It is not an export, of a format without graphs, incomplete, damaged or from a newer version.
    """
    data = _read_description(folder)
    try:
        if data["format"] != "onnx":
            raise ArtifactError(
                f"{folder} holds an export of format {data['format']!r}, which this runtime does not execute; "
                "export with --format onnx."
            )
        for name in FILES:
            _check_file(folder / name, **data["files"][name])
        pixels = read_json(folder / "preprocessor_config.json", ArtifactError, ADVICE)
        mean, std = ([float(number) for number in pixels[key]] for key in ("image_mean", "image_std"))
        return ExportedModel(
            folder=folder,
            name=str(data["name"]),
            opset=int(data["opset"]),
            embed_dim=int(data["embed_dim"]),
            image_size=int(data["image_size"]),
            context_length=int(data["context_length"]),
            eos_id=None if data["eos_id"] is None else int(data["eos_id"]),
            begin_id=None if data["begin_id"] is None else int(data["begin_id"]),
            logit_scale=float(data["logit_scale"]),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            origin=None if data["model"] is None else str(data["model"]["sha256"]),
            saturating=tuple(str(layer) for layer in data["saturating"]),
            fingerprint="".join(data["files"][name]["sha256"] for name in ("image.onnx", "preprocessor_config.json")),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{folder / 'export.json'} does not describe an exported CLIP ({error!r}); run d4c export again."
        ) from None


def _read_description(folder: Path) -> Any:
    """The contents of export.json, if this version of d4c can read its format."""
    if not (folder / "export.json").is_file():
        raise _not_an_export(folder)
    data = read_json(folder / "export.json", ArtifactError, ADVICE)
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{folder / 'export.json'} has format version {version}, but this d4c reads up to {FORMAT_VERSION}; "
            "install a newer d4c."
        )
    return data


def _not_an_export(folder: Path) -> ArtifactError:
    if (folder / "config.json").is_file():
        return ArtifactError(
            f"{folder} holds no graphs for this runtime; run d4c export {folder} and give the folder that it writes."
        )
    return ArtifactError(f"{folder} holds no export.json; give the folder that d4c export wrote.")


def _check_file(path: Path, bytes: int, sha256: str) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise ArtifactError(f"{path} is missing; run d4c export again.")
    if size != bytes:
        raise ArtifactError(f"{path} has {size} bytes, expected {bytes}; the export is damaged, run d4c export again.")
    if digest(path) != sha256:
        raise ArtifactError(f"{path} has changed since it was written; run d4c export again.")

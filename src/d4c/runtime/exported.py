"""Reads the folder that `d4c export` wrote and checks it before a runtime does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4c.errors import ArtifactError
from d4c.models.tokenizer import VOCAB_SIZE
from d4c.reading.json_file import read_json
from d4c.reading.onnx_graph import FLOAT, INT64, ORIGIN, Foreign, Value, read_summary
from d4c.reading.ranges import CONTEXT_LENGTH, IMAGE_SIZE, LOGIT_SCALE, PIXEL_MEAN, PIXEL_STD, TOKEN_ID, WIDTH
from d4c.reading.schema import Kind, List, Maybe, Record, Text, Whole, check, check_version, shown
from d4c.reading.seal import FILES as HASHES
from d4c.reading.seal import check_file, check_seal

FORMAT_VERSION = 1
ADVICE = "the export is damaged, run d4c export again"
FILES = ("image.onnx", "text.onnx", "tokenizer.json", "preprocessor_config.json")
OUTPUT = "embedding"
PLAIN: dict[str, Kind] = {
    "name": Text(),
    "opset": Whole(1, 1000),
    "embed_dim": WIDTH,
    "image_size": IMAGE_SIZE,
    "context_length": CONTEXT_LENGTH,
    "eos_id": TOKEN_ID,
    "begin_id": TOKEN_ID,
    "logit_scale": LOGIT_SCALE,
}
"""The fields of export.json that are fields of `ExportedModel` as they are."""
KIND = Record(
    {
        **PLAIN,
        "artifact": Text(64),
        "model": Maybe(Record({"sha256": Text(64)})),
        "saturating": List(Text()),
        "files": Record(dict.fromkeys(FILES, HASHES.kind)),
    }
)
"""What export.json holds."""
PIXELS = Record({"image_mean": PIXEL_MEAN, "image_std": PIXEL_STD})
"""What is read of preprocessor_config.json."""


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


def read_export(folder: Path, verify: bool = True) -> ExportedModel:
    """Check an export against its export.json and read its settings.

    Args:
        folder: What `d4c export` wrote.
        verify: Compare the sizes and hashes of all files.

    Raises:
        ArtifactError: It is not an export, of a format without graphs, incomplete, damaged, changed since it was
            written, put together from several exports, or from a newer version.
    """
    file = folder / "export.json"
    data = _read_description(folder)
    check(data, KIND, str(file), ArtifactError, ADVICE)
    if data["eos_id"] is not None and data["eos_id"] >= VOCAB_SIZE:
        raise ArtifactError(f"{file}: eos_id is {data['eos_id']}, beyond the vocabulary of {VOCAB_SIZE}; {ADVICE}.")
    if verify:
        check_seal(data, str(file), ArtifactError, ADVICE)
        for name in FILES:
            check_file(folder / name, data["files"][name], ArtifactError, ADVICE)
    pixels = read_json(folder / "preprocessor_config.json", ArtifactError, ADVICE)
    check(pixels, PIXELS, str(folder / "preprocessor_config.json"), ArtifactError, ADVICE)
    _check_graphs(folder, data)
    mean, std = pixels["image_mean"], pixels["image_std"]
    return ExportedModel(
        folder=folder,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        origin=None if data["model"] is None else data["model"]["sha256"],
        saturating=tuple(data["saturating"]),
        fingerprint="".join(data["files"][name]["sha256"] for name in ("image.onnx", "preprocessor_config.json")),
        **{name: data[name] for name in PLAIN},
    )


def _check_graphs(folder: Path, data: dict[str, Any]) -> None:
    """Raise ArtifactError for graphs that d4c did not write, that other sizes belong to, or of another model."""
    size, width = data["image_size"], data["embed_dim"]
    inputs = {"image": ("pixels", Value(FLOAT, (-1, 3, size, size))), "text": ("tokens", Value(INT64, (-1, -1)))}
    for tower, (name, value) in inputs.items():
        file = folder / f"{tower}.onnx"
        try:
            graph = read_summary(file)
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read ({error.strerror}); {ADVICE}.") from None
        except Foreign as error:
            raise ArtifactError(f"{file} is not a graph of d4c: {error}; {ADVICE}.") from None
        if graph.inputs != {name: value} or graph.outputs != {OUTPUT: Value(FLOAT, (-1, width))}:
            raise ArtifactError(
                f"{file} does not map {name} to an embedding as export.json says (image size {size}, width {width}); "
                f"{ADVICE}."
            )
        if graph.metadata.get(ORIGIN) != data["artifact"]:
            raise ArtifactError(f"{file} was not made from the artifact that export.json names; {ADVICE}.")


def _read_description(folder: Path) -> Any:
    """The contents of export.json, if this version of d4c can read its format."""
    file = folder / "export.json"
    if not file.is_file():
        raise _not_an_export(folder)
    data = read_json(file, ArtifactError, ADVICE)
    check_version(data, FORMAT_VERSION, str(file), ArtifactError, ADVICE)
    if data.get("format") != "onnx":
        raise ArtifactError(
            f"{folder} holds an export for {shown(data.get('format'))}, which this runtime does not execute; "
            "export without --for."
        )
    return data


def _not_an_export(folder: Path) -> ArtifactError:
    if (folder / "config.json").is_file():
        return ArtifactError(
            f"{folder} holds no graphs for this runtime; run d4c export {folder} and give the folder that it writes."
        )
    return ArtifactError(f"{folder} holds no export.json; give the folder that d4c export wrote.")

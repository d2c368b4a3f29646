"""Reads the folder that `d4c export` wrote and checks it before a runtime does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from d4c.errors import ArtifactError
from d4c.models.config import Interpolation, Resize
from d4c.models.inputs.prompt_tokenizers import ClipTokenizer, PromptTokenizer, read_own_tokenizer
from d4c.models.inputs.reader_files import PROCESSOR, PROCESSOR_KIND, read_resize
from d4c.models.tower_config import TokenizerKind
from d4c.reading.folder_kind import refuse_other_folders
from d4c.reading.json_file import read_json
from d4c.reading.onnx_graph import FLOAT, INT64, ORIGIN, Foreign, Value, read_summary
from d4c.reading.ranges import CONTEXT_LENGTH, IMAGE_SIZE, LOGIT_BIAS, LOGIT_SCALE, TOKEN_ID, VOCAB_SIZE, WIDTH
from d4c.reading.schema import Flag, Kind, List, Maybe, OneOf, Record, Text, Whole, check, check_version, shown
from d4c.reading.seal import FILES as HASHES
from d4c.reading.seal import check_file, check_seal

FORMAT_VERSION = 1
ADVICE = "the export is damaged, run d4c export again"
FILES = {
    "image": ("image.onnx", "preprocessor_config.json"),
    "text": ("text.onnx", "tokenizer.json"),
}
"""The files of each tower."""
TOWERS = tuple(FILES)
OUTPUT = "embedding"
PLAIN: dict[str, Kind] = {
    "name": Text(),
    "opset": Whole(1, 1000),
    "embed_dim": WIDTH,
    "image_size": Whole(0, IMAGE_SIZE.high),
    "context_length": Whole(0, CONTEXT_LENGTH.high),
    "vocab_size": Whole(0, VOCAB_SIZE.high),
    "every_position_counts": Flag(),
    "eos_id": TOKEN_ID,
    "begin_id": TOKEN_ID,
    "logit_scale": Maybe(LOGIT_SCALE),
    "logit_bias": LOGIT_BIAS,
}
"""The fields of export.json that are fields of `ExportedModel` as they are."""
KIND = Record(
    {
        **PLAIN,
        "tokenizer": OneOf(get_args(TokenizerKind)),
        "artifact": Text(64),
        "model": Maybe(Record({"sha256": Text(64)})),
        "saturating": List(Text()),
        "files": Record(),
    },
    {"towers": List(OneOf(TOWERS), 1, 2), "pad_id": Whole(0, VOCAB_SIZE.high - 1)},
)
"""What export.json holds; `_check_towers` checks what depends on the towers."""
NO_PIXELS: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "resample": 3,
    "image_mean": (0, 0, 0),
    "image_std": (1, 1, 1),
}
"""In place of how pictures are read, where there is no image tower."""


@dataclass(frozen=True)
class ExportedModel:
    """The settings of an export.

    Args:
        folder: Where it is.
        name: Label of the model.
        towers: The towers that there are; what belongs to another one is 0 or None.
        opset: Opset of the graphs.
        embed_dim: Width D of the embeddings.
        image_size: Side of the square input in pixels.
        context_length: Largest number of tokens of a prompt.
        vocab_size: Number of token ids.
        every_position_counts: Whether rows must have the full length; if not, what follows the end of prompts is cut.
        eos_id: Token that marks the end of a prompt; None where the largest id does.
        begin_id: Token that every prompt begins with; None where any token may.
        logit_scale: Factor from cosine to logit, which takes both towers.
        logit_bias: What is added to the logit of a single pair; None for a softmax over all labels.
        mean: Mean of red, green and blue that pixels are normalized with.
        std: Standard deviation of red, green and blue.
        resize: Whether pictures are cropped or squashed to a square.
        interpolation: How pictures are resized.
        tokenizer: Turns prompts into token ids.
        origin: SHA-256 of the weights of the float model that it was made from; None if they are not known.
        saturating: Layers whose 8-bit weights need VNNI instructions; none unless quantized with `full_range`.
        fingerprint: Hash of everything that image embeddings depend on.
    """

    folder: Path
    name: str
    towers: tuple[str, ...]
    opset: int
    embed_dim: int
    image_size: int
    context_length: int
    vocab_size: int
    every_position_counts: bool
    eos_id: int | None
    begin_id: int | None
    logit_scale: float | None
    logit_bias: float | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize
    interpolation: Interpolation
    tokenizer: PromptTokenizer | None
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
    towers = tuple(data.get("towers", TOWERS))
    _check_towers(data, towers, file)
    if data["eos_id"] is not None and data["eos_id"] >= data["vocab_size"]:
        raise ArtifactError(
            f"{file}: eos_id is {data['eos_id']}, beyond the vocabulary of {data['vocab_size']}; {ADVICE}."
        )
    if verify:
        check_seal(data, str(file), ArtifactError, ADVICE)
        for name in (name for tower in towers for name in FILES[tower]):
            check_file(folder / name, data["files"][name], ArtifactError, ADVICE)
    pixels: dict[str, Any] = NO_PIXELS
    if "image" in towers:
        pixels = read_json(folder / PROCESSOR, ArtifactError, ADVICE)
        check(pixels, PROCESSOR_KIND, str(folder / PROCESSOR), ArtifactError, ADVICE)
    _check_graphs(folder, data, towers)
    mean, std = pixels["image_mean"], pixels["image_std"]
    resize, interpolation = read_resize(pixels)
    return ExportedModel(
        folder=folder,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        resize=resize,
        interpolation=interpolation,
        towers=towers,
        tokenizer=_tokenizer(folder, data) if "text" in towers else None,
        origin=None if data["model"] is None else data["model"]["sha256"],
        saturating=tuple(data["saturating"]),
        fingerprint="".join(data["files"][name]["sha256"] for name in FILES["image"] if "image" in towers),
        **{name: data[name] for name in PLAIN},
    )


def _tokenizer(folder: Path, data: dict[str, Any]) -> PromptTokenizer:
    """CLIP's tokenizer, or that in tokenizer.json."""
    if data["tokenizer"] == "clip":
        return ClipTokenizer(data["context_length"], data.get("pad_id", 0))
    return read_own_tokenizer(folder, data["context_length"], data["vocab_size"], ArtifactError)


def _check_towers(data: dict[str, Any], towers: tuple[str, ...], file: Path) -> None:
    """Raise ArtifactError if what a tower that there is needs is missing."""
    needed: dict[str, Kind] = {}
    if "image" in towers:
        needed |= {"image_size": IMAGE_SIZE}
    if "text" in towers:
        needed |= {"context_length": CONTEXT_LENGTH, "vocab_size": VOCAB_SIZE}
    if len(towers) > 1:
        needed |= {"logit_scale": LOGIT_SCALE}
    needed["files"] = Record({name: HASHES.kind for tower in towers for name in FILES[tower]})
    check(data, Record(needed), str(file), ArtifactError, ADVICE)


def _check_graphs(folder: Path, data: dict[str, Any], towers: tuple[str, ...]) -> None:
    """Raise ArtifactError for graphs that d4c did not write, that other sizes belong to, or of another model."""
    size, width = data["image_size"], data["embed_dim"]
    length = data["context_length"] if data["every_position_counts"] else -1
    inputs = {"image": ("pixels", Value(FLOAT, (-1, 3, size, size))), "text": ("tokens", Value(INT64, (-1, length)))}
    for tower in towers:
        name, value = inputs[tower]
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
    source = folder / "artifact" if (folder / "artifact").is_dir() else folder
    if (source / "config.json").is_file():
        refuse_other_folders(source)
        return ArtifactError(
            f"{folder} holds no graphs for this runtime; run d4c export {source} and give the folder that it writes."
        )
    lack = "holds no export.json" if folder.is_dir() else "is not an existing folder"
    return ArtifactError(f"{folder} {lack}; give the folder that d4c export wrote.")

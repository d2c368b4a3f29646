"""Reads weights files of every format, recognized by their first bytes; no code in a file is run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from d4c.errors import CheckpointError, reason_of
from d4c.models.formats.archive import Weights, read_archive
from d4c.models.formats.wrapped.unwrap import Choice, every, select
from d4c.reading.json_file import parse_json, read_json
from d4c.reading.schema import Table, Text, check, shown


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises CheckpointError if the file does not hold one."""
    data = read_json(path, CheckpointError, "download it again")
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object; download it again.")
    return data


def read_weights(path: Path, choose: Choice = select) -> Weights:
    """Read the CLIP in a safetensors file or a PyTorch archive.

    Args:
        path: The file, with any suffix.
        choose: Takes the weights by their names, so that others are not read.

    Returns:
        The tensors by name, without wrappers (see `d4c.models.formats.wrapped.unwrap`), and what the file says of them.

    Raises:
        CheckpointError: The file cannot be read, is damaged, has a pickle that holds more than tensors, or is in
            PyTorch's format from before version 1.6, a bare pickle.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for somebody to write
        raise CheckpointError(f"{path} is not a regular file, expected weights; check the path.")
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    if head.startswith(b"PK\x03\x04"):
        return read_archive(path, choose)
    if head[8:] == b"{":
        return read_safetensors(path, choose)
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare pickle, PyTorch's format from before version 1.6, which is unsafe to read; "
            "convert it to safetensors."
        )
    raise CheckpointError(f"{path} is neither safetensors nor a PyTorch archive; use one of those.")


def read_safetensors(path: Path, choose: Choice) -> Weights:
    """Read a safetensors file; the values of its metadata that are JSON objects are its notes."""
    try:
        with safe_open(path, "pt") as stored:
            names = choose({"": {name: name for name in stored.keys()}}, str(path))  # noqa: SIM118
            tensors = {plain: stored.get_tensor(name) for plain, name in names.items()}
            metadata = stored.metadata() or {}
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is a damaged or truncated safetensors file ({reason_of(error)}); download it again."
        ) from None
    return Weights(tensors, tuple(filter(None, map(json_object, metadata.values()))))


def json_object(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None for anything else."""
    try:
        data = parse_json(text, "the metadata", CheckpointError, "leave it out")
    except CheckpointError:
        return None
    return data if isinstance(data, dict) else None


def read_sharded(index: Path) -> Weights:
    """Read the tensors of all files that a Hugging Face index names, which must be in the same folder."""
    names: Any = read_json_object(index).get("weight_map")
    check(names, Table(Text()), f"{index}: weight_map", CheckpointError, "download it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise CheckpointError(
                f"{index} names the file {shown(name)}, expected one in the same folder; use a folder with all shards."
            )
        tensors |= read_weights(index.parent / name, every).tensors
    return Weights(select({"": tensors}, str(index)))


def first_present(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the named files that a folder has; None if it has none."""
    return next((folder / name for name in names if (folder / name).is_file()), None)

"""Reads weights files of every format, recognized by their first bytes; no code in a file is run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.files import read_json
from d4c.models.formats.archive import read_archive


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises CheckpointError if the file does not hold one."""
    data = read_json(path, CheckpointError, "download it again")
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object; download it again.")
    return data


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a PyTorch archive.

    Args:
        path: The file, with any suffix.

    Returns:
        The tensors by name.

    Raises:
        CheckpointError: The file cannot be read, is damaged, has a pickle that holds more than tensors, or is in
            PyTorch's format from before version 1.6, a bare pickle.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    if head.startswith(b"PK\x03\x04"):
        return read_archive(path)
    if head[8:] == b"{":
        try:
            return load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{path} is a damaged or truncated safetensors file ({error}); download it again."
            ) from None
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare pickle, PyTorch's format from before version 1.6, which is unsafe to read; "
            "convert it to safetensors."
        )
    raise CheckpointError(f"{path} is neither safetensors nor a PyTorch archive; use one of those.")


def read_sharded(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all files that a Hugging Face index names, which must be in the same folder."""
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} has no 'weight_map' from weights to files; download it again.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise CheckpointError(
                f"{index} names the file {name!r}, expected one in the same folder; use a folder with all shards."
            )
        tensors |= read_weights(index.parent / name)
    return tensors


def first_present(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the named files that a folder has; None if it has none."""
    return next((folder / name for name in names if (folder / name).is_file()), None)

"""Unfinished work on disk, so that a killed job resumes where it stopped and ends with the same result."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d4c.errors import ArtifactError
from d4c.storage.files import atomic_file
from d4c.storage.hashing import tensors_hash
from d4c.storage.manifest import fingerprint
from d4c.storage.siblings import remove_leftovers

UNFINISHED = "unfinished"
"""What the metadata of a file say under "d4c"."""

SHORTEST, LONGEST = 2.0, 30.0
"""Seconds between two saves, at least and at most."""
SHARE = 0.25
"""The same as a share of the time since the start: a kill loses about that much of a short job."""
COST = 10.0
"""Times as long as a save takes, at least, before the next one."""


class Saves:
    """Files of tensors that belong to one job, and the moment when the next ones are due."""

    def __init__(self, key: dict[str, Any], clock: Callable[[], float] | None = None) -> None:
        """Begin a job.

        Args:
            key: everything that the result depends on, JSON-ready.
            clock: gives the seconds that have passed; by default those of the system.
        """
        self.key, self.clock = fingerprint(key), clock or time.monotonic
        self.started = self.saved = self.clock()
        self.cost = 0.0

    def due(self) -> bool:
        """Whether the last save is so long ago that what was done since is worth another one."""
        now = self.clock()
        wait = max(SHORTEST, min(LONGEST, SHARE * (now - self.started)), COST * self.cost)
        return now - self.saved >= wait

    def write(self, states: Mapping[Path, Mapping[str, Tensor]]) -> None:
        """Write the tensors of each file, whole or not at all."""
        began = self.clock()
        for path, tensors in states.items():
            # Tensors may share memory, which the format does not allow.
            copies = {name: t.cpu().clone() for name, t in tensors.items()}
            with atomic_file(path) as new:
                save_file(copies, new, metadata={"d4c": UNFINISHED, "key": self.key, "sha256": tensors_hash(copies)})
        self.saved = self.clock()
        self.cost = self.saved - began

    def read(self, path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors of a file, or None where it is missing, damaged, of another job or not shaped `like` these.

        Raises:
            ArtifactError: The file is not one that `write` wrote, and would be replaced.
        """
        refuse_others([path])
        try:
            with safe_open(path, "pt") as stream:
                record = stream.metadata() or {}
                if record.get("key") != self.key:
                    return None
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, UnicodeError):
            return None
        return tensors if _forms(tensors) == _forms(like) and tensors_hash(tensors) == record.get("sha256") else None


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def is_unfinished(path: Path) -> bool:
    """Whether a file is one that `Saves` wrote."""
    try:
        with safe_open(path, "pt") as stream:
            return (stream.metadata() or {}).get("d4c") == UNFINISHED
    except (OSError, SafetensorError):
        return False


def refuse_others(paths: Iterable[Path]) -> None:
    """Raise ArtifactError if one of these exists and is not unfinished work that `Saves` wrote."""
    for path in paths:
        if os.path.lexists(path) and not (path.is_file() and is_unfinished(path)):
            raise ArtifactError(
                f"{path} is where d4c keeps unfinished work, and d4c did not write what is there; move it away."
            )


def saves_in(folder: Path, names: str) -> list[Path]:
    """The entries of a folder whose names match a regular expression."""
    with suppress(OSError):
        return [entry for entry in sorted(folder.iterdir()) if re.fullmatch(names, entry.name, re.DOTALL)]
    return []


def remove_saves(folder: Path, names: str) -> None:
    """Remove unfinished work whose result is safe by now, and what killed writers of it left.

    Args:
        folder: Where it is.
        names: Regular expression for the names of its files; others' files of such names stay.
    """
    for path in saves_in(folder, names):
        if path.is_file() and is_unfinished(path):
            path.unlink(missing_ok=True)
    remove_leftovers(folder, names)

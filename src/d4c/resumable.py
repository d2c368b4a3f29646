"""Unfinished work on disk, so that a killed job resumes where it stopped and ends with the same result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d4c.files import atomic_file
from d4c.manifest import fingerprint

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
            with atomic_file(path) as new:
                # Tensors may share memory, which the format does not allow.
                save_file({name: t.cpu().clone() for name, t in tensors.items()}, new, metadata={"key": self.key})
        self.saved = self.clock()
        self.cost = self.saved - began

    def read(self, path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors of a file, or None where it is missing, damaged, of another job or not shaped `like` these."""
        try:
            with safe_open(path, "pt") as stream:
                if (stream.metadata() or {}).get("key") != self.key:
                    return None
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if _forms(tensors) == _forms(like) else None


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def remove_saves(folder: Path, pattern: str) -> None:
    """Remove files of a job whose result is safe by now, and what a killed writer of them left."""
    for name in (pattern, f".{pattern}.*"):
        for file in folder.glob(name):
            file.unlink(missing_ok=True)

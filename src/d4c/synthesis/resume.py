"""Saves an unfinished synthesis as one file with the state of its loop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from d4c.storage.resumable import Saves, refuse_others, remove_saves, saves_in
from d4c.synthesis.loop import Loop


class Checkpoint:
    """The state of a loop in a file.

    Args:
        path: The file.
        key: Everything that the images depend on; a file with another key does not count.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path, self.saves = path, Saves(key)

    def restore(self, loop: Loop) -> None:
        """Set a loop to the state in the file if there is one for this key; otherwise leave it at its start."""
        state = self.saves.read(self.path, loop.state())
        if state is not None:
            loop.set_state(state)

    def save_if_due(self, loop: Loop) -> None:
        """Write the state if it was last written long enough ago."""
        if self.saves.due():
            self.saves.write({self.path: loop.state()})


def remove_checkpoints(prefix: Path) -> None:
    """Remove the checkpoints of a synthesis, one per process, after its result is saved."""
    remove_saves(prefix.parent, _names(prefix))


def refuse_other_files(prefix: Path) -> None:
    """Raise ArtifactError, before any work, if a file of somebody else has the name of a checkpoint."""
    refuse_others(saves_in(prefix.parent, _names(prefix)))


def _names(prefix: Path) -> str:
    return rf"{re.escape(prefix.name)}\.[0-9]+"

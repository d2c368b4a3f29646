"""An unfinished synthesis on disk, so that a killed one goes on where it was and ends with the same images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from d4c.files import atomic_file
from d4c.manifest import fingerprint
from d4c.synthesis.loop import Loop

SAVE_EVERY = 30.0
"""Seconds between two checkpoints."""


class Checkpoint:
    """One safetensors file with the state of a loop; `key` is everything that the images depend on."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path, self.key = path, fingerprint(key)
        self.saved = time.monotonic()

    def restore(self, loop: Loop) -> None:
        """Put a loop where the file says, if there is one for this key; anything else is made anew."""
        try:
            with safe_open(self.path, "pt") as stream:
                if (stream.metadata() or {}).get("key") != self.key:
                    return
                loop.set_state({name: stream.get_tensor(name) for name in stream.keys()})  # noqa: SIM118
        except (OSError, SafetensorError):
            return

    def save_now_and_then(self, loop: Loop) -> None:
        """Write the state if the last time was long enough ago."""
        if time.monotonic() - self.saved >= SAVE_EVERY:
            with atomic_file(self.path) as new:
                save_file(loop.state(), new, metadata={"key": self.key})
            self.saved = time.monotonic()


def remove_checkpoints(prefix: Path) -> None:
    """Remove what syntheses left behind whose result is safe by now."""
    for file in prefix.parent.glob(f"{prefix.name}.[0-9]*"):
        file.unlink(missing_ok=True)

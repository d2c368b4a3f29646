"""Rebuilt stages on disk, so that a killed reconstruction goes on behind the last one and ends with the same weights.

One safetensors file a stage. Nothing else is kept: the states that enter the next stage follow from the weights, and
random numbers are seeded for each unit alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d4c.files import atomic_file
from d4c.manifest import fingerprint
from d4c.models.clip import CLIP
from d4c.quantization.quantized_layers import QuantizedLayer
from d4c.quantization.stages import Stage

SAVE_EVERY = 10.0
"""Seconds between two times of writing; the stages that were rebuilt meanwhile are written together."""


class Checkpoint:
    """A folder of rebuilt stages; `key` is everything that their weights depend on."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.key = folder, fingerprint(key)
        self.saved = time.monotonic()
        self.waiting: list[Stage] = []

    def restore(self, clip: CLIP, stage: Stage) -> bool:
        """Put a stage into the state of its file; false if there is none that fits the key and the stage."""
        try:
            with safe_open(self._file(stage), "pt") as stream:
                if (stream.metadata() or {}).get("key") != self.key:
                    return False
                found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return False
        expected = stage_state(clip, stage)
        if {n: (t.shape, t.dtype) for n, t in found.items()} != {n: (t.shape, t.dtype) for n, t in expected.items()}:
            return False
        set_stage_state(clip, stage, found)
        return True

    def save_now_and_then(self, clip: CLIP, stage: Stage) -> None:
        """Write the stages rebuilt since the last time, `stage` among them, if that was long enough ago."""
        self.waiting.append(stage)
        if time.monotonic() - self.saved < SAVE_EVERY:
            return
        for done in self.waiting:
            with atomic_file(self._file(done)) as new:
                # Layers that share a quantizer share its memory, which the format does not allow.
                tensors = {name: tensor.cpu().clone() for name, tensor in stage_state(clip, done).items()}
                save_file(tensors, new, metadata={"key": self.key})
        self.waiting.clear()
        self.saved = time.monotonic()

    def _file(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.safetensors"


def remove_checkpoint(folder: Path) -> None:
    """Remove what a reconstruction left behind whose result is safe by now; other files stay."""
    for pattern in ("*.safetensors", ".*.safetensors.*"):  # the second: what a killed writer left
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().data).hexdigest()


def stage_state(clip: CLIP, stage: Stage) -> dict[str, Tensor]:
    """Every tensor of a stage by name, without the weights that follow from codes."""
    state = {name: tensor for name, tensor in clip.state_dict().items() if stage.owns(name)}
    return {name: t for name, t in state.items() if f"{name.removesuffix('weight')}codes" not in state}


def set_stage_state(clip: CLIP, stage: Stage, state: Mapping[str, Tensor]) -> None:
    """Bring a stage into a state that `stage_state` gave."""
    clip.load_state_dict(state, strict=False)
    for name, module in clip.named_modules():
        if stage.owns(name) and isinstance(module, QuantizedLayer):
            module.set_codes(module.codes)

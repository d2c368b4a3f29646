"""An unfinished reconstruction on disk: one file for each rebuilt stage.

Nothing else is kept: the states that enter the next stage follow from the weights, and random numbers are seeded for
each unit alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from d4c.models.clip import CLIP
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.stages import Stage
from d4c.storage.resumable import Saves, refuse_others, remove_saves, saves_in

NAMES = r".+\.safetensors"
"""Regular expression for the files of a checkpoint."""


class Checkpoint:
    """A folder of rebuilt stages; `key` is everything that their weights depend on."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.saves = folder, Saves(key)
        self.waiting: list[Stage] = []

    def restore(self, clip: CLIP, stage: Stage) -> bool:
        """Put a stage into the state of its file; false if there is none that fits the key and the stage."""
        state = self.saves.read(self._file(stage), stage_state(clip, stage))
        if state is None:
            return False
        set_stage_state(clip, stage, state)
        return True

    def save_if_due(self, clip: CLIP, stage: Stage) -> None:
        """Write the stages rebuilt since the last time, `stage` among them, if that was long enough ago."""
        self.waiting.append(stage)
        if self.saves.due():
            self.saves.write({self._file(rebuilt): stage_state(clip, rebuilt) for rebuilt in self.waiting})
            self.waiting.clear()

    def _file(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.safetensors"


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a reconstruction once its result is saved; other files stay."""
    remove_saves(folder, NAMES)
    with suppress(OSError):
        folder.rmdir()


def refuse_other_files(folder: Path) -> None:
    """Raise ArtifactError, before any work, if a file of somebody else has the name of a checkpoint."""
    if os.path.lexists(folder) and not folder.is_dir():
        refuse_others([folder])
    refuse_others(saves_in(folder, NAMES))


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

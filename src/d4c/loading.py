"""`load_quantized`: an artifact in PyTorch, or its export in a runtime."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from d4c.errors import ArtifactError, SettingError, quantize_extra, warn
from d4c.reading.json_file import read_json
from d4c.runtime.runtime_clip import RuntimeCLIP

if TYPE_CHECKING:
    import torch

    from d4c.models.clip import CLIP
    from d4c.quantization.quantized import QuantizedCLIP

Runtime = Literal["onnxruntime", "openvino"]


@overload
def load_quantized(
    folder: str | Path, device: str | torch.device = "cpu", *, runtime: Literal["torch"] = "torch", verify: bool = True
) -> QuantizedCLIP: ...


@overload
def load_quantized(
    folder: str | Path, device: str | torch.device = "cpu", *, runtime: Literal["integer"], verify: bool = True
) -> CLIP: ...


@overload
def load_quantized(
    folder: str | Path, device: str | torch.device = "cpu", *, runtime: Runtime, verify: bool = True
) -> RuntimeCLIP: ...


def load_quantized(
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: Literal["torch", "integer"] | Runtime = "torch",
    verify: bool = True,
) -> CLIP | RuntimeCLIP:
    """Read a quantized CLIP: `encode_image`, `encode_text`, `classify`, `preprocess`, `tokenize`, `logit_scale`.

    Args:
        folder: What `save_pretrained` wrote, or for the last two runtimes what `d4c export` wrote.
        device: Where PyTorch computes; exports run on the CPU only.
        runtime: "torch" simulates the artifact, bit for bit as it was saved, tensors in and out; a warning says once
            that this is slow on a CPU. "integer" multiplies its codes on a GPU, for transformers, and rounds what lies
            between products to bf16 (see `d4c.integer.accelerate`). "onnxruntime" and "openvino" execute an export
            without PyTorch, arrays in and out.
        verify: Compare every file with the hashes that were written with it; without, a change is not noticed.

    Returns:
        The model, in evaluation mode.

    Raises:
        ArtifactError: Something is missing, damaged, changed since it was written or from a newer version.
        SettingError: The runtime is unknown, not installed or too old.
    """
    if runtime in ("torch", "integer"):
        _refuse_other_folders(Path(folder))
        with quantize_extra():
            from d4c.integer.accelerate import accelerate
            from d4c.quantization.artifact.read import read_artifact

        clip = read_artifact(folder, device, verify=verify)
        if runtime == "integer":
            return accelerate(clip)
        if clip.device.type == "cpu":
            _say_that_simulation_is_slow()
        return clip
    if str(device) != "cpu":
        raise SettingError(f"The runtime {runtime!r} computes on the CPU, not on {device}; leave the device out.")
    return RuntimeCLIP(folder, runtime, verify=verify)


def _refuse_other_folders(folder: Path) -> None:
    """Raise ArtifactError for a folder that something else reads, with the call that does."""
    if (folder / "export.json").is_file():
        raise ArtifactError(
            f"{folder} is an export, which runtimes execute, expected an artifact; use "
            f"d4c.load_quantized({str(folder)!r}, runtime='onnxruntime')."
        )
    if (folder / "artifact").is_dir():
        raise ArtifactError(f"{folder} is the folder of a run, expected an artifact; use {folder / 'artifact'}.")
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json", ArtifactError, "give the folder that save_pretrained wrote")
        if isinstance(config, dict) and "quantization_config" not in config:
            raise ArtifactError(
                f"{folder} is not a quantized model, expected what d4c quantize wrote; use d4c.load for a float one."
            )


@lru_cache(maxsize=1)
def _say_that_simulation_is_slow() -> None:
    warn(
        "PyTorch simulates the integers of this artifact in float32, which is exact but slower than the float model; "
        "run d4c export and load the export with runtime='onnxruntime' for speed."
    )

"""`load_quantized`: an artifact in PyTorch, or its export in a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from d4c.errors import SettingError, quantize_extra
from d4c.runtime.runtime_clip import RuntimeCLIP

if TYPE_CHECKING:
    import torch

    from d4c.models.clip import CLIP
    from d4c.quantization.quantized import QuantizedCLIP

Runtime = Literal["onnxruntime", "openvino"]


@overload
def load_quantized(
    folder: str | Path, device: str | torch.device = "cpu", *, runtime: Literal["torch"] = "torch"
) -> QuantizedCLIP: ...


@overload
def load_quantized(folder: str | Path, device: str | torch.device = "cpu", *, runtime: Literal["integer"]) -> CLIP: ...


@overload
def load_quantized(folder: str | Path, device: str | torch.device = "cpu", *, runtime: Runtime) -> RuntimeCLIP: ...


def load_quantized(
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: Literal["torch", "integer"] | Runtime = "torch",
) -> CLIP | RuntimeCLIP:
    """Read a quantized CLIP: `encode_image`, `encode_text`, `classify`, `preprocess`, `tokenize`, `logit_scale`.

    `runtime` "torch" simulates the artifact in `folder`, bit for bit as it was saved, tensors in and out. "integer"
    multiplies its codes on a GPU, for transformers; what lies between products is rounded to bf16 there (see
    `d4c.integer.accelerate`). "onnxruntime" and "openvino" execute the folder that `d4c export` made of it, arrays in
    and out, without PyTorch and on the CPU only. Raises ArtifactError with the reason if anything is missing, damaged
    or from a newer version, SettingError for an unknown, missing or too old runtime.
    """
    if runtime in ("torch", "integer"):
        with quantize_extra():
            from d4c.integer.accelerate import accelerate
            from d4c.quantization.artifact.folder import load_quantized as load_artifact

        clip = load_artifact(folder, device)
        return clip if runtime == "torch" else accelerate(clip)
    if str(device) != "cpu":
        raise SettingError(f"The runtime {runtime!r} computes on the CPU, not on {device}; leave the device out.")
    return RuntimeCLIP(folder, runtime)

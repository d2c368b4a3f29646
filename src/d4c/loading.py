"""`load_quantized`: an artifact in PyTorch, or its export in a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from d4c.errors import SettingError, quantize_extra, warn
from d4c.reading.folder_kind import refuse_other_folders
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.sessions import Provider

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
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: Runtime,
    threads: int | None = None,
    providers: Sequence[Provider] = (),
    verify: bool = True,
) -> RuntimeCLIP: ...


def load_quantized(
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: Literal["torch", "integer"] | Runtime = "torch",
    threads: int | None = None,
    providers: Sequence[Provider] = (),
    verify: bool = True,
) -> CLIP | RuntimeCLIP:
    """Read a quantized CLIP: `encode_image`, `encode_text`, `classify`, `preprocess`, `tokenize`, `logit_scale`.

    Args:
        folder: What `save_pretrained` wrote, or for the last two runtimes what `d4c export` wrote.
        device: Where PyTorch computes; exports run on the CPU, or where `providers` says.
        runtime: "torch" simulates the artifact, bit for bit as it was saved, tensors in and out; a warning says once
            that this is slow on a CPU. "integer" multiplies its codes on a GPU, for transformers, and rounds what lies
            between products to bf16 (see `d4c.integer.accelerate`). "onnxruntime" and "openvino" execute an export
            without PyTorch, arrays in and out.
        threads: Threads of one call of an export; None for as many as the runtime takes by itself.
        providers: Execution providers that ONNX Runtime uses for an export, the preferred one first, each a name such
            as "CUDAExecutionProvider" or a name and its options; what none of them can, the CPU computes.
        verify: Compare every file with the hashes that were written with it; without, a change is not noticed.

    Returns:
        The model, in evaluation mode.

    Raises:
        ArtifactError: Something is missing, damaged, changed since it was written or from a newer version.
        SettingError: The runtime is unknown, not installed or too old, or lacks a provider.
    """
    if runtime in ("torch", "integer"):
        if threads is not None or providers:
            raise SettingError(
                f"Threads and providers are for exports, not for the runtime {runtime!r}; use torch.set_num_threads, "
                "or runtime='onnxruntime' for an export."
            )
        refuse_other_folders(Path(folder))
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
        raise SettingError(
            f"The runtime {runtime!r} computes on the CPU, not on {device}; leave the device out, or give ONNX Runtime "
            "providers."
        )
    return RuntimeCLIP(folder, runtime, threads=threads, providers=providers, verify=verify)


@lru_cache(maxsize=1)
def _say_that_simulation_is_slow() -> None:
    warn(
        "PyTorch simulates the integers of this artifact in float32, which is exact but slower than the float model; "
        "run d4c export and load the export with runtime='onnxruntime' for speed."
    )

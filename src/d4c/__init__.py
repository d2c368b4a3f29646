"""Data-free low-bit quantization of CLIP models.

Functions are imported on first use, so that `import d4c` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from d4c.errors import ArtifactError, CheckpointError, D4CError, DataError, SettingError, quantize_extra
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet
    from d4c.deployment.export import export
    from d4c.evaluation.evaluate import evaluate
    from d4c.evaluation.evaluate_outputs import evaluate_outputs
    from d4c.loading import load_quantized
    from d4c.models.formats.load import load
    from d4c.quantization.quantize import quantize
    from d4c.synthesis.synthesize import synthesize

__all__ = [
    "ArtifactError",
    "CalibrationSet",
    "CheckpointError",
    "D4CError",
    "DataError",
    "SettingError",
    "__version__",
    "evaluate",
    "evaluate_outputs",
    "export",
    "load",
    "load_quantized",
    "quantize",
    "synthesize",
]

_HOME = {
    "CalibrationSet": "d4c.calibration.images",
    "evaluate": "d4c.evaluation.evaluate",
    "evaluate_outputs": "d4c.evaluation.evaluate_outputs",
    "export": "d4c.deployment.export",
    "load": "d4c.models.formats.load",
    "load_quantized": "d4c.loading",
    "quantize": "d4c.quantization.quantize",
    "synthesize": "d4c.synthesis.synthesize",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        with quantize_extra():
            return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'd4c' has no attribute {name!r}")

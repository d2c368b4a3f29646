"""The one exception family of d4c.

Every message is a single sentence that names what was given, what was expected and what to do.
The command line prints it on stderr and exits with status 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class D4CError(Exception):
    """Base of every error that d4c raises on purpose."""


class CheckpointError(D4CError):
    """A model file, folder or name cannot be loaded as a CLIP."""


class DataError(D4CError):
    """A dataset, an image or a set of prompts cannot be used."""


class SettingError(D4CError):
    """A setting such as a scheme, a preset or a method is not valid."""


class ArtifactError(D4CError):
    """A saved calibration set or quantized model is damaged, incomplete or from another version."""


@contextmanager
def quantize_extra() -> Iterator[None]:
    """Say how to install what `pip install d4c` alone leaves out: a missing library becomes a SettingError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("huggingface_hub", "pyarrow", "safetensors", "torch"):
            raise
        raise _missing("This needs", str(error.name), "quantize") from None


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a library of an extra where it is used; `purpose` begins the SettingError that says it is missing."""
    try:
        return import_module(module)
    except ImportError:
        raise _missing(purpose, module, extra) from None


def _missing(purpose: str, library: str, extra: str) -> SettingError:
    return SettingError(f"{purpose} {library}, which is not installed; run pip install 'd4c[{extra}]'.")

"""The one exception family of d4c.

Every message is a single sentence that names what was given, what was expected and what to do.
The command line prints it on stderr and exits with status 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
        raise SettingError(
            f"This needs {error.name}, which is not installed; run pip install 'd4c[quantize]'."
        ) from None

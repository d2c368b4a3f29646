"""The exceptions of d4c.

Every message is one sentence that says what was given, what was expected and what to do. The command line prints it to
stderr and exits with status 1.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from d4c.printable import printable


class D4CError(Exception):
    """The base class of every error that d4c raises on purpose; its message is one printable line.

    Messages quote files and their names, which may hold anything.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


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
    """Turn a missing library of the extra "quantize" into a SettingError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("huggingface_hub", "jinja2", "pyarrow", "safetensors", "tomli_w", "torch"):
            raise
        raise _missing("This needs", str(error.name), "quantize") from None


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a library that only an extra installs.

    Args:
        module: Name of the module to import.
        extra: Name of the extra that installs it.
        purpose: Beginning of the error message up to its verb, as in "An export needs".

    Returns:
        The module.

    Raises:
        SettingError: The library is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise _missing(purpose, module, extra) from None


def reason_of(error: Exception) -> str:
    """Return what an error of a library or of the system says, to quote: a printable line of some 200 characters."""
    line = " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def warn(sentence: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the line that called d4c as the place, since a line of d4c says nothing to who reads the warning."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("d4c", "torch", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, category, stacklevel=level)


def system_error(error: BaseException) -> OSError | None:
    """Return the error of the system in an exception, such as a full disk, or None if there is none.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own that end in "(os error 28)".
    """
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _missing(purpose: str, library: str, extra: str) -> SettingError:
    return SettingError(f"{purpose} {library}, which is not installed; run pip install 'd4c[{extra}]'.")

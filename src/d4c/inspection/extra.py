"""The libraries that only pictures need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from d4c.errors import SettingError


def require(module: str) -> Any:
    """Import matplotlib or umap where a picture is drawn; raises SettingError if the extra is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise SettingError(
            f"the pictures of an inspection need {module}, which is not installed; run pip install 'd4c[inspect]', "
            "or ask for the numbers alone."
        ) from None

"""Devices: which one "auto" means, without PyTorch where there can be no GPU, and moving a model to one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from d4c.errors import SettingError, reason_of

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "auto"
ModuleT = TypeVar("ModuleT", bound="nn.Module")


def resolve_device(name: str) -> str:
    """The name of a device: itself, or for "auto" that of a GPU if PyTorch has one, else "cpu"."""
    if name != AUTO:
        return name
    # On Linux a GPU has a device node (/dev/dxg in WSL); PyTorch, which takes seconds to import, is asked only then.
    if sys.platform == "linux" and not [*Path("/dev").glob("nvidia*"), *Path("/dev").glob("dxg")]:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def move(model: ModuleT, device: str | torch.device) -> ModuleT:
    """Move a model to a device, in place.

    Raises:
        SettingError: The device is unknown, is not there, or holds no data, as "meta" does.
    """
    try:
        if str(device).startswith("meta"):
            raise RuntimeError("it holds no data")
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = reason_of(error).partition(" device type at start of device string")[0]
        raise SettingError(f"The device {str(device)!r} cannot be used ({reason}); use 'cpu'.") from None

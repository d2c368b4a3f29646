"""Devices: which one "auto" means, without PyTorch where there can be no GPU, and moving a model to one."""

from __future__ import annotations

import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from d4c.errors import SettingError, reason_of

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "auto"
ModuleT = TypeVar("ModuleT", bound="nn.Module")


def resolve_device(name: str) -> str:
    """The name of a device that can be used; "auto" is that of a GPU if PyTorch has one, else "cpu".

    Raises:
        SettingError: The device is unknown, is not there, or holds no data, as "meta" does.
    """
    if name != AUTO:
        check_device(name)
        return name
    # On Linux a GPU has a device node (/dev/dxg in WSL); PyTorch, which takes seconds to import, is asked only then.
    if sys.platform == "linux" and not [*Path("/dev").glob("nvidia*"), *Path("/dev").glob("dxg")]:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """Raise SettingError for a device that cannot hold and compute numbers."""
    if name == "cpu":
        return
    import torch

    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no data")
        if device.type == "cpu" and device.index not in (None, 0):
            raise RuntimeError("the CPU has no such number")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of drivers that are too old, and the like
            (torch.ones(1, device=device) + 1).cpu()
    except Exception as error:  # each kind of device fails in its own way
        reason = reason_of(error).partition(" device type at start of device string")[0]
        raise SettingError(f"The device {name[:60]!r} cannot be used ({reason}); use 'cpu'.") from None


def move(model: ModuleT, device: str | torch.device) -> ModuleT:
    """Move a model to a device, in place.

    Raises:
        SettingError: The device cannot be used, or the model does not fit.
    """
    check_device(str(device))
    try:
        return model.to(device)
    except RuntimeError as error:
        raise SettingError(f"The device {str(device)!r} cannot be used ({reason_of(error)}); use 'cpu'.") from None


def processor_name() -> str:
    """The name of the processor, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()

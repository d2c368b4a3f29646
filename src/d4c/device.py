"""Which device "auto" means, without PyTorch where there can be no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

AUTO = "auto"


def resolve_device(name: str) -> str:
    """The name of a device: itself, or for "auto" that of a GPU if PyTorch has one, else "cpu"."""
    if name != AUTO:
        return name
    # On Linux a GPU has a device node (/dev/dxg in WSL); PyTorch, which takes seconds to import, is asked only then.
    if sys.platform == "linux" and not [*Path("/dev").glob("nvidia*"), *Path("/dev").glob("dxg")]:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

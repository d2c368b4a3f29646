"""`Target`: a format in which `d4c export` writes an artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.quantization.quantized import QuantizedCLIP


@dataclass(frozen=True)
class ExportOptions:
    """The choices of a caller.

    Args:
        unpacked: Store weights as int8 instead of in the bits of the scheme.
        check: Compare what was written with PyTorch.
        origin: SHA-256 of the artifact's weights, which every graph names, so that graphs of two are not mixed up.
    """

    unpacked: bool = False
    check: bool = True
    origin: str = ""


class Parity(Protocol):
    """How a target's outputs compare with PyTorch's; differences beyond its tolerance are an ArtifactError instead."""

    def summary(self) -> str:
        """Return one line for the command line."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form."""
        ...


@dataclass(frozen=True)
class Written:
    """A target's description of the files that it wrote.

    Args:
        settings: What a reader of the files has to know, for export.json.
        parity: By tower; None if it was not checked.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Parity] | None = None


Write = Callable[["QuantizedCLIP", Path, ExportOptions, Progress], Written]
"""Writes a quantized CLIP into an empty folder; raises ArtifactError if the files compute something else."""


@dataclass(frozen=True)
class Target:
    """A format of exports.

    Args:
        name: Value of `format` that chooses it.
        summary: What it is, for help texts.
        libraries: Modules that it needs; the extra that installs them has the name of the target.
        write: Writes the files.
    """

    name: str
    summary: str
    libraries: tuple[str, ...]
    write: Write

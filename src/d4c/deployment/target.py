"""`Target`: whom `d4c export` writes an artifact for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.models.clip import CLIP


@dataclass(frozen=True)
class ExportOptions:
    """The choices of a caller.

    Args:
        unpacked: Store weights as int8 instead of in the bits of the scheme.
        check: Compare what was written with PyTorch.
        tower: Write nothing but the "image" or the "text" tower.
        features: Make the states between blocks outputs as well.
        fixed_shapes: Write graphs for one picture and one prompt of full length, without infinite numbers.
        narrow_table: Round the token table to 4 bits.
        webgpu: Also write graphs whose products are MatMulNBits, for GPUs in browsers.
        without_vnni: Write linear layers for OpenVINO in the form that is fast on processors without VNNI.
        half: Write a float model in float16; None for an artifact.
        origin: SHA-256 of the artifact's weights, which every graph names, so that graphs of two are not mixed up.
        readers: Folder with `d4c.models.inputs.reader_files.FILES`, which say how prompts and pictures are read.
    """

    unpacked: bool = False
    check: bool = True
    tower: Literal["image", "text"] | None = None
    features: bool = False
    fixed_shapes: bool = False
    narrow_table: bool = False
    webgpu: bool = False
    without_vnni: bool = False
    half: bool | None = None
    origin: str = ""
    readers: Path = Path()

    def chosen(self) -> list[str]:
        """Return the options of the command line that change what only some targets can change."""
        words = {"--tower": self.tower, "--features": self.features, "--fixed-shapes": self.fixed_shapes}
        words |= {"--narrow-table": self.narrow_table, "--without-vnni": self.without_vnni}
        words |= {"--webgpu": self.webgpu, "--float16" if self.half else "--float32": self.half is not None}
        return [word for word, value in words.items() if value]


Family = Literal["CLIP", "SigLIP", "other"]
"""Towers of OpenAI's kind, of SigLIP's, and all others."""
ANY_FAMILY: tuple[Family, ...] = ("CLIP", "SigLIP", "other")
CLIP_AND_SIGLIP: tuple[Family, ...] = ("CLIP", "SigLIP")
SHAPES = ("--tower", "--features", "--fixed-shapes", "--narrow-table", "--float32", "--float16")
"""What every layout of another tool can change."""


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
        parity: By tower or by file; None if it was not checked.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Parity] | None = None


Write = Callable[["CLIP", Path, ExportOptions, Progress], Written]
"""Writes a CLIP, quantized or not, into an empty folder; raises ArtifactError if the files compute something else."""


@dataclass(frozen=True)
class Target:
    """A reader of exports: d4c's own runtime, or the layout of files that another tool looks for.

    Args:
        name: Value of `target` that chooses it.
        summary: What reads it, for help texts.
        libraries: The extra that installs it, by the name of each module that writing takes.
        write: Writes the files.
        takes: Which of `ExportOptions.chosen` it can do.
        families: The kinds of towers that it can describe.
    """

    name: str
    summary: str
    libraries: Mapping[str, str]
    write: Write
    takes: tuple[str, ...] = ()
    families: tuple[Family, ...] = ("CLIP",)

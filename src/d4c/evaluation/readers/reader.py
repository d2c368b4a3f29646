"""`Reader`: a kind of dataset that a spec can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from d4c.evaluation.dataset import AnyDataset


@dataclass(frozen=True)
class Reader:
    """A kind of dataset that a spec can name.

    Args:
        form: How its spec is written: "folder:DIR" takes a path, "demo" takes none.
        summary: What it reads, for help texts and the documentation.
        read: Makes the dataset from a spec and its path, which exists; raises DataError if the data cannot be used.
        parts: Files and folders below the path that the images, labels and names come from; by default all of it.
        names_pictures: Whether the path is a file that names pictures elsewhere, whose content counts as well.
    """

    form: str
    summary: str
    read: Callable[[str, Path], AnyDataset]
    parts: tuple[str, ...] = ("",)
    names_pictures: bool = False

    @property
    def kind(self) -> str:
        """The word that a spec begins with."""
        return self.form.partition(":")[0]

    @property
    def takes_path(self) -> bool:
        """Whether a path follows in the spec, after a colon."""
        return ":" in self.form

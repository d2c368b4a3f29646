"""`Dataset`: labeled images for zero-shot evaluation, read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from d4c.errors import DataError, SettingError
from d4c.pictures import Picture, decoded_picture, explained, open_picture, opened_picture
from d4c.templates import PHOTO_TEMPLATES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True)
class Dataset:
    """Images with one class each, and the prompts that put the classes into words.

    Everything in this package takes one, so that your own images need no reader.

    Args:
        name: What messages and tables call it.
        classes: Names of the C classes.
        labels: int64 [N], indices into `classes`.
        read: Gives picture i: a path, encoded bytes, an array, an open file or a Pillow image.
        templates: Prompts with "{}" where a class name goes.
        location: Says in words where picture i is stored, for error messages.

    Raises:
        DataError: There is no image, no class or no template, or a label is not an index into `classes`.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], Picture]
    templates: tuple[str, ...] = PHOTO_TEMPLATES
    location: Callable[[int], str] = "row {}".format

    def __post_init__(self) -> None:
        for what, items in (("images", self.labels), ("classes", self.classes), ("templates", self.templates)):
            if not len(items):
                raise DataError(f"{self.name} has no {what}, expected at least one; check the files it was read from.")
        out_of_range = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(out_of_range):
            i = int(out_of_range[0])
            raise DataError(
                f"{self.named(i)} has label {self.labels[i]}, expected 0 to {len(self.classes) - 1}; "
                "correct the label or give all class names."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, i: int) -> Image:
        """Read picture i in the mode and the orientation it is stored in.

        Raises:
            DataError: The picture does not decode; the message says which one it is.
        """
        return decoded_picture(self._source(i), self.named(i))

    def image(self, i: int) -> Image:
        """Read picture i as upright RGB with its transparent parts white.

        Raises:
            DataError: The picture does not decode; the message says which one it is.
        """
        return open_picture(self._source(i), self.named(i))

    def opened(self, i: int) -> AbstractContextManager[Image]:
        """Give what `image` does for the time of a block, in which memory is kept for it (see `opened_picture`)."""
        return opened_picture(self._source(i), self.named(i))

    def named(self, i: int) -> str:
        """Say in words which picture i is."""
        return f"{self.name}: {self.location(i)}"

    def _source(self, i: int) -> Picture:
        return explained(lambda: self.read(i), self.named(i))

    def subset(self, limit: int) -> Dataset:
        """Take at most `limit` images at even distances over the whole set, in its order.

        Sets are often sorted by class, so that the first rows would be one class only. The choice is deterministic:
        image k of the subset is image floor(k N / limit).

        Raises:
            SettingError: The limit is below 1.
        """
        if limit < 1:
            raise SettingError(f"The limit is {limit} images, expected at least 1; leave it out to use all.")
        if limit >= len(self):
            return self
        indices = [k * len(self) // limit for k in range(limit)]
        read, location = self.read, self.location
        return replace(
            self, labels=self.labels[indices], read=lambda i: read(indices[i]), location=lambda i: location(indices[i])
        )

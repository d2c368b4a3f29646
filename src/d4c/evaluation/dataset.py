"""Images for evaluation, read one at a time: with one class each, with any number of classes, or with captions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from d4c.errors import DataError, SettingError
from d4c.pictures import Picture, decoded_picture, explained, open_picture, opened_picture
from d4c.templates import PHOTO_TEMPLATES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


class PictureSet(ABC):
    """What all datasets have: pictures by number, which may be read, named and thinned out."""

    name: str
    read: Callable[[int], Picture]
    location: Callable[[int], str]

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def texts(self) -> int:
        """The number of texts that pictures are compared with."""

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

    def subset(self, limit: int) -> Self:
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
        return self._at([k * len(self) // limit for k in range(limit)])

    @abstractmethod
    def _at(self, indices: Sequence[int]) -> Self:
        """The images with these numbers."""

    def _read_at(self, indices: Sequence[int]) -> tuple[Callable[[int], Picture], Callable[[int], str]]:
        """The functions of a set of only these images that read and name them."""
        read, location = self.read, self.location
        return lambda i: read(indices[i]), lambda i: location(indices[i])

    def _refuse_empty(self, **items: Sized) -> None:
        for what, item in items.items():
            if not len(item):
                raise DataError(f"{self.name} has no {what}, expected at least one; check the files it was read from.")


@dataclass(frozen=True)
class Dataset(PictureSet):
    """Images with one class each, and the prompts that put the classes into words.

    Everything in this package takes one, so that your own images need no reader.

    Args:
        name: What messages and tables call it.
        classes: Names of the C classes.
        labels: int64 [N], indices into `classes`.
        read: Gives picture i: a path, encoded bytes, an array, an open file or a Pillow image.
        templates: Prompts with "{}" where a class name goes.
        location: Says in words where picture i is stored, for error messages.
        verbatim: Whether prompts are used letter by letter, as published ones must be for figures that compare:
            otherwise names are in lower case and an "a" before them becomes "an" where it should, and no two names may
            be the same.

    Raises:
        DataError: There is no image, no class or no template, or a label is not an index into `classes`.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], Picture]
    templates: tuple[str, ...] = PHOTO_TEMPLATES
    location: Callable[[int], str] = "row {}".format
    verbatim: bool = False

    def __post_init__(self) -> None:
        self._refuse_empty(images=self.labels, classes=self.classes, templates=self.templates)
        out_of_range = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(out_of_range):
            i = int(out_of_range[0])
            raise DataError(
                f"{self.named(i)} has label {self.labels[i]}, expected 0 to {len(self.classes) - 1}; "
                "correct the label or give all class names."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def texts(self) -> int:
        return len(self.classes)

    def _at(self, indices: Sequence[int]) -> Self:
        read, location = self._read_at(indices)
        return replace(self, labels=self.labels[list(indices)], read=read, location=location)


@dataclass(frozen=True)
class TaggedDataset(PictureSet):
    """Images with any number of classes each.

    Args:
        name: What messages and tables call it.
        classes: Names of the C classes.
        tags: bool [N, C], whether each image has each class.
        read: As of `Dataset`, like the fields that follow.

    Raises:
        DataError: There is no image, no class or no template, or the tags are not one row per image.
    """

    name: str
    classes: tuple[str, ...]
    tags: NDArray[np.bool_]
    read: Callable[[int], Picture]
    templates: tuple[str, ...] = PHOTO_TEMPLATES
    location: Callable[[int], str] = "row {}".format
    verbatim: bool = False

    def __post_init__(self) -> None:
        self._refuse_empty(images=self.tags, classes=self.classes, templates=self.templates)
        if self.tags.shape[1:] != (len(self.classes),):
            raise DataError(
                f"{self.name} has tags of shape {self.tags.shape}, expected one column for each of its "
                f"{len(self.classes)} classes; give all class names."
            )

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def texts(self) -> int:
        return len(self.classes)

    def _at(self, indices: Sequence[int]) -> Self:
        read, location = self._read_at(indices)
        return replace(self, tags=self.tags[list(indices)], read=read, location=location)


@dataclass(frozen=True)
class CaptionedDataset(PictureSet):
    """Images with captions of their own, for retrieval both ways.

    Args:
        name: What messages and tables call it.
        captions: The captions of each image, at least one.
        read: As of `Dataset`, like the field that follows.

    Raises:
        DataError: There is no image, or an image has no caption or a blank one.
    """

    name: str
    captions: tuple[tuple[str, ...], ...]
    read: Callable[[int], Picture]
    location: Callable[[int], str] = "row {}".format

    def __post_init__(self) -> None:
        self._refuse_empty(images=self.captions)
        for i, captions in enumerate(self.captions):
            if not captions or not all(caption.strip() for caption in captions):
                raise DataError(f"{self.named(i)} has no caption or a blank one, expected words; write them there.")

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def texts(self) -> int:
        return sum(map(len, self.captions))

    @property
    def owners(self) -> NDArray[np.int64]:
        """The number of the image that each caption belongs to, [T]."""
        return np.repeat(np.arange(len(self.captions)), [len(captions) for captions in self.captions])

    def _at(self, indices: Sequence[int]) -> Self:
        read, location = self._read_at(indices)
        return replace(self, captions=tuple(self.captions[i] for i in indices), read=read, location=location)


AnyDataset = Dataset | TaggedDataset | CaptionedDataset
"""Everything that `evaluate` takes."""

"""Opens pictures: in the formats below and no others, upright, opaque, as 8-bit RGB, and few enough at once for memory.

Pillow chooses a decoder by content. Its decoder of PostScript starts Ghostscript, and others are rarely tried, so that
a name such as `cat.jpg` must not be enough to get there.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from d4c.errors import DataError, reason_of
from d4c.picture_files import BRANDS

T = TypeVar("T")
Picture = Image.Image | str | os.PathLike[str] | bytes | BinaryIO | NDArray[Any]
"""A picture: a Pillow image, a path, an encoded file in memory, an open binary file, or an array [H, W] or [H, W, C] of
uint8, of uint16 over its whole range, of bool, or of floats in [0, 1]."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")
"""Pillow's names of the formats that are read; the last ones where this Pillow or a plugin has them."""

PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": None}
"""Modules that teach Pillow a format, and the function that does it where importing them is not enough."""

PIXELS_AT_ONCE = 64_000_000
"""Pixels of the pictures that threads hold decoded at one time; a picture with more of them waits to be alone."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned or mirrored."""

_ROWS = 256
"""Rows that are converted at a time, so that a large picture is in memory twice and not four times."""

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one channel with more than 8 bits."""

_SIGNATURES = {
    b"%!PS": "PostScript, which is a program and never run",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"8BPS": "Photoshop's format",
}
"""What a file is that cannot be read, by its first bytes."""


class _Room:
    """Room for the pixels of decoded pictures, which threads share."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for so many pixels, or for as many as there can be, and hold it in the block."""
        share = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        if share > self._all // 4:
            _return_freed_memory()
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()


def _return_freed_memory() -> None:
    """Let the C library of Linux give back what it keeps for each thread, as much as its largest picture took."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


_ROOM = _Room(PIXELS_AT_ONCE)


@contextmanager
def opened_picture(source: Picture, name: str | None = None, largest: int | None = None) -> Iterator[Image.Image]:
    """Decode a picture for the time of the block; threads that would hold too many pixels together wait.

    Args:
        source: The picture.
        name: What an error message calls it, by default its path or what kind of picture was given.
        largest: Most pixels that are decoded; None for as many as Pillow decodes.

    Yields:
        The picture as `as_rgb` makes it.

    Raises:
        DataError: The picture is missing, damaged, of none of `FORMATS`, not a regular file or too large.
    """
    name = _name(source) if name is None else name
    with _decoded(source, name, largest) as picture:
        rgb = explained(lambda: as_rgb(picture), name)
        if rgb is not picture and picture is not source:
            picture.close()  # its memory, which others may wait for
        yield rgb


def open_picture(source: Picture, name: str | None = None) -> Image.Image:
    """Return what `opened_picture` yields, to be kept."""
    with opened_picture(source, name) as picture:
        return picture


def decoded_picture(source: Picture, name: str | None = None) -> Image.Image:
    """Decode a picture and keep its mode and orientation; raises DataError as `opened_picture` does."""
    with _decoded(source, _name(source) if name is None else name) as picture:
        return picture


def unreadable(path: Path) -> str | None:
    """Return why the beginning of a file is not that of a picture that can be read; None if it is."""
    try:
        explained(lambda: _open(path), str(path)).close()
    except DataError as error:
        return str(error)
    return None


@contextmanager
def _decoded(source: Picture, name: str, largest: int | None = None) -> Iterator[Image.Image]:
    picture = explained(lambda: _open(source), name)
    if largest is not None and picture.width * picture.height > largest:
        raise DataError(
            f"{name} has {picture.width} x {picture.height} pixels, expected at most {largest:,}; make it smaller."
        )
    # A Pillow image is the caller's, who may hold room for it.
    theirs = isinstance(source, Image.Image)
    with nullcontext() if theirs else _ROOM.hold(picture.width * picture.height):
        explained(picture.load, name)
        yield picture


def explained(step: Callable[[], T], name: str) -> T:
    """Return what a step of reading a picture gives; any exception becomes a DataError that names the picture."""
    try:
        return step()
    except DataError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or reason_of(error)
    # Pillow's decoders raise nearly every kind of exception on damaged files.
    except Exception as error:
        reason = reason_of(error)
    raise DataError(f"{name} does not decode as an image ({reason}); repair it or leave it out.") from None


def _name(source: Picture) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else f"The picture given as {type(source).__name__}"


def _open(source: Picture) -> Image.Image:
    """Read the header of a picture, or make a picture of an array."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, str | os.PathLike):
        if os.path.exists(source) and not os.path.isfile(source):
            raise DataError("it is a folder, a pipe or a device and not a file")
        with open(source, "rb") as stream:
            start = stream.read(32)
        return _identify(os.fspath(source), start)
    if isinstance(source, bytes | bytearray | memoryview):
        return _identify(BytesIO(source), bytes(source[:32]))
    if hasattr(source, "read"):
        # Some streams, such as those of the network, cannot go back to their beginning.
        data = source if hasattr(source, "seekable") and source.seekable() else BytesIO(source.read())
        data.seek(0)
        return _identify(data, data.read(32))
    raise DataError(f"it is of type {type(source).__name__}, expected a path, bytes, a file, an array or a PIL image")


def _identify(source: str | BinaryIO, start: bytes) -> Image.Image:
    try:
        return Image.open(source, formats=_formats())
    except UnidentifiedImageError:
        raise DataError(_what_it_is(start)) from None


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    for module, register in PLUGINS.items():
        try:
            plugin = import_module(module)
        except ImportError:
            continue
        if register:
            getattr(plugin, register)()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _what_it_is(start: bytes) -> str:
    """Why a file with these first bytes is not read, in words."""
    if not start:
        return "it is empty"
    brand = BRANDS.get(start[8:12]) if start[4:8] == b"ftyp" else None
    jxl = start.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL "))
    for kind, found, package in (
        ("HEIC", brand == "heif", "pillow-heif"),
        ("AVIF", brand == "avif", "a newer pillow"),
        ("JPEG XL", jxl, "pillow-jxl-plugin"),
    ):
        if found:
            return f"it is {kind}, damaged or in need of {package}, which pip install adds"
    for signature, kind in _SIGNATURES.items():
        if start.lstrip().startswith(signature):
            return f"it is {kind}"
    return f"it is of none of the formats {', '.join(_formats())}"


def _from_array(values: NDArray[Any]) -> Image.Image:
    channels = values.shape[2:] or (1,)
    if values.ndim not in (2, 3) or channels[0] not in (1, 3, 4) or not values.size:
        raise DataError(f"it is an array of shape {list(values.shape)}, expected [H, W], or [H, W, C] with C 1, 3 or 4")
    if values.dtype == np.uint16:
        scale = 255 / 65535
    elif values.dtype == np.bool_ or np.issubdtype(values.dtype, np.floating):
        scale = 255.0
    elif values.dtype == np.uint8:
        scale = 1.0
    else:
        raise DataError(f"it is an array of {values.dtype}, expected uint8, uint16, bool, or floats in [0, 1]")
    if np.issubdtype(values.dtype, np.floating) and not (values.min() >= 0 and values.max() <= 1):
        raise DataError(f"its numbers are {values.min():g} to {values.max():g}, expected floats in [0, 1]")
    exact = values if scale == 1 else np.rint(values.astype(np.float32) * np.float32(scale)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(exact[..., 0] if channels == (1,) and values.ndim == 3 else exact))


def as_rgb(picture: Image.Image) -> Image.Image:
    """Turn a picture into opaque 8-bit RGB, upright as its EXIF data says; one that is so already is returned itself.

    Transparent parts become white. Gray of 16 bits keeps its range: 65535 is white. A channel of 32 bits has it only if
    it holds more than 255, and one of floats has its white at 1 unless it holds more.
    """
    picture = _upright(picture)
    if picture.mode in _DEEP and picture.width and picture.height:
        return _deep_as_rgb(picture)
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or picture.info.get("transparency") is not None:
        return _by_strips(picture, _on_white)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        turned = picture.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF data says nothing, and the pixels are there
        return picture
    return ImageOps.exif_transpose(picture) if turned else picture


def _by_strips(picture: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    width, height = picture.size
    whole = Image.new("RGB", picture.size)
    for top in range(0, height, _ROWS):
        whole.paste(convert(picture.crop((0, top, width, min(top + _ROWS, height)))), (0, top))
    return whole


def _on_white(part: Image.Image) -> Image.Image:
    rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _deep_as_rgb(picture: Image.Image) -> Image.Image:
    values, clear = np.asarray(picture), picture.info.get("transparency")
    white = 65535
    if picture.mode == "I" and values.max() <= 255:
        white = 255
    elif picture.mode == "F":
        if np.isnan(values).all():
            raise DataError("it holds no number that is a shade")
        white = 1 if np.nanmax(values) <= 1 else 255
    gray = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        rows = values[top : top + _ROWS]
        scaled = np.nan_to_num(rows.astype(np.float32) * np.float32(255 / white)).round().clip(0, 255).astype(np.uint8)
        if isinstance(clear, int):
            scaled[rows == clear] = 255
        gray[top : top + _ROWS] = scaled
    return Image.fromarray(gray).convert("RGB")

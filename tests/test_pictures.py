"""Pictures of every kind open upright, opaque and as 8-bit RGB, and others are refused by name."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from d4c import pictures
from d4c.errors import DataError
from d4c.picture_files import pictures_below
from d4c.pictures import ORIENTATION, as_rgb, decoded_picture, open_picture, opened_picture


def encoded(picture: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **settings)
    return stream.getvalue()


def ramp(dtype: str = "uint16") -> np.ndarray[Any, Any]:
    """All values of 16 bits, [256, 256]."""
    return np.arange(65536).reshape(256, 256).astype(dtype)


@given(st.integers(0, 255), st.integers(0, 255))
def test_transparency_shows_white(alpha: int, gray: int) -> None:
    shown = as_rgb(Image.new("RGBA", (1, 1), (gray, gray, gray, alpha))).getpixel((0, 0))
    assert shown == pytest.approx((255 + (gray - 255) * alpha / 255,) * 3, abs=1)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_every_kind_of_alpha_is_put_on_white(mode: str) -> None:
    clear = open_picture(Image.new(mode, (3, 600)))
    assert clear.getextrema() == ((255, 255),) * 3


def test_strips_are_the_whole() -> None:
    picture = Image.frombytes("RGBA", (3, 600), np.random.default_rng(0).bytes(3 * 600 * 4))
    whole = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    assert as_rgb(picture).tobytes() == whole.tobytes()


def test_a_premultiplied_tiff_opens() -> None:
    """Half of gray 128 on white; ExtraSamples, which Pillow writes as 2, is 1 where alpha is multiplied in."""
    tag = b"\x52\x01\x03\x00\x01\x00\x00\x00"
    data = encoded(Image.new("LA", (4, 4), (64, 128)), "TIFF").replace(tag + b"\x02", tag + b"\x01")
    assert Image.open(io.BytesIO(data)).mode == "La"
    assert open_picture(data).getpixel((0, 0)) == pytest.approx((191,) * 3, abs=1)


def test_a_palette_with_a_transparent_color_shows_white() -> None:
    blue = Image.new("RGB", (4, 4), "blue").convert("P")
    data = encoded(blue, "GIF", transparency=blue.getpixel((0, 0)))
    assert open_picture(data).getpixel((0, 0)) == (255, 255, 255)


def test_plain_pictures_are_left_alone() -> None:
    picture = Image.new("RGB", (4, 4), "red")
    assert as_rgb(picture) is picture


UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""The transposition that gives what a camera stores which was held so that EXIF says 2 to 8."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_exif_turns_a_picture_once(orientation: int, format: str) -> None:
    corners = Image.new("RGB", (2, 2))
    for xy, color in {(0, 0): "red", (1, 0): "lime", (0, 1): "blue", (1, 1): "white"}.items():
        corners.putpixel(xy, ImageColor.getrgb(color))
    upright = corners.resize((64, 32), Image.Resampling.NEAREST)
    assert format in pictures._formats()  # plugins have told Pillow
    stored = upright.transpose(Image.Transpose(UNDO[orientation])) if orientation in UNDO else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    # Only from bytes does pillow-heif write the turn that readers of HEIC obey.
    shown = open_picture(encoded(stored, format, exif=exif.tobytes() if format == "HEIF" else exif))
    assert shown.size == (64, 32)
    assert np.abs(np.asarray(shown, int) - np.asarray(upright, int)).mean() < 12
    assert as_rgb(shown) is shown


def test_damaged_exif_data_says_nothing() -> None:
    data = encoded(Image.new("RGB", (8, 4), "red"), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert open_picture(data).size == (8, 4)


@pytest.mark.parametrize(
    ("format", "dtype"), [("PNG", "uint16"), ("TIFF", "uint16"), ("TIFF", ">u2"), ("PPM", ">u2")], ids=str
)
def test_sixteen_bits_keep_their_range(format: str, dtype: str) -> None:
    """Pillow's own conversion shows everything above 255 as white."""
    if format == "PPM":
        data = b"P5 256 256 65535\n" + ramp(dtype).tobytes()
    else:
        data = encoded(Image.fromarray(ramp(dtype)), format)
    shown = np.asarray(open_picture(data), np.float64)
    assert np.abs(shown - ramp()[..., None] / 257).max() <= 0.5


def test_a_transparent_gray_of_sixteen_bits_shows_white() -> None:
    data = encoded(Image.fromarray(np.full((4, 4), 77, np.uint16)), transparency=77)
    assert open_picture(data).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "value", "shown"), [("I", 200, 200), ("I", 51400, 200), ("F", 0.5, 128), ("F", 9, 9)])
def test_wide_channels_have_their_white_where_they_need_it(mode: str, value: float, shown: int) -> None:
    assert open_picture(Image.new(mode, (2, 2), value)).getpixel((0, 0)) == (shown,) * 3


def test_floats_without_a_number_are_refused() -> None:
    with pytest.raises(DataError, match="it holds no number that is a shade"):
        open_picture(Image.new("F", (2, 2), float("nan")))


ARRAYS: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "gray": (np.full((2, 3), 9, np.uint8), (9, 9, 9)),
    "one channel": (np.full((2, 3, 1), 9, np.uint8), (9, 9, 9)),
    "color": (np.full((2, 3, 3), [1, 2, 3], np.uint8), (1, 2, 3)),
    "alpha": (np.full((2, 3, 4), [1, 2, 3, 0], np.uint8), (255, 255, 255)),
    "bool": (np.full((2, 3), True), (255, 255, 255)),
    "16 bits": (np.full((2, 3), 65535, np.uint16), (255, 255, 255)),
    "floats": (np.full((2, 3, 3), 0.2), (51, 51, 51)),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_are_pictures(case: str) -> None:
    array, color = ARRAYS[case]
    opened = open_picture(array)
    assert (opened.size, opened.getpixel((0, 0))) == ((3, 2), color)


REFUSALS: dict[str, tuple[Any, str]] = {
    "channels first": (np.zeros((3, 9, 9), np.uint8), r"an array of shape \[3, 9, 9\], expected \[H, W\]"),
    "no pixels": (np.zeros((0, 9), np.uint8), "an array of shape"),
    "wide integers": (np.zeros((9, 9), np.int64), "an array of int64, expected uint8"),
    "floats to 255": (np.full((9, 9), 255.0), r"its numbers are 255 to 255, expected floats in \[0, 1\]"),
    "not a number": (np.full((9, 9), np.nan), "its numbers are nan to nan"),
    "an integer": (7, "of type int, expected a path, bytes"),
    "nothing": (b"", "it is empty"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_picture_is_refused(case: str) -> None:
    source, message = REFUSALS[case]
    with pytest.raises(DataError, match=f"The picture given as {type(source).__name__} does not decode .*{message}"):
        open_picture(source)


CONTENTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "it is empty"),
    "text": (lambda data: b"hello", "it is of none of the formats JPEG, PNG"),
    "half": (lambda data: data[: len(data) // 2], "truncated"),
    "header only": (lambda data: data[:33], ""),
    "PostScript": (
        lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "it is PostScript, which is a pro",
    ),
    "PDF": (lambda data: b"%PDF-1.7", "it is PDF"),
    "SVG": (lambda data: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is SVG"),
    "icon": (lambda data: encoded(Image.new("RGB", (16, 16)), "ICO"), "it is of none of the formats"),
    "HEIC": (lambda data: b"\x00\x00\x00\x18ftypheic", "it is HEIC, damaged or in need of pillow-heif"),
    "JPEG XL": (lambda data: b"\xff\x0a\xfa\x1f", "it is JPEG XL, .* pillow-jxl-plugin"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_is_judged_by_its_content(case: str, tmp_path: Path) -> None:
    change, reason = CONTENTS[case]
    file = tmp_path / "holiday.png"
    file.write_bytes(change(encoded(Image.effect_noise((40, 40), 50))))
    message = rf"holiday\.png does not decode as an image \(.*{reason}.*\); repair it or leave it out"
    with pytest.raises(DataError, match=message):
        open_picture(file)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF"])
def test_a_name_says_nothing_about_a_format(format: str, tmp_path: Path) -> None:
    assert format in pictures._formats()  # plugins have told Pillow
    (tmp_path / "a.eps").write_bytes(encoded(Image.new("RGB", (16, 9), "red"), format))
    assert open_picture(tmp_path / "a.eps").size == (16, 9)


def test_no_format_that_runs_a_program_is_opened() -> None:
    assert not {"EPS", "WMF", "FITS", "PDF"} & set(pictures._formats())
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"} <= set(pictures._formats())


def test_what_is_not_there_or_no_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not decode as an image \(No such file or directory\)"):
        open_picture(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png does not decode .*it is a folder, a pipe or a device"):
        open_picture(tmp_path / "pipe.png")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    (tmp_path / "shut").mkdir()
    (tmp_path / "a.png").touch()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(UserWarning, match=r"shut cannot be read \(Permission denied\)"):
        assert list(pictures_below(tmp_path)) == [tmp_path / "a.png"]


def test_a_decoded_picture_is_as_it_is_stored() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = decoded_picture(encoded(Image.new("L", (8, 4)), "JPEG", exif=exif))
    assert (stored.mode, stored.size) == ("L", (8, 4))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux counts it")
def test_threads_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """Without the room it is four times as much, and so it is where the C library keeps what threads have freed."""
    Image.new("RGBA", (8200, 8200), (255, 0, 0, 128)).save(tmp_path / "large.png", compress_level=1)
    program = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from d4c.models.inputs.preprocess import pixels
with ThreadPoolExecutor(4) as pool:
    for _ in range(int(sys.argv[2])):
        pool.submit(pixels, sys.argv[1], 64, (0, 0, 0), (1, 1, 1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    one, four = (
        int(subprocess.check_output([sys.executable, "-c", program, str(tmp_path / "large.png"), str(count)]))
        for count in (1, 4)
    )
    assert four < 1.3 * one


def test_threads_hold_few_pixels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pictures of 100 pixels where there is room for 250, and one of 1000 that waits to be alone."""
    monkeypatch.setattr(pictures, "_ROOM", pictures._Room(250))
    sources = [encoded(Image.new("L", (10, size))) for size in (10, 10, 10, 10, 100, 10, 10, 10, 10)]
    held: list[int] = []
    most: list[int] = []

    def work(source: bytes) -> None:
        with opened_picture(source) as picture:
            held.append(picture.width * picture.height)
            most.append(sum(held))
            time.sleep(0.01)
            held.remove(picture.width * picture.height)

    threads = [threading.Thread(target=work, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 9
    assert sorted(most)[-1] == 1000
    assert sorted(most)[-2] <= 250

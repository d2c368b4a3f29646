"""The pictures of docs/synthesis.md: images of each set, and figures of what `d4c inspect` measures."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from benchmarks.inspection.figures import activations_figure, coverage_figure, embedding_figure, structure_figure
from benchmarks.inspection.table import ORDER, TERMS
from d4c.calibration.images import CalibrationSet
from d4c.inspection.embedding import principal_map
from d4c.inspection.report import Inspection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[2] / "docs" / "images"
COLUMNS = 6
SIDE = 64
ZOOM = 2
LABEL = 96
LINE = 22


def picture_rows(sets: dict[str, CalibrationSet]) -> Image.Image:
    """The first images of each set in a row of its own, below the prompts that sets with prompts have in common."""
    tile, gap = SIDE * ZOOM, 4
    page = Image.new("RGB", (LABEL + COLUMNS * (tile + gap), LINE + len(sets) * (tile + gap)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    shared = {images.prompts[:COLUMNS] for images in sets.values() if any(images.prompts)}
    for column, prompt in enumerate(shared.pop() if len(shared) == 1 else ()):
        name = prompt.removeprefix("a photo of a ").removeprefix("a photo of an ").removesuffix(".")
        draw.text((LABEL + column * (tile + gap), 0), name, "black", font)
    for row, (name, images) in enumerate(sets.items()):
        top = LINE + row * (tile + gap)
        draw.text((0, top + tile // 2 - 10), name, "black", font)
        for column, pixels in enumerate(images.pictures()[:COLUMNS]):
            small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            large = small.resize((tile, tile), Image.Resampling.NEAREST)
            page.paste(large, (LABEL + column * (tile + gap), top))
    return page


def drawn(figure: Figure) -> Image.Image:
    file = BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def small_png(picture: Image.Image, path: Path) -> None:
    """As a PNG of 96 colors, with which none of the pictures takes more than 150 kB."""
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.name, f"{path.stat().st_size / 1000:.0f} kB", flush=True)


def make_pictures(model: str, baseline: str, inspection: Inspection, sets: dict[str, CalibrationSet]) -> None:
    """All sets where each has a row to itself; where they are drawn over one another only the ones to compare."""
    reports = {name: inspection.sets[name] for name in ORDER if name in inspection.sets}
    few = [name for name in ("noise", "leaves", baseline, "d4c", "real") if name in reports]
    points, _ = principal_map({name: inspection.features[name] for name in few})
    pictures = {
        "images": picture_rows({name: sets[name] for name in (baseline, *TERMS)}),
        "coverage": drawn(coverage_figure({name: report.coverage for name, report in reports.items()})),
        "structure": drawn(structure_figure({name: report.structure for name, report in reports.items()})),
        "embedding": drawn(embedding_figure(points)),
        "activations": drawn(activations_figure({name: reports[name].fits for name in few}, inspection.reference)),
    }
    for name, picture in pictures.items():
        small_png(picture, FOLDER / f"{model}-{name}.png")

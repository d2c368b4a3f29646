"""The charts of image sets: what they show, how they are built, and where they lie in embedding space."""

from __future__ import annotations

from statistics import fmean

from d4c.inspection.report import Inspection
from d4c.report.page.chart import Cell, Chart, Series, Table


def sets_table(sets: Inspection) -> Table:
    """The summary of an inspection."""
    columns = {
        "nearest_prompts": "prompts covered",
        "expected_prompts": "by chance",
        "recognized": "recognized",
        "nearest_cosine": "cosine with prompt",
        "kl": "certainty, nats",
        "fg_bg_contrast": "contrast",
        "fg_bg_variance": "variance",
        "entropy": "entropy, nats",
        "slope": "slope of spectrum",
        "nearest_neighbor": "told from reference",
        "width": "range width",
        "overlap": "range overlap",
        "worst_layer": "worst layer",
    }
    rows = [(name, *(summary[key] for key in columns)) for name, summary in sets.summary().items()]
    return Table("Measures of each set of images", ("set", *columns.values()), tuple(rows))


def coverage_chart(sets: Inspection) -> Chart:
    """How many prompts are the nearest one of some image."""
    measured = {name: report.coverage for name, report in sets.sets.items()}
    prompts = next(iter(measured.values())).prompts
    rows = [
        (name, each.nearest_prompts, each.expected_prompts, fmean(each.kl), each.kl_of_mean)
        for name, each in measured.items()
    ]
    return Chart(
        key="coverage",
        kind="bar",
        title="Coverage",
        summary=f"How many of {prompts} prompts are the nearest one of some image, beside what the same number of "
        "independent draws would reach.",
        labels=list(measured),
        series=[
            Series("prompts covered", [float(each.nearest_prompts) for each in measured.values()], 0),
            Series("by chance", [each.expected_prompts for each in measured.values()], 7),
        ],
        x=f"prompts, of {prompts}",
        y="",
        table=Table(
            "Coverage of prompts",
            ("set", "prompts covered", "by chance", "certainty of an image, nats", "of the mean, nats"),
            tuple(rows),
        ),
    )


def prompts_chart(sets: Inspection) -> Chart:
    """How near each prompt is to the image that shows it best."""
    measured = {name: sorted(report.coverage.best_cosine, reverse=True) for name, report in sets.sets.items()}
    ranks = [str(rank) for rank in range(1, len(sets.prompts) + 1)]
    rows = [(rank, *cosines) for rank, *cosines in zip(ranks, *measured.values(), strict=True)]
    return Chart(
        key="prompts",
        kind="line",
        title="Prompts",
        summary="Cosine of each prompt with the image nearest to it, sorted: the flatter, the more prompts are shown.",
        labels=ranks,
        series=[Series(name, cosines, color) for color, (name, cosines) in enumerate(measured.items())],
        x="prompts, those shown best first",
        y="cosine",
        table=Table("Prompts by their cosine with the nearest image", ("rank", *measured), tuple(rows)),
    )


def fits_chart(sets: Inspection) -> Chart:
    """How wide the ranges of activations are at each layer, relative to those of the reference."""
    shown = {name: report.fits for name, report in sets.sets.items() if name != sets.reference}
    layers = list(next(iter(shown.values())))
    rows: list[tuple[Cell, ...]] = [
        (layer, *(figure for fits in shown.values() for figure in (fits[layer].width, fits[layer].overlap)))
        for layer in layers
    ]
    return Chart(
        key="fits",
        kind="line",
        title="Activation ranges",
        summary=f"Width of the range that enters each layer relative to {sets.reference}: above 1, quantization steps "
        "are coarser than they need to be; below 1, values are clamped.",
        labels=[layer.removeprefix("image.") for layer in layers],
        series=[
            Series(name, [fits[layer].width for layer in layers], color)
            for color, (name, fits) in enumerate(shown.items())
        ],
        x="layers in the order in which they run",
        y=f"width, {sets.reference} = 1",
        log="y",
        table=Table(
            "Activation ranges by layer",
            ("layer", *(f"{name}, {what}" for name in shown for what in ("width", "overlap"))),
            tuple(rows),
        ),
    )


def structure_chart(sets: Inspection) -> Chart:
    """How far the attended part of an image differs from the rest."""
    measured = {name: report.structure for name, report in sets.sets.items()}
    rows = [
        (name, fmean(each.contrast), fmean(each.variance), fmean(each.entropy), fmean(each.slope))
        for name, each in measured.items()
    ]
    return Chart(
        key="structure",
        kind="bar",
        title="Structure",
        summary="Contrast between the half of each image that the tower attends to and the rest: 0 if the two do not "
        "differ, as in noise.",
        labels=list(measured),
        series=[Series("contrast", [fmean(each.contrast) for each in measured.values()], 2)],
        x="similarity within foreground or background, less that across",
        y="",
        table=Table("Structure of the images", ("set", "contrast", "variance", "entropy, nats", "slope"), tuple(rows)),
    )


def spectrum_chart(sets: Inspection) -> Chart:
    """Power of brightness by frequency."""
    measured = {name: report.structure for name, report in sets.sets.items()}
    rows = [
        (name, frequency, power)
        for name, each in measured.items()
        for frequency, power in zip(each.frequency, each.power, strict=True)
    ]
    slopes = ", ".join(f"{name} {fmean(each.slope):.1f}" for name, each in measured.items())
    return Chart(
        key="spectrum",
        kind="line",
        title="Spectrum",
        summary=f"Power of brightness by spatial frequency. Photographs fall with a slope near -2, noise is flat; "
        f"slopes here: {slopes}.",
        labels=[],
        series=[
            Series(name, list(zip(map(float, each.frequency), each.power, strict=True)), color)
            for color, (name, each) in enumerate(measured.items())
        ],
        x="cycles per image",
        y="power",
        log="xy",
        table=Table("Spectrum", ("set", "cycles per image", "power"), tuple(rows)),
    )


def map_chart(sets: Inspection) -> Chart:
    """Where the images lie in the embedding space of the float model."""
    rows = [(name, i, x, y) for name, points in sets.map.items() for i, (x, y) in enumerate(points)]
    return Chart(
        key="map",
        kind="points",
        title="Map of embeddings",
        summary="Each point is an image, projected on the two directions in which the embeddings of all sets vary "
        f"most; these have {100 * sets.map_share:.0f} % of the variance.",
        labels=[],
        series=[
            Series(name, points, color, notes=sets.sets[name].targets)
            for color, (name, points) in enumerate(sets.map.items())
        ],
        x="first principal component",
        y="second",
        table=Table("Map of embeddings", ("set", "image", "first", "second"), tuple(rows)),
    )

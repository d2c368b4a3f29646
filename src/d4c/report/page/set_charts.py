"""The charts of image sets: what they show, how they are built, and where they lie in embedding space."""

from __future__ import annotations

from statistics import fmean

from d4c.calibration.images import CalibrationSet
from d4c.report.measures.image_sets import ImageSets
from d4c.report.page.chart import Chart, Series, Table


def sets_table(sets: ImageSets) -> Table:
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
    rows = [(name, *(summary[key] for key in columns)) for name, summary in sets.inspection.summary().items()]
    return Table("Measures of each set of images", ("set", *columns.values()), tuple(rows))


def coverage_chart(sets: ImageSets) -> Chart:
    """How many prompts are the nearest one of some image."""
    measured = {name: report.coverage for name, report in sets.inspection.sets.items()}
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


def structure_chart(sets: ImageSets) -> Chart:
    """How far the attended part of an image differs from the rest."""
    measured = {name: report.structure for name, report in sets.inspection.sets.items()}
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


def spectrum_chart(sets: ImageSets) -> Chart:
    """Power of brightness by frequency."""
    measured = {name: report.structure for name, report in sets.inspection.sets.items()}
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


def map_chart(sets: ImageSets, images: dict[str, CalibrationSet]) -> Chart:
    """Where the images lie in the embedding space of the float model."""
    prompts = {str(own.provenance.get("method")): own.prompts for own in images.values()}
    rows = [(name, i, x, y) for name, points in sets.map.items() for i, (x, y) in enumerate(points)]
    return Chart(
        key="map",
        kind="points",
        title="Map of embeddings",
        summary="Each point is an image, projected on the two directions in which the embeddings of all sets vary "
        f"most; these have {100 * sets.share:.0f} % of the variance.",
        labels=[],
        series=[
            Series(name, points, color, notes=prompts.get(name, ())[: len(points)])
            for color, (name, points) in enumerate(sets.map.items())
        ],
        x="first principal component",
        y="second",
        table=Table("Map of embeddings", ("set", "image", "first", "second"), tuple(rows)),
    )

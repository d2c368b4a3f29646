"""The charts of a model: its towers, its layers, their ranges, and the time that each stage took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from d4c.evaluation.metrics.record import FIGURES, Metrics
from d4c.quantization.doctor.diagnosis import TowerDiagnosis
from d4c.report.gather import Layers, Part
from d4c.report.measures.activation_ranges import ActivationRange
from d4c.report.measures.layer_errors import LayerError
from d4c.report.measures.predictions import TOWER_ROWS, Accuracy
from d4c.report.page.chart import Chart, Series, Table
from d4c.run.rows import Row

Cells = tuple[float | None, ...]


def metrics_columns(metrics: Metrics) -> tuple[str, ...]:
    """Headings of `metrics_cells`: all figures of a dataset, the leading one with its ends, and fidelity."""
    others = [FIGURES[name] for name in metrics.figures if name != metrics.leading]
    first = f"{FIGURES[metrics.leading]}, %"
    return (first, "from", "to", *(f"{name}, %" for name in others), "same text, %", "cosine", "KL, nats")


def metrics_cells(metrics: Metrics) -> Cells:
    """All figures, the leading one with the ends of its 95 % interval, and fidelity where there is one."""
    first, fidelity = metrics.figures[metrics.leading], metrics.fidelity
    others = [figure.value for name, figure in metrics.figures.items() if name != metrics.leading]
    own = (first.value, first.low, first.high, *others)
    if fidelity is None:
        return (*own, None, None, None)
    return (*own, fidelity.same_class.value, fidelity.cosine, fidelity.kl)


def rows_table(rows: Sequence[Row]) -> Table:
    """The table of a run: float, noise, and the method, in each scheme."""
    cells = [
        (row.name if row.scheme is None else f"{row.scheme}, {row.name}", row.size / 1e6, *metrics_cells(row.metrics))
        for row in rows
    ]
    return Table("All models of the run", ("model", "MB", *metrics_columns(rows[0].metrics)), tuple(cells))


def towers_chart(accuracy: Accuracy) -> Chart:
    """How far each tower alone moves the answers from those of the float model."""
    rows = [("float", "", *metrics_cells(accuracy.reference))]
    rows += [
        (name, TOWER_ROWS[which], *metrics_cells(metrics))
        for name, towers in accuracy.towers.items()
        for which, metrics in towers.items()
    ]
    return Chart(
        key="towers",
        kind="bar",
        title="What each tower costs",
        summary="Divergence of the class probabilities from those of the float model, with one tower quantized and "
        "with both. Zero means that nothing changed.",
        labels=list(TOWER_ROWS.values()),
        series=[
            Series(name, [_kl(towers[which]) for which in TOWER_ROWS], color)
            for color, (name, towers) in enumerate(accuracy.towers.items())
        ],
        x="KL divergence from float, nats",
        y="",
        table=Table("Accuracy by tower", ("model", "quantized", *metrics_columns(accuracy.reference)), tuple(rows)),
    )


def layers_chart(key: str, tower: str, errors: Sequence[LayerError]) -> Chart:
    """Signal to noise of each layer alone and of all layers up to it, on calibration samples and on others."""
    series = [
        Series("alone, calibration", [error.alone for error in errors], 0, notes=[_bits(error) for error in errors]),
        Series("all up to it, calibration", [error.upto for error in errors], 1),
    ]
    compared = any(error.alone_on_others is not None for error in errors)
    if compared:
        series[1:1] = [Series("alone, other samples", [error.alone_on_others for error in errors], 0, dashed=True)]
        series += [Series("all up to it, other samples", [error.upto_on_others for error in errors], 1, dashed=True)]
    kind = "images" if tower == "image" else "prompts"
    gap = f" Dashed lines are other {kind}: where they lie lower, the layer is fitted to what it was calibrated on."
    return Chart(
        key=key,
        kind="line",
        title=f"Layers of the {tower} tower",
        summary="Signal to noise at the output of each layer: higher is better, and 6 dB are half the error. The upper "
        f"line gives each layer exact inputs, the lower one those of the quantized layers before it.{gap * compared}",
        labels=[error.name.removeprefix(f"{tower}.") for error in errors],
        series=series,
        x="layers in the order in which they run",
        y="signal to noise, dB",
        table=layers_table(f"Layers of the {tower} tower", errors),
    )


def compared_chart(tower: str, parts: Mapping[str, Part]) -> Chart | None:
    """The layers of several models in one chart; None where fewer than two were measured."""
    errors = {
        name: {error.name: error for error in part.layers.errors if error.tower == tower}
        for name, part in parts.items()
        if isinstance(part.layers, Layers)
    }
    errors = {name: own for name, own in errors.items() if own}
    if len(errors) < 2:
        return None
    layers = list(dict.fromkeys(layer for own in errors.values() for layer in own))
    rows = [(layer, *(_db(own.get(layer), which) for own in errors.values() for which in _WHICH)) for layer in layers]
    return Chart(
        key=f"compared-{tower}",
        kind="line",
        title=f"Layers of the {tower} tower, all models",
        summary="Signal to noise at the output of each layer with the quantized layers before it, on other samples "
        "than those of the calibration where there are any; dashed: each layer alone.",
        labels=[layer.removeprefix(f"{tower}.") for layer in layers],
        series=[
            Series(
                f"{name}{suffix}",
                [_db(own.get(layer), which) for layer in layers],
                color,
                dashed=which == "alone",
            )
            for color, (name, own) in enumerate(errors.items())
            for which, suffix in _WHICH.items()
        ],
        x="layers in the order in which they run",
        y="signal to noise, dB",
        table=Table(
            f"Layers of the {tower} tower of all models",
            ("layer", *(f"{name}{suffix}, dB" for name in errors for suffix in _WHICH.values())),
            tuple(rows),
            digits=1,
        ),
    )


_WHICH = {"upto": "", "alone": ", alone"}
"""What is compared of a layer, and what the name of a model is followed by."""


def _db(error: LayerError | None, which: str) -> float | None:
    """A ratio on other samples, or on calibration samples where there are no others."""
    if error is None:
        return None
    alone, upto = error.alone_on_others, error.upto_on_others
    if which == "alone":
        return error.alone if alone is None else alone
    return error.upto if upto is None else upto


def layers_table(caption: str, errors: Sequence[LayerError]) -> Table:
    """Every number of the layers."""
    columns = (
        "layer",
        "bits of weights",
        "bits of inputs",
        "weights",
        "apart at 8 bits",
        "alone, dB",
        "weights alone, dB",
        "up to it, dB",
        "alone on others, dB",
        "up to it on others, dB",
    )
    rows = [
        (
            error.name,
            error.weight_bits or None,
            error.input_bits or None,
            error.weights or None,
            _apart(error),
            error.alone,
            error.by_weights,
            error.upto,
            error.alone_on_others,
            error.upto_on_others,
        )
        for error in errors
    ]
    return Table(caption, columns, tuple(rows), digits=1)


def _apart(error: LayerError) -> str:
    """Which inputs have a range of their own."""
    parts = [f"channels {', '.join(map(str, error.loud))}"] if error.loud else []
    return "; ".join([*parts, *(["class token"] if error.class_token else [])])


def ranges_chart(key: str, ranges: Sequence[ActivationRange]) -> Chart:
    """How wide the inputs of layers are before and after the tower was rewritten, and what quantizers cover."""
    columns = (
        "layer",
        "bits",
        "checkpoint from",
        "to",
        "rewritten from",
        "to",
        "quantizer from",
        "to",
    )
    rows = [
        (
            row.name,
            row.bits,
            row.checkpoint.smallest,
            row.checkpoint.largest,
            row.rewritten.smallest,
            row.rewritten.largest,
            row.low,
            row.high,
        )
        for row in ranges
    ]
    return Chart(
        key=key,
        kind="line",
        title="Activation ranges before and after",
        summary="Width from the smallest to the largest input of each layer of the image tower on calibration images: "
        "in the checkpoint, after the tower was rewritten without changing what it computes, and what the quantizer "
        "covers. Values beyond that are clamped.",
        labels=[row.name.removeprefix("image.") for row in ranges],
        series=[
            Series("checkpoint", [_positive(row.checkpoint.largest - row.checkpoint.smallest) for row in ranges], 5),
            Series("rewritten", [_positive(row.rewritten.largest - row.rewritten.smallest) for row in ranges], 0),
            Series("quantizer", [_positive(row.high - row.low) for row in ranges], 1, dashed=True),
        ],
        x="layers in the order in which they run",
        y="width of the range",
        log="y",
        table=Table("Activation ranges", columns, tuple(rows)),
    )


def spread_chart(tower: TowerDiagnosis) -> Chart:
    """How uneven the channels of each axis are before and after the tower was rewritten."""
    rows = [
        (axis.name, axis.channels, axis.before.ratio, axis.after.ratio, len(axis.dead) or None) for axis in tower.axes
    ]
    return Chart(
        key=f"spread-{tower.name}",
        kind="line",
        title=f"Channels of the {tower.name} tower before and after",
        summary="The widest channel over the narrowest one at each axis, in the checkpoint and after the tower was "
        "rewritten. One scale serves all channels of an input, so that 1 is best.",
        labels=[axis.name.removeprefix(f"{tower.name}.") for axis in tower.axes],
        series=[
            Series("checkpoint", [axis.before.ratio for axis in tower.axes], 5),
            Series("rewritten", [axis.after.ratio for axis in tower.axes], 0),
        ],
        x="channel axes",
        y="widest over narrowest",
        log="y",
        table=Table(
            f"Channel axes of the {tower.name} tower",
            ("axis", "channels", "before", "after", "dead"),
            tuple(rows),
        ),
    )


def seconds_chart(key: str, seconds: Mapping[str, float]) -> Chart:
    """How long each stage of a run took."""
    return Chart(
        key=key,
        kind="bar",
        title="Seconds of each stage",
        summary=f"All stages together took {sum(seconds.values()):,.0f} seconds.",
        labels=list(seconds),
        series=[Series("seconds", list(seconds.values()), 0)],
        x="seconds",
        y="",
        table=Table("Seconds of each stage", ("stage", "seconds"), tuple(seconds.items()), digits=1),
    )


def _kl(metrics: Metrics) -> float:
    assert metrics.fidelity is not None
    return metrics.fidelity.kl


def _bits(error: LayerError) -> str:
    weights = f"W{error.weight_bits}" if error.weight_bits else ""
    inputs = f"A{error.input_bits}" if error.input_bits else ""
    return weights + inputs


def _positive(width: float) -> float | None:
    return width if width > 0 else None

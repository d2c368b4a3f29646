"""The sentences of a report that say what its numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

from d4c.comparison.summary import SummaryRow
from d4c.comparison.tables import name_of
from d4c.evaluation.metrics.record import FIGURES
from d4c.report.measures.before_after import Examples
from d4c.report.measures.headline import Headline, leading


def lead(model: str, name: str, head: Headline) -> str:
    """What happened to a model, in one or two sentences."""
    times = head.times_smaller
    size = f"{times:.1f} times smaller" if times >= 1 else f"{1 / times:.1f} times larger"
    smaller = f"{model} in {name.partition(',')[0]} is {size}"
    before, after = leading(head.float_metrics), leading(head.metrics)
    if head.metrics is None or before is None or after is None:
        return f"{smaller} than in float32. {calibrated(head)}"
    loss = before - after
    if abs(loss) < 0.05:
        change = "and just as accurate"
    elif loss < 0:
        change = "and no less accurate"
    else:
        change = f"and {loss:.1f} points less accurate"
    figure = FIGURES[head.metrics.leading]
    accuracy = f"{after:.1f} instead of {before:.1f} % {figure} on {head.dataset}"
    return f"{smaller} than in float32 {change}: {accuracy}. {calibrated(head)}"


def comparison_lead(rows: Sequence[SummaryRow]) -> str:
    """Which combination of the first model comes out best on the first dataset, and how far it is from float."""
    first = [row for row in rows if (row.model, row.dataset) == (rows[0].model, rows[0].dataset)]
    quantized = [row for row in first if row.scheme != row.method]
    if not quantized:
        return f"{rows[0].model} was compared with nothing."
    best = max(quantized, key=lambda row: row.mean)
    alike = sum(row.mean == best.mean for row in quantized)
    change = "" if best.change is None else f", {best.change.value:+.1f} points from float"
    figure = f"{best.mean:.1f} % {FIGURES[best.figure]} on {best.dataset}{change}"
    many = f"Of {len(quantized)} combinations"
    model = f" of {best.model}," if len({row.model for row in rows}) > 1 else ""
    name = f"{best.scheme} with {name_of(best, first)}"
    if len(quantized) == 1:
        return f"The only combination{model or ','} {name}, has {figure}."
    if alike > 1:
        return f"{many}{model} {alike} come out alike and best: {figure}."
    sentence = f"{many}{model} {name} comes out best: {figure}."
    close = sum(row is not best and _may_be_as_good(row, best) for row in quantized)
    if not close:
        return sentence
    others = "that of another one" if close == 1 else f"those of {close} others"
    return f"{sentence} Its 95 % interval overlaps with {others}: more pictures may turn the order."


def _may_be_as_good(row: SummaryRow, best: SummaryRow) -> bool:
    """Whether the intervals of two changes from float overlap."""
    return row.change is not None and best.change is not None and row.change.high >= best.change.low


def calibrated(head: Headline) -> str:
    """What data quantization saw."""
    if head.data_free:
        return f"It saw no data: its {head.images} calibration images were made from the model alone ({head.method})."
    return f"It was calibrated on {head.images} pictures that were given."


def chance(head: Headline) -> str:
    """Whether the change can be told from chance; empty where that was not measured."""
    fidelity = None if head.metrics is None else head.metrics.fidelity
    if head.metrics is None or fidelity is None or fidelity.change is None:
        return ""
    change = fidelity.change
    ends = f"{change.low:+.1f} to {change.high:+.1f} points"
    measured = f"Picture by picture, {head.metrics.count:,} of them, the change is {change.value:+.1f} points"
    if change.low <= 0 <= change.high:
        return f"{measured}, with a 95 % interval of {ends}: it cannot be told from none."
    return f"{measured}, with a 95 % interval of {ends}: it is no accident of the pictures."


def same_answers(examples: Examples) -> list[str]:
    """How much a user would notice, one sentence a model."""
    return [
        f"{name} gives {100 * examples.same_caption[name]:.0f} % of {examples.pictures} pictures the same best caption "
        f"as float, and keeps {100 * examples.overlap[name]:.0f} % of their ten nearest neighbors."
        for name in examples.same_caption
    ]

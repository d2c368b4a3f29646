"""Records against JSON."""

from __future__ import annotations

import json

import pytest

from d4c import DataError
from d4c.evaluation.metrics.intervals import Interval, wilson
from d4c.evaluation.metrics.record import Fidelity, Metrics

TOPS = {"top1": wilson(3, 496), "top5": wilson(9, 496)}


@pytest.mark.parametrize(
    "distance",
    [
        None,
        Fidelity(0.9, 0.8, 0.95, Interval(50.0, 40.0, 60.0), 0.01),
        Fidelity(
            *(0.9, 0.8, 0.95, Interval(50.0, 40.0, 60.0), 0.01),
            change=Interval(-3.0, -4.0, -2.0),
            neighbors=Interval(80.0, 70.0, 90.0),
            bounds={"cosine": (0.8, 0.95)},
        ),
    ],
)
def test_metrics_survive_json(distance: Fidelity | None) -> None:
    metrics = Metrics("demo", 496, TOPS, distance, 1.5, ("one is broken.",))
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics


@pytest.mark.parametrize("damage", [{"top1": None}, {"fidelity": 3}, {"extra": 1}, {"top5": {"value": 1.0}}])
def test_other_shapes_of_metrics_are_refused(damage: dict[str, object]) -> None:
    good = Metrics("demo", 496, TOPS, None, 1.5).to_dict()
    with pytest.raises(DataError, match="evaluate the model again"):
        Metrics.from_dict(good | damage)


def test_a_figure_that_the_data_do_not_have_is_named() -> None:
    metrics = Metrics("pairs", 4, {"text_recall1": wilson(1, 4)}, None, 1.0)
    assert metrics.leading == "text_recall1"
    with pytest.raises(DataError, match="pairs has no top-1, since its images do not have one class each; use one of"):
        _ = metrics.top1
    with pytest.raises(DataError, match="hold none of the figures top1, mean_average_precision, text_recall1"):
        Metrics.from_dict({"dataset": "x", "count": 1, "fidelity": None, "seconds": 1.0})

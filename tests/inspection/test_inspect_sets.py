"""`inspect`: sets side by side, what it refuses, and what it writes."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import fmean

import pytest
import torch

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.errors import DataError
from d4c.evaluation.load_dataset import load_dataset
from d4c.inspection.inspect_sets import inspect
from d4c.inspection.report import Inspection
from d4c.models.clip import CLIP
from d4c.progress import WHOLE


@pytest.fixture(scope="module")
def inspection(demo_vit: CLIP, leaves: CalibrationSet, prompted: CalibrationSet) -> Inspection:
    return inspect(demo_vit, {"our leaves": leaves, "pgsi": prompted}, "demo", seed=5)


def test_all_sets_count_with_the_number_of_the_smallest(inspection: Inspection) -> None:
    assert inspection.images == 6
    assert list(inspection.sets) == ["our leaves", "pgsi", "noise", "leaves", "real"]
    assert all(len(rows) == 6 for rows in inspection.features.values())
    assert all(len(report.structure.slope) == len(report.coverage.kl) == 6 for report in inspection.sets.values())


def test_a_set_that_equals_a_control_gets_its_numbers(demo_vit: CLIP) -> None:
    same = d4c.synthesize(demo_vit, "leaves", images=6, seed=5)
    again = inspect(demo_vit, {"copy": same}, seed=5)
    copy, control = again.sets["copy"], again.sets["leaves"]
    assert (copy.structure, copy.ranges, copy.coverage) == (control.structure, control.ranges, control.coverage)
    assert all(asdict(fit) == pytest.approx({"width": 1, "extent": 1, "overlap": 1}) for fit in copy.fits.values())
    assert copy.likeness is not None
    assert copy.likeness.nearest_neighbor == 0
    assert copy.likeness.centroid_cosine == pytest.approx(1)


def test_the_reference_is_real_images_or_leaves(inspection: Inspection, demo_vit: CLIP, leaves: CalibrationSet) -> None:
    assert inspection.reference == "real"
    assert [name for name, report in inspection.sets.items() if report.likeness is None] == ["real"]
    without = inspect(demo_vit, {"ours": leaves})
    assert without.reference == "leaves"
    assert list(without.sets) == ["ours", "noise", "leaves"]
    assert len(without.prompts) == 180


def test_coverage_is_over_the_prompts_that_the_sets_were_made_for(
    inspection: Inspection, demo_vit: CLIP, prompted: CalibrationSet
) -> None:
    assert inspection.prompts == prompted.texts
    assert inspection.sets["pgsi"].coverage.recognized is not None
    assert inspection.sets["our leaves"].coverage.recognized is None
    # The same prompts in another order, after those of another set.
    turned = replace(prompted, texts=prompted.texts[::-1], targets=len(prompted.texts) - 1 - prompted.targets)
    both = inspect(demo_vit, {"other": replace(prompted, texts=(*prompted.texts, "a zebra.")), "turned": turned})
    assert both.prompts == (*prompted.texts, "a zebra.")
    assert both.sets["turned"].coverage == both.sets["other"].coverage


def test_the_summary_is_means_and_medians_of_the_record(inspection: Inspection) -> None:
    row, report = inspection.summary()["pgsi"], inspection.sets["pgsi"]
    assert row["fg_bg_variance"] == fmean(report.structure.variance)
    assert row["worst_overlap"] == report.fits[row["worst_layer"]].overlap <= row["overlap"]
    assert inspection.summary()["real"]["overlap"] == pytest.approx(1)
    assert inspection.summary()["real"]["nearest_neighbor"] is None


def test_prompted_images_are_nearer_to_their_prompts_than_noise(inspection: Inspection) -> None:
    assert fmean(inspection.sets["pgsi"].coverage.target_cosine) > fmean(
        inspection.sets["noise"].coverage.nearest_cosine
    )


def test_progress_counts_the_sets(demo_rn: CLIP) -> None:
    seen: list[tuple[int, int]] = []
    images = d4c.synthesize(demo_rn, "pink", images=4)
    inspect(demo_rn, {"pink": images}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, WHOLE), *((round(WHOLE * done / 3), WHOLE) for done in (1, 2, 3))]


def test_sets_that_do_not_fit_are_refused(demo_vit: CLIP, leaves: CalibrationSet) -> None:
    small = replace(leaves, pixels=leaves.pixels[..., :32, :32].contiguous())
    few = CalibrationSet(leaves.pixels[:3], leaves.prompts[:3], leaves.targets[:3], (), leaves.provenance)
    with pytest.raises(DataError, match="images of 32 x 32 pixels and 'demo-vit' takes 64 x 64"):
        inspect(demo_vit, {"small": small})
    with pytest.raises(DataError, match="'few' has 3 images, expected at least 4"):
        inspect(demo_vit, {"few": few})
    with pytest.raises(DataError, match="named 'noise', which is the name of a control"):
        inspect(demo_vit, {"noise": leaves})
    with pytest.raises(DataError, match="no set of images"):
        inspect(demo_vit, {})


def test_too_few_real_images_are_refused(demo_vit: CLIP, leaves: CalibrationSet) -> None:
    with pytest.raises(DataError, match="demo has 5 images, expected at least 8"):
        inspect(demo_vit, {"a": leaves}, load_dataset("demo").subset(5))


def test_the_result_does_not_depend_on_the_random_state_outside(demo_rn: CLIP) -> None:
    images = {"pink": d4c.synthesize(demo_rn, "pink", images=4)}
    first = inspect(demo_rn, images)
    torch.manual_seed(1)
    assert inspect(demo_rn, images).to_dict() == first.to_dict()

"""`write_report`: one HTML file about a run, an artifact, or two artifacts side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from d4c.errors import SettingError
from d4c.evaluation import load_dataset as datasets
from d4c.models.formats.load import demo_models
from d4c.models.tower_config import Activation
from d4c.progress import WHOLE, Report, reporting
from d4c.report.gather import LIMIT, ReportData, gather
from d4c.report.page.render import render
from d4c.report.subject import Subject, float_model, open_subject
from d4c.run.rows import REPORT
from d4c.storage.files import atomic_file
from d4c.storage.outputs import PAGE, check_output_file

if TYPE_CHECKING:
    from d4c.evaluation.dataset import AnyDataset


@dataclass(frozen=True)
class ReportOptions:
    """What a report needs beyond the folders that it is about; None is what the run or the artifact says."""

    model: str | None = None
    """The float model, as `load` takes it."""
    pretrained: str | None = None
    """Weights of an open_clip name."""
    activation: Activation | None = None
    heads: tuple[int, int] | None = None
    image_size: int | None = None
    dataset: str | None = None
    """Pictures and classes; by default those of the run, and for embedded models the embedded ones."""
    calibration: Path | None = None
    """The images that an artifact was calibrated on, if they are not those of its run."""
    export: Path | None = None
    """An export of the artifact, if it is not beside it."""
    limit: int = LIMIT
    """Largest number of pictures of the dataset that are looked at."""
    device: str = "cpu"


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    compare: str | Path | None = None,
    options: ReportOptions | None = None,
    progress: Report = "auto",
) -> tuple[Path, ReportData]:
    """Measure what a report says and write it.

    Args:
        folder: Folder of a run or of an artifact.
        output: The file; by default report.html in the folder of a run, and NAME-report.html beside an artifact.
        compare: Another artifact or run of the same float model, to be shown side by side.
        options: What else is needed.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The file, and what it says.

    Raises:
        ArtifactError: A folder is neither a run nor an artifact, or something in it is damaged.
        SettingError: The float model has to be named, or is not the one of both folders.
        DataError: The dataset cannot be used.
    """
    options = options or ReportOptions()
    folder = Path(folder)
    file = default_file(folder, compare) if output is None else Path(output)
    check_output_file(file, PAGE)
    subjects = [open_subject(folder, options.calibration, options.export, options.device)]
    if compare is not None:
        subjects.append(open_subject(Path(compare), device=options.device))
        _refuse_other_models(subjects)
        subjects = _distinct(subjects)
    given = {"activation": options.activation, "heads": options.heads, "image_size": options.image_size}
    clip = float_model(subjects[0], options.model, options.device, options.pretrained, **given)
    dataset = _dataset(subjects[0], options.dataset)
    with reporting(progress, "report") as steps:
        steps(0, WHOLE)
        report = gather(subjects, clip, dataset, limit=options.limit, progress=steps)
        page = render(report)
        steps(WHOLE, WHOLE)
    with atomic_file(file) as new:
        new.write_text(page, encoding="utf-8", errors="backslashreplace")
    return file, report


def default_file(folder: Path, compare: str | Path | None = None) -> Path:
    """Where a report is written if nobody says where: not into an artifact, which holds only what was sealed."""
    real = folder.resolve()
    if compare is not None:
        return real.with_name(f"{real.name}-{Path(compare).resolve().name}-{REPORT}")
    return folder / REPORT if (folder / "artifact").is_dir() else real.with_name(f"{real.name}-{REPORT}")


def _refuse_other_models(subjects: list[Subject]) -> None:
    first, second = (subject.recipe["model"]["sha256"] for subject in subjects)
    if first != second:
        raise SettingError(
            f"{subjects[0].folder} and {subjects[1].folder} were made from different float models; "
            "compare models that were made from one."
        )


def _distinct(subjects: list[Subject]) -> list[Subject]:
    """Subjects whose names differ: those of one name take that of their folder."""
    if len({subject.name for subject in subjects}) == len(subjects):
        return subjects
    named = [replace(subject, name=f"{subject.name} ({subject.folder.name})") for subject in subjects]
    if len({subject.name for subject in named}) == len(named):
        return named
    return [replace(subject, name=f"{subject.name} ({i})") for i, subject in enumerate(subjects, 1)]


def _dataset(subject: Subject, spec: str | None) -> AnyDataset | None:
    """The dataset that was named, that of the run, or the embedded one for embedded models."""
    if spec is None and subject.run is not None:
        spec = subject.run.dataset
    if spec is None and subject.recipe["model"]["name"] in demo_models():
        spec = "demo"
    return None if spec is None else datasets.load_pictures(spec)

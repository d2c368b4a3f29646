"""`run`: every step of the job, and which of them are done already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4c.device import resolve_device
from d4c.errors import DataError, SettingError
from d4c.progress import Progress
from d4c.reading.json_file import read_json
from d4c.run.config import RunConfig
from d4c.run.origins import data_origin, model_origin
from d4c.run.rows import CONFIG, REPORT, RunResult, float_size, read_rows
from d4c.storage.files import write_json
from d4c.storage.locks import LOCK, locked
from d4c.storage.manifest import (
    fingerprint,
    is_done,
    outcome,
    refuse_foreign,
    seconds,
    stage_folder,
    versions_of,
)
from d4c.storage.outputs import is_empty, unfinished_beside
from d4c.storage.siblings import check_writable
from d4c.synthesis.config import SynthesisConfig

if TYPE_CHECKING:
    from d4c.evaluation.dataset import AnyDataset
    from d4c.models.clip import CLIP

CALIBRATION, QUANTIZED = "calibration set", "quantized model"
"""What the manifests of steps call them, as those of such folders do that are written alone."""

Reporter = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress display for a step, given its title."""


@dataclass(frozen=True)
class Step:
    """A folder of the run directory, what its content depends on (known once earlier steps are done), and its maker."""

    folder: Path
    kind: str
    key: Callable[[], dict[str, Any]]
    make: Callable[[Path], None]

    def is_done(self) -> bool:
        return is_done(self.folder, self.key())


def run(config: RunConfig, folder: Path, report: Reporter) -> RunResult:
    """Do the whole job in `folder`, skipping every step that is done already.

    A finished run is told by the hashes of its files, without loading PyTorch, the model or the data.

    Raises:
        D4CError: A setting, the model or the data cannot be used; said before anything is written.
    """
    job = _Job(replace(config, device=resolve_device(config.device)), folder, report)
    steps = list(job.steps())
    if not all(step.is_done() for step in steps):
        _refuse_occupied(folder, steps)
        job.load()
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK, folder):
            write_json(folder / CONFIG, config.to_dict())
            (folder / REPORT).unlink(missing_ok=True)
            for step in steps:
                if not step.is_done():
                    with stage_folder(step.folder, step.kind, step.key()) as new:
                        step.make(new)
                    _remove_unfinished(step.folder)
    result = _result(folder, steps)
    _keep(folder / "metrics.json", result.to_dict())
    return result


def _result(folder: Path, steps: list[Step]) -> RunResult:
    """What the finished steps say."""
    rows = read_rows(folder / "evaluation" / "metrics.json")
    names = {step.folder.name: step.folder for step in steps}
    times = {name: seconds(path) for name, path in names.items()}
    return RunResult(folder, rows, times, {name: versions_of(path) for name, path in names.items()})


def _keep(file: Path, data: Any) -> None:
    """Write JSON unless the file holds it already; a finished run may be on a disk that is only read."""
    with suppress(DataError):
        if read_json(file, DataError, "") == json.loads(json.dumps(data)):
            return
    write_json(file, data)


class _Job:
    """The steps of a run; the model and the data are loaded when the first step needs them."""

    def __init__(self, config: RunConfig, folder: Path, report: Reporter) -> None:
        self.config, self.folder, self.report = config, folder, report

    @cached_property
    def clip(self) -> CLIP:
        from d4c.models.formats.load import load

        c = self.config
        return load(
            c.model, c.pretrained, device=c.device, activation=c.activation, heads=c.heads, image_size=c.image_size
        )

    @cached_property
    def dataset(self) -> AnyDataset:
        from d4c.evaluation.load_dataset import load_pictures

        return load_pictures(self.config.dataset)

    @cached_property
    def data(self) -> str | None:
        """What tells the dataset apart."""
        return data_origin(self.config.dataset)

    @cached_property
    def model(self) -> str:
        """What tells the model apart: its weights, and how they are told to compute."""
        c = self.config
        origin = model_origin(c.model, c.pretrained)
        if origin is None:
            from d4c.models.formats.identity import model_hash

            origin = model_hash(self.clip)
        return fingerprint([origin, c.activation, c.heads, c.image_size])

    def load(self) -> None:
        """Load what the steps need; raises D4CError for what cannot be used."""
        from d4c.models.config import TOWERS
        from d4c.quantization.quantize import check_layers
        from d4c.synthesis.synthesize import for_towers

        assert len(self.dataset)
        self.clip.require(TOWERS, "d4c run", "use d4c synthesize, d4c quantize, and d4c evaluate with --reference")
        for_towers(self.config.synthesis, self.clip)
        for scheme in self.config.schemes:
            check_layers(self.clip, replace(self.config.quantization, scheme=scheme))

    def steps(self) -> Iterator[Step]:
        """All steps in order; each key asks for the outcome of earlier ones."""
        sources = {"synthesis": self.config.synthesis}
        if self.config.synthesis.method != "noise":  # which would be compared with itself
            sources["noise"] = replace(self.config.synthesis, method="noise")
        for name, synthesis in sources.items():
            key = partial(self._synthesis_key, synthesis)
            yield Step(self.folder / name, CALIBRATION, key, partial(self._synthesize, synthesis, name))
        rows = []
        for scheme in self.config.schemes:
            suffix = "" if scheme == self.config.schemes[0] else f"-{scheme}"
            for name, source in (("baseline", "noise"), ("artifact", "synthesis")):
                if source not in sources:
                    continue
                folder = self.folder / f"{name}{suffix}"
                key = partial(self._artifact_key, scheme, source)
                yield Step(folder, QUANTIZED, key, partial(self._quantize, scheme, source, folder.name))
                rows.append((folder, scheme, sources[source].method))
        key = partial(self._evaluation_key, rows)
        yield Step(self.folder / "evaluation", "evaluation", key, partial(self._evaluate, rows))

    def _synthesis_key(self, synthesis: SynthesisConfig) -> dict[str, Any]:
        return {"model": self.model, "synthesis": asdict(synthesis)}

    def _artifact_key(self, scheme: str, source: str) -> dict[str, Any]:
        quantization = replace(self.config.quantization, scheme=scheme).resolved()
        # The last override that matches wins, and a fingerprint sorts what has names.
        order = list(quantization.overrides)
        calibration = outcome(self.folder / source)
        return {
            "model": self.model,
            "calibration": calibration,
            "quantization": quantization.to_dict(),
            "order": order,
        }

    def _evaluation_key(self, rows: list[tuple[Path, str, str]]) -> dict[str, Any]:
        c = self.config
        data = {"dataset": c.dataset, "data": self.data, "strict": c.strict, "device": c.device}
        return {"model": self.model, **data, "rows": [[name, scheme, outcome(path)] for path, scheme, name in rows]}

    def _synthesize(self, synthesis: SynthesisConfig, name: str, new: Path) -> None:
        from d4c.synthesis.synthesize import synthesize

        unfinished = unfinished_beside(self.folder / name)
        with self.report(f"synthesize {synthesis.method}") as progress:
            made = synthesize(self.clip, synthesis, progress=progress, checkpoint=unfinished)
        made.write(new)

    def _quantize(self, scheme: str, source: str, name: str, new: Path) -> None:
        from d4c.calibration.images import CalibrationSet
        from d4c.quantization.quantize import quantize

        images = CalibrationSet.load(self.folder / source)
        config = replace(self.config.quantization, scheme=scheme)
        with self.report(f"quantize to {scheme} with {images.provenance['method']}") as progress:
            unfinished = unfinished_beside(self.folder / name)
            quantized = quantize(self.clip, images, config, progress=progress, checkpoint=unfinished)
        quantized.write(new)

    def _evaluate(self, artifacts: list[tuple[Path, str, str]], new: Path) -> None:
        from d4c.evaluation.embed import embed
        from d4c.evaluation.score import score
        from d4c.quantization.artifact.read import read_artifact

        strict = self.config.strict
        with self.report("evaluate float") as progress:
            reference = embed(self.clip, self.dataset, strict=strict, progress=progress)
        metrics = score(reference, self.dataset, reference=None)
        size = float_size(self.clip, whole_table="text" not in self.config.quantization.towers)
        rows = [{"name": "float", "scheme": None, "bytes": size, "metrics": metrics.to_dict()}]
        for path, scheme, name in artifacts:
            model = read_artifact(path, device=self.clip.device)
            with self.report(f"evaluate {scheme} with {name}") as progress:
                embeddings = embed(model, self.dataset, strict=strict, progress=progress)
            metrics = score(embeddings, self.dataset, reference=reference)
            size = (path / "model.safetensors").stat().st_size
            rows.append({"name": name, "scheme": scheme, "bytes": size, "metrics": metrics.to_dict()})
        write_json(new / "metrics.json", {"rows": rows})


def _remove_unfinished(folder: Path) -> None:
    """Remove the checkpoints of a step whose result is safe by now."""
    from d4c.quantization.rounding.resume import remove_checkpoint
    from d4c.synthesis.resume import remove_checkpoints

    unfinished = unfinished_beside(folder)
    remove_checkpoint(unfinished)
    remove_checkpoints(unfinished)


def _refuse_occupied(folder: Path, steps: list[Step]) -> None:
    """Refuse, before any work, a folder where steps would replace what is not theirs."""
    from d4c.quantization.rounding.resume import refuse_other_files as refuse_in_reconstruction
    from d4c.synthesis.resume import refuse_other_files as refuse_in_synthesis

    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file, but the output must be a folder; choose another path.")
    check_writable(folder / CONFIG)
    if not is_empty(folder) and not _is_run(folder):
        raise SettingError(f"{folder} holds files and is not a run directory; choose an empty or a new folder.")
    done = [step.folder for step in takewhile(Step.is_done, steps)]
    for step in steps[len(done) :]:
        refuse_foreign(step.folder)
        unfinished = unfinished_beside(step.folder)
        refuse_in_reconstruction(unfinished)
        refuse_in_synthesis(unfinished)


def _is_run(folder: Path) -> bool:
    try:
        config = read_json(folder / CONFIG, SettingError, "choose another folder")
    except SettingError:
        return False
    return isinstance(config, dict) and {"model", "dataset", "synthesis", "quantization"} <= set(config)

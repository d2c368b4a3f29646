"""The whole job on an embedded model with tiny settings, and what is done again when something changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import d4c
from d4c.errors import ArtifactError, DataError, SettingError
from d4c.evaluation.dataset import AnyDataset, Dataset
from d4c.evaluation.embed import Embeddings, Encoder, embed
from d4c.evaluation.load_dataset import load_pictures
from d4c.models.clip import CLIP
from d4c.models.formats.load import load
from d4c.models.tower_config import ViTConfig
from d4c.progress import Progress
from d4c.quantization import quantize as quantize_module
from d4c.quantization.config import QuantizeConfig
from d4c.run.config import RunConfig
from d4c.run.job import run
from d4c.run.origins import DEMO
from d4c.run.rows import RunResult, float_size
from d4c.storage.locks import LOCK, locked
from d4c.synthesis.config import synthesis_config

CONFIG = RunConfig(
    "demo-vit",
    device="cpu",
    synthesis=synthesis_config("d4c", "quick", {"images": 4, "iterations": 2}),
    quantization=QuantizeConfig(reconstruction="none"),
)
STAGES = ["synthesis", "noise", "baseline", "artifact", "evaluation"]


def few(spec: str) -> Dataset:
    """Emoji of 12 classes where the demo would have all."""
    dataset = load_pictures(spec)
    assert isinstance(dataset, Dataset)
    return replace(dataset, classes=dataset.classes[:12], labels=dataset.labels[:12]) if spec == "demo" else dataset


def shallow(source: str, pretrained: str | None = None, device: str = "cpu", **_: object) -> CLIP:
    """The first block of each tower of an embedded model."""
    clip = load(source, pretrained, device)
    vision = clip.config.image
    assert isinstance(vision, ViTConfig)
    clip.image.blocks, clip.text.blocks = clip.image.blocks[:1], clip.text.blocks[:1]
    clip.config = replace(clip.config, image=replace(vision, layers=1), text=replace(clip.config.text, layers=1))
    return clip


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_module, "PROMPTS", 8)
        patch.setattr("d4c.evaluation.load_dataset.load_pictures", few)
        patch.setattr("d4c.models.formats.load.load", shallow)
        yield


class Reported:
    """Counts the stages that ran."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextmanager
    def __call__(self, title: str) -> Iterator[Progress]:
        self.titles.append(title)
        yield lambda done, total: None


def run_again(folder: Path, config: RunConfig = CONFIG) -> list[str]:
    report = Reported()
    run(config, folder, report)
    return report.titles


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult, list[str]]:
    folder, report = tmp_path_factory.mktemp("run") / "demo", Reported()
    return folder, run(CONFIG, folder, report), report.titles


@pytest.fixture
def copied(finished: tuple[Path, RunResult, list[str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


EVALUATIONS = ["evaluate float", "evaluate W4A8 with noise", "evaluate W4A8 with d4c"]
QUANTIZATIONS = ["quantize to W4A8 with noise", "quantize to W4A8 with d4c"]


def test_a_run_writes_every_stage(finished: tuple[Path, RunResult, list[str]]) -> None:
    folder, result, titles = finished
    assert titles[:2] == ["synthesize d4c", "synthesize noise"]
    assert titles[2:] == [*QUANTIZATIONS, *EVALUATIONS]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*STAGES, "config.json", "metrics.json"])
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads(json.dumps(CONFIG.to_dict()))
    assert json.loads((folder / "metrics.json").read_text()) == result.to_dict()
    assert list(result.seconds) == STAGES


def test_noise_is_not_compared_with_itself(tmp_path: Path) -> None:
    config = replace(CONFIG, synthesis=synthesis_config("noise", "quick", {"images": 4}))
    report = Reported()
    result = run(config, tmp_path / "run", report)
    assert report.titles == ["synthesize noise", QUANTIZATIONS[0], *EVALUATIONS[:2]]
    assert [row.name for row in result.rows] == ["float", "noise"]
    assert (result.folder / "artifact" / "model.safetensors").is_file()


def test_the_table_compares_float_noise_and_method(finished: tuple[Path, RunResult, list[str]]) -> None:
    folder, result, _ = finished
    assert [row.name for row in result.rows] == ["float", "noise", "d4c"]
    plain, noise, own = result.rows
    assert plain.metrics.fidelity is None
    assert noise.metrics.fidelity is not None
    assert own.metrics.fidelity is not None
    assert own.metrics.fidelity.cosine > 0.8
    assert own.size == (folder / "artifact" / "model.safetensors").stat().st_size < plain.size / 4


def test_the_artifact_of_a_run_loads(finished: tuple[Path, RunResult, list[str]]) -> None:
    clip = d4c.load_quantized(finished[0] / "artifact")
    assert clip.recipe["calibration"]["method"] == "d4c"
    assert clip.encode_text(clip.tokenize("a cat")).isfinite().all()


def test_a_finished_run_does_nothing_again(finished: tuple[Path, RunResult, list[str]], copied: Path) -> None:
    report = Reported()
    again = run(CONFIG, copied, report)
    assert report.titles == []
    assert again.to_dict() == finished[1].to_dict()


def test_only_what_is_gone_is_made_again(copied: Path) -> None:
    shutil.rmtree(copied / "evaluation")
    assert run_again(copied) == EVALUATIONS
    assert run_again(copied) == []


def test_what_depends_on_a_changed_stage_is_made_again(copied: Path) -> None:
    (copied / "baseline" / "model.safetensors").write_bytes(b"damaged")
    # The same artifact but for the seconds in its recipe, so it has to be judged again.
    assert run_again(copied) == [QUANTIZATIONS[0], *EVALUATIONS]


def test_another_scheme_keeps_the_images(copied: Path) -> None:
    eight = replace(CONFIG, quantization=replace(CONFIG.quantization, scheme="W8A8"))
    assert run_again(copied, eight) == [title.replace("W4A8", "W8A8") for title in (*QUANTIZATIONS, *EVALUATIONS)]
    assert json.loads((copied / "config.json").read_text())["quantization"]["scheme"] == "W8A8"


def test_a_report_of_what_was_is_removed_with_what_it_was_about(copied: Path) -> None:
    (copied / "report.html").write_text("about the finished run")
    assert run_again(copied) == []
    assert (copied / "report.html").exists()
    shutil.rmtree(copied / "evaluation")
    assert run_again(copied) == EVALUATIONS
    assert not (copied / "report.html").exists()


def test_a_second_scheme_adds_its_rows_and_keeps_the_first(copied: Path) -> None:
    two = replace(CONFIG, more_schemes=("W8A8",))
    eight = [title.replace("W4A8", "W8A8") for title in (*QUANTIZATIONS, *EVALUATIONS[1:])]
    assert run_again(copied, two) == [*eight[:2], *EVALUATIONS, *eight[2:]]
    rows = run(two, copied, Reported()).rows
    assert [(row.scheme, row.name) for row in rows] == [
        (None, "float"),
        ("W4A8", "noise"),
        ("W4A8", "d4c"),
        ("W8A8", "noise"),
        ("W8A8", "d4c"),
    ]
    assert d4c.load_quantized(copied / "artifact-W8A8").recipe["scheme"] == "W8A8"


def test_the_order_of_overrides_counts(copied: Path) -> None:
    overrides = {"image.blocks.*": "W8A8", "image.*": "W6A8"}
    some = replace(CONFIG, quantization=replace(CONFIG.quantization, overrides=overrides))
    turned = dict(reversed(overrides.items()))
    other = replace(CONFIG, quantization=replace(CONFIG.quantization, overrides=turned))
    assert run_again(copied, some)
    assert run_again(copied, other) == [*QUANTIZATIONS, *EVALUATIONS]


def test_a_finished_run_is_told_without_torch(finished: tuple[Path, RunResult, list[str]], copied: Path) -> None:
    """In a process of its own, with the settings that were written."""
    program = f"""
import json, sys
from pathlib import Path
from d4c.run.config import run_config
from d4c.run.job import run
config = json.loads(Path({str(copied / "config.json")!r}).read_text())
result = run(run_config(config), Path({str(copied)!r}), None)
assert "torch" not in sys.modules and "pyarrow" not in sys.modules
print(json.dumps(result.to_dict()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == finished[1].to_dict()


def test_a_changed_model_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name with other content."""
    model = Path(shutil.copy(DEMO / "demo-vit.safetensors", tmp_path / "model.safetensors"))
    config = replace(CONFIG, model=str(model), synthesis=replace(CONFIG.synthesis, method="noise"))
    assert run_again(tmp_path / "run", config)
    assert run_again(tmp_path / "run", config) == []
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    assert run_again(tmp_path / "run", config)[:2] == ["synthesize noise", QUANTIZATIONS[0]]


def test_the_full_range_and_sharp_images_reach_both_artifacts(copied: Path) -> None:
    changed = replace(CONFIG, quantization=replace(CONFIG.quantization, full_range=True, soften=False))
    assert run_again(copied, changed) == [*QUANTIZATIONS, *EVALUATIONS]
    for name in ("artifact", "baseline"):
        recipe = d4c.load_quantized(copied / name).recipe
        assert (recipe["full_range"], recipe["soften"]) == (True, False)


def test_strict_reaches_the_evaluation_and_counts_as_a_setting(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that was left out before is an error when the run is repeated with `strict`."""
    asked: list[bool] = []

    def watched(model: Encoder, dataset: AnyDataset, *, strict: bool, progress: Progress) -> Embeddings:
        asked.append(strict)
        return embed(model, dataset, strict=strict, progress=progress)

    monkeypatch.setattr("d4c.evaluation.embed.embed", watched)
    assert run_again(copied, replace(CONFIG, strict=True)) == EVALUATIONS
    assert asked == [True] * 3


def test_float_size_leaves_out_unused_tokens(demo_vit: CLIP) -> None:
    used = int(demo_vit.text.token_embedding.weight.any(1).sum())
    width = demo_vit.config.text.width
    everything = sum(p.numel() for p in demo_vit.parameters())
    assert float_size(demo_vit) == 4 * (everything - (demo_vit.config.text.vocab_size - used) * width)
    assert float_size(demo_vit, whole_table=True) == 4 * everything


REFUSALS = {
    "model": (replace(CONFIG, model="no/such/file.pt"), d4c.CheckpointError, "not an existing file or folder"),
    "method": (
        replace(CONFIG, synthesis=replace(CONFIG.synthesis, method="bns")),
        SettingError,
        "BatchNorm|ResNet",
    ),
    "override": (
        replace(CONFIG, quantization=replace(CONFIG.quantization, overrides={"text.blocks.99.*": "W8A8"})),
        SettingError,
        "matches no layer",
    ),
    "target": (
        replace(CONFIG, quantization=replace(CONFIG.quantization, target_bytes=1)),
        SettingError,
        "1 bytes of weights, expected",
    ),
    "kind of data": (replace(CONFIG, dataset="photos"), SettingError, "'photos', expected"),
    "data": (replace(CONFIG, dataset="folder:no/such"), DataError, "does not exist"),
}


@pytest.mark.parametrize(("config", "kind", "about"), REFUSALS.values(), ids=REFUSALS)
def test_settings_are_refused_before_anything_is_made(
    tmp_path: Path, config: RunConfig, kind: type[Exception], about: str
) -> None:
    report = Reported()
    with pytest.raises(kind, match=about):
        run(config, tmp_path / "out", report)
    assert report.titles == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError, match="not a run directory"):
        run(CONFIG, tmp_path, Reported())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["evaluation", "evaluation/thesis.txt"]


@pytest.mark.parametrize("name", ["evaluation/thesis.txt", "noise.unfinished.0", "artifact.unfinished/a.safetensors"])
def test_what_somebody_else_put_into_a_run_is_named_before_any_work(copied: Path, name: str) -> None:
    shutil.rmtree(copied / "noise")
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("years of work")
    report = Reported()
    with pytest.raises(ArtifactError, match=f"{Path(name).name}.*move it away"):
        run(CONFIG, copied, report)
    assert report.titles == []
    assert (copied / name).read_text() == "years of work"


def test_two_runs_in_one_folder_do_not_mix(copied: Path) -> None:
    shutil.rmtree(copied / "evaluation")
    with (
        locked(copied / LOCK, copied),
        pytest.raises(SettingError, match=r"Another d4c is working in .*copy; wait until it is done"),
    ):
        run(CONFIG, copied, Reported())
    assert run_again(copied) == EVALUATIONS


def test_a_run_that_was_killed_in_its_first_moments_begins_again(tmp_path: Path) -> None:
    """After the lock and before config.json: nothing else refuses what is no run."""
    (tmp_path / LOCK).touch()
    (tmp_path / ".config.json.0123abcd.d4c-new").mkdir()
    with pytest.raises(d4c.CheckpointError, match="not an existing file or folder"):
        run(replace(CONFIG, model="no/such/file.pt"), tmp_path, Reported())


def test_a_later_version_keeps_those_that_made_the_earlier_stages(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "evaluation")
    monkeypatch.setattr("d4c.storage.manifest.__version__", "9.9")
    assert run_again(copied) == EVALUATIONS
    versions = json.loads((copied / "metrics.json").read_text())["versions"]
    assert [versions[stage]["d4c"] for stage in STAGES] == [d4c.__version__] * 4 + ["9.9"]


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingError, match="is a file"):
        run(CONFIG, tmp_path / "file", Reported())
    with pytest.raises(ArtifactError, match=r"below.* cannot be written \(Not a directory\)"):
        run(CONFIG, tmp_path / "file" / "below", Reported())


def test_the_same_seed_gives_the_same_images_and_weights(
    finished: tuple[Path, RunResult, list[str]], tmp_path: Path
) -> None:
    run(CONFIG, tmp_path, Reported())
    first, second = (d4c.load_quantized(folder / "artifact") for folder in (finished[0], tmp_path))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )

"""CLIP_benchmark's own evaluator gives our figures on our models, and its command reads our files."""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import d4c
from d4c.evaluation.clip_benchmark import clip_benchmark_record
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset, load_pictures
from d4c.evaluation.metrics.intervals import wilson
from d4c.evaluation.metrics.record import Metrics
from d4c.models.clip import CLIP

pytest.importorskip("clip_benchmark")


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    return load_dataset("demo").subset(48)


@pytest.fixture
def write(tmp_path: Path, emoji: Dataset) -> Callable[[str, str, Callable[[int], bytes]], Path]:
    """Write emoji in CLIP_benchmark's layout: the type, the end of the names of targets, and the target of each."""

    def write_layout(kind: str, end: str, target: Callable[[int], bytes]) -> Path:
        root = tmp_path / kind
        (root / "test").mkdir(parents=True)
        (root / "test" / "nshards.txt").write_text("1")
        (root / "dataset_type.txt").write_text(kind)
        names = [emoji.classes[label].replace(" face", "") for label in emoji.labels[::4]]
        (root / "classnames.txt").write_text("\n".join(names))
        (root / "zeroshot_classification_templates.txt").write_text("an emoji of a {c}.\na {c} icon\n")
        with tarfile.open(root / "test" / "0.tar", "w") as archive:
            for i in range(len(emoji)):
                stream = io.BytesIO()
                emoji.image(i).save(stream, "PNG")
                for name, content in ((f"{i:04}.png", stream.getvalue()), (f"{i:04}.{end}", target(i))):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return root

    return write_layout


def tags_of(i: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, (np.arange(12) % (2 + i % 5) == 0).astype(np.int64))
    return stream.getvalue()


def captions_of(emoji: Dataset) -> Callable[[int], bytes]:
    return lambda i: f"an emoji of a {emoji.classes[emoji.labels[i]]}.\na drawing of emoji {i}".encode()


def their_figures(clip: CLIP, root: Path, kind: str) -> dict[str, float]:
    from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    dataset = build_wds_dataset("emoji", clip.preprocess, data_dir=str(root))
    if kind == "retrieval":
        loader = torch.utils.data.DataLoader(
            dataset.batched(16, collation_fn=image_captions_collate_fn), batch_size=None
        )
        return zeroshot_retrieval.evaluate(clip, loader, clip.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    loader = torch.utils.data.DataLoader(dataset.batched(16), batch_size=None)
    return zeroshot_classification.evaluate(
        clip, loader, clip.tokenize, dataset.classes, dataset.templates, "cpu", amp=False
    )


def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """Top-k as CLIP_benchmark 1.6.2 defines it, whose own function NumPy 2.4 refuses: it makes a float of an array."""
    return [(output.topk(k, 1)[1] == target[:, None]).any(1).double().mean().item() for k in topk]


@pytest.mark.parametrize("kind", ["classification", "multilabel", "retrieval"])
def test_its_evaluator_gives_the_same_figures(
    demo_vit: CLIP, emoji: Dataset, write: Callable[..., Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: dict[str, tuple[str, Callable[[int], bytes]]] = {
        "classification": ("cls", lambda i: str(i // 4).encode()),
        "multilabel": ("npy", tags_of),
        "retrieval": ("txt", captions_of(emoji)),
    }
    monkeypatch.setattr("clip_benchmark.metrics.zeroshot_classification.accuracy", accuracy)
    root = write(kind, *targets[kind])
    metrics = d4c.evaluate(demo_vit, load_pictures(f"wds:{root}"))
    ours = clip_benchmark_record(metrics, "demo-vit", "float")["metrics"]
    theirs = their_figures(demo_vit, root, kind)
    assert theirs.keys() == ours.keys()
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_its_command_makes_a_table_of_our_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_benchmark.cli import main

    metrics = Metrics("demo", 20, {"top1": wilson(5, 20), "top5": wilson(9, 20)}, None, 1.0)
    source, table = tmp_path / "a.json", tmp_path / "table.csv"
    source.write_text(json.dumps(clip_benchmark_record(metrics, "demo-vit", "W4A8")))
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "build", str(source), "--output", str(table)])
    main()
    (row,) = csv.DictReader(table.open())
    assert (row["model_fullname"], row["task"]) == ("demo-vit W4A8", "zeroshot_classification")
    assert (row["acc1"], row["acc5"]) == ("0.25", "0.45")

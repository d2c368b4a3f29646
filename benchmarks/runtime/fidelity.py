"""Closeness to float of trained models with one tower replaced by each candidate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import d4c
from benchmarks.common.problems import checkpoint
from benchmarks.common.rows import Row
from benchmarks.runtime.building import TOWERS, attempt, build, setup
from benchmarks.runtime.candidates import CANDIDATES, ORT, Array, Tower, onnxruntime_d4c
from d4c.calibration.prompts import generic_prompts
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import Embeddings, embed, text_embeddings
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.score import score
from d4c.models.clip import CLIP
from d4c.templates import fill_template

CALIBRATION_IMAGES, CALIBRATION_PROMPTS, EVALUATION_IMAGES = 128, 512, 2000
BATCH = 50


def measure_fidelity(name: str, models: Path, data_file: Path, folder: Path) -> Row:
    """One cell: the trained model that stands for a tower, with that tower replaced by each candidate."""
    _, kind, model = TOWERS[name]
    clip = d4c.load(checkpoint(models, model))
    images = d4c.synthesize(clip, "leaves", images=CALIBRATION_IMAGES, seed=0)
    tower = Tower(clip, kind, images, generic_prompts(CALIBRATION_PROMPTS), folder, 1)
    data = replace(load_dataset(f"parquet:{data_file}").subset(EVALUATION_IMAGES), name=data_file.stem)
    reference = embed(clip, data, batch_size=BATCH)
    learned = {(ORT, "d4c W4A8, GPTQ"): onnxruntime_d4c("W4A8", "gptq")}
    evaluate = images_evaluator(clip, data) if kind == "image" else texts_evaluator(clip, data)
    rows: list[Row] = []
    failed: list[Row] = []
    for key, built in build(tower, CANDIDATES | learned).items():
        embeddings = built if isinstance(built, str) else attempt(partial(evaluate, built.run, reference), key)
        named = {"runtime": key[0], "candidate": key[1]}
        if isinstance(built, str) or isinstance(embeddings, str):
            failed.append(named | {"reason": embeddings})
            continue
        metrics = score(embeddings, data, reference=reference)
        print(f"  {key}: {metrics}", file=sys.stderr, flush=True)
        rows.append(named | {"bytes": built.bytes, "metrics": metrics.to_dict()})
    details = {"model": model, "calibration": images.provenance, "prompts": CALIBRATION_PROMPTS}
    return {f"{name}, fidelity": {"setup": setup() | details, "rows": rows, "failed": failed}}


Evaluator = Callable[[Callable[[Array], Array], Embeddings], Embeddings]


def images_evaluator(clip: CLIP, data: Dataset) -> Evaluator:
    """Embeds the dataset's images with a candidate, beside the reference's classes."""
    batches = [batch.numpy() for batch in pixel_batches(data, clip.preprocess, BATCH)]

    def evaluate(run: Callable[[Array], Array], reference: Embeddings) -> Embeddings:
        features = torch.cat([torch.from_numpy(run(batch)) for batch in batches])
        return Embeddings(data.name, F.normalize(features, dim=-1), reference.text, reference.logit_scale, 0.0)

    return evaluate


def texts_evaluator(clip: CLIP, data: Dataset) -> Evaluator:
    """Embeds the dataset's classes with a candidate, beside the reference's images; every batch has one length."""
    prompts = [fill_template(template, name.lower()) for name in data.classes for template in data.templates]
    longest = clip.text.crop(clip.tokenize(prompts)).shape[1]

    def evaluate(run: Callable[[Array], Array], reference: Embeddings) -> Embeddings:
        def encode(tokens: torch.Tensor) -> Array:
            return run(np.ascontiguousarray(tokens[:, :longest].numpy()))

        model: Any = SimpleNamespace(tokenize=clip.tokenize, encode_text=encode)
        text = text_embeddings(model, data, BATCH)
        return Embeddings(data.name, reference.image, text, reference.logit_scale, 0.0)

    return evaluate

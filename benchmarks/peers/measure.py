"""Int8 of NNCF in OpenVINO and of torchao beside d4c's W8A8: accuracy, and what quantizing takes, on a CPU.

Both towers of a model are quantized by each tool, from the same weights, calibration images and 512 prompts; what each
tool gives is executed on the same pictures. d4c is executed by PyTorch, in the simulation that its integer reference
agrees with. Seconds are those of all processors together, so that other processes matter little; writing the float
graph and compiling are not counted. torchao needs no calibration: it measures activations in every run, and leaves
convolutions in float.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import d4c
from benchmarks.common.problems import Bench, Problem, command, datasets, measured, setup, top1
from benchmarks.quantization.table import peer_tables
from benchmarks.runtime.candidates import Array, Tower, float_graph, in_openvino, in_torch, nncf_graph
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import generic_prompts
from d4c.evaluation.embed import Encoder
from d4c.files import atomic_file
from d4c.models.clip import CLIP
from d4c.quantization.placement import TOWERS

PROMPTS = 512
SEED = 0
NO_IMAGES = "none"
"""In the place of the method where a tool calibrates with nothing."""
PACKAGES = ("nncf", "openvino", "torchao", "numpy")


class Executed:
    """A CLIP whose towers are functions; prompts reach them without the positions behind their end."""

    def __init__(self, clip: CLIP, towers: dict[str, Callable[[Array], Array]]) -> None:
        self.clip, self.towers = clip, towers
        self.logit_scale, self.image_size = clip.logit_scale, clip.image_size
        self.preprocess, self.tokenize = clip.preprocess, clip.tokenize

    def encode_image(self, pixels: Tensor) -> Array:
        return self.towers["image"](pixels.numpy())

    def encode_text(self, tokens: Tensor) -> Array:
        return self.towers["text"](np.ascontiguousarray(self.clip.text.crop(tokens).numpy()))


def run_d4c(reconstruction: Any, clip: CLIP, calibration: CalibrationSet, _: Path) -> tuple[dict[str, Any], Encoder]:
    with measured("cpu") as figures:
        quantized = d4c.quantize(clip, "W8A8", calibration, reconstruction=reconstruction, seed=SEED)
    return figures, quantized


def run_nncf(clip: CLIP, calibration: CalibrationSet, folder: Path) -> tuple[dict[str, Any], Encoder]:
    """NNCF's post-training quantization of each tower's ONNX graph."""
    towers: dict[str, Callable[[Array], Array]] = {}
    total: dict[str, Any] = {"seconds": 0.0, "cpu_seconds": 0.0}
    for kind in TOWERS:
        (folder / kind).mkdir()
        tower = Tower(clip, kind, calibration, generic_prompts(PROMPTS), folder / kind, torch.get_num_threads())
        float_graph(tower)
        with measured("cpu") as figures:
            path = nncf_graph(tower)
        total = {key: total[key] + figures[key] for key in total}
        towers[kind] = in_openvino(lambda _, path=path: path, tower).run
    return total, Executed(clip, towers)


def run_torchao(clip: CLIP, calibration: CalibrationSet, folder: Path) -> tuple[dict[str, Any], Encoder]:
    """torchao's int8 weights and dynamic int8 activations of linear layers, not compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    modules = {kind: Tower(clip, kind, calibration, (), folder, 1).module() for kind in TOWERS}
    with measured("cpu") as figures:
        for module in modules.values():
            quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return figures, Executed(clip, {kind: in_torch(module, module).run for kind, module in modules.items()})


def candidates(method: str) -> dict[str, Callable[[CLIP, CalibrationSet, Path], tuple[dict[str, Any], Encoder]]]:
    if method == NO_IMAGES:
        return {"torchao dynamic int8": run_torchao}
    return {
        "NNCF int8": run_nncf,
        "d4c W8A8, ranges only": lambda *given: run_d4c("none", *given),
        "d4c W8A8, GPTQ": lambda *given: run_d4c("gptq", *given),
    }


def compare(bench: Bench, models: list[str], methods: list[str], out: Path) -> None:
    """Measure every cell that is missing in `out`, and write the tables beside it."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    results = json.loads(out.read_text()) if out.exists() else {"rows": []}
    for model in models:
        problems: list[Problem] = [bench.problem(model, data) for data in datasets(model)]
        for method in (*methods, NO_IMAGES):
            calibration = bench.calibration(model, methods[0] if method == NO_IMAGES else method, SEED)
            for name, run in candidates(method).items():
                cell = {"model": model, "method": method, "candidate": name, "rows": bench.places.rows}
                if any(cell.items() <= row.items() for row in results["rows"]):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    figures, executed = run(bench.clip(model), calibration, Path(folder))
                    found = {problem.dataset.name: problem.score(executed) for problem in problems}
                given = {
                    key: calibration.provenance.get(key) for key in ("images", "iterations", "precision", "device")
                }
                row = {**cell, "quantize": figures, "calibration": given, "results": found}
                results["rows"].append(row)
                results["setup"] = setup("cpu", PACKAGES) | {"prompts": PROMPTS, "command": command("quantization.py")}
                with atomic_file(out) as file:
                    file.write_text(json.dumps(results, indent=1) + "\n")
                with atomic_file(out.with_suffix(".md")) as file:
                    file.write_text(peer_tables(results))
                print(cell, top1(found), f"{figures['cpu_seconds']:.1f} s of processors", flush=True)

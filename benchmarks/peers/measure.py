"""Int8 of NNCF in OpenVINO and of torchao beside d4c's W8A8: accuracy, and what quantizing takes, on a CPU.

    pip install nncf torchao
    python -m benchmarks.peers.measure --models DIR --data DIR --rows 2000

Both towers of a model are quantized by each tool, from the same weights, calibration images and 512 prompts; what each
tool gives is executed on the same pictures. d4c is executed by PyTorch, in the simulation that its integer reference
agrees with. Seconds are those of all processors together, so that other processes matter little; writing the float
graph and compiling are not counted. torchao needs no calibration: it measures activations in every run, and leaves
convolutions in float. Results are merged into `--out`, and the tables written beside it. Calibration images are made in
the folder `calibration` of `--cache` unless they are there.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import d4c
from benchmarks.common.arguments import add_cache_and_rows, add_models_and_data, add_real, argument_parser, words
from benchmarks.common.problems import Bench, Places, Problem, datasets
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, is_measured, read_report, top1_line, write_report
from benchmarks.peers.table import page
from benchmarks.runtime.candidates import Array, Tower, float_graph, in_openvino, in_torch, nncf_graph
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import generic_prompts
from d4c.evaluation.embed import Encoder
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.synthesis.config import PRESETS

PROMPTS = 512
SEED = 0
NO_IMAGES = "none"
"""In the place of the method where a tool calibrates with nothing."""
PACKAGES = ("nncf", "openvino", "torchao", "numpy")


class Executed:
    """A CLIP whose towers are functions; prompts reach them without the positions after their end."""

    def __init__(self, clip: CLIP, towers: dict[str, Callable[[Array], Array]]) -> None:
        self.clip, self.towers = clip, towers
        self.logit_scale, self.image_size = clip.logit_scale, clip.image_size
        self.preprocess, self.tokenize = clip.preprocess, clip.tokenize

    def encode_image(self, pixels: Tensor) -> Array:
        return self.towers["image"](pixels.numpy())

    def encode_text(self, tokens: Tensor) -> Array:
        return self.towers["text"](np.ascontiguousarray(self.clip.text.crop(tokens).numpy()))


def run_d4c(reconstruction: Any, clip: CLIP, calibration: CalibrationSet, _folder: Path) -> tuple[Row, Encoder]:
    with measured("cpu") as figures:
        quantized = d4c.quantize(clip, calibration, "W8A8", reconstruction=reconstruction, seed=SEED)
    return figures, quantized


def run_nncf(clip: CLIP, calibration: CalibrationSet, folder: Path) -> tuple[Row, Encoder]:
    """NNCF's post-training quantization of each tower's ONNX graph."""
    towers: dict[str, Callable[[Array], Array]] = {}
    spent: Row = {"seconds": 0.0, "cpu_seconds": 0.0}
    for kind in TOWERS:
        (folder / kind).mkdir()
        tower = Tower(clip, kind, calibration, generic_prompts(PROMPTS), folder / kind, torch.get_num_threads())
        float_graph(tower)
        with measured("cpu") as figures:
            path = nncf_graph(tower)
        spent = {key: spent[key] + figures[key] for key in spent}
        towers[kind] = in_openvino(partial(_written, path), tower).run
    return spent, Executed(clip, towers)


def run_torchao(clip: CLIP, calibration: CalibrationSet, folder: Path) -> tuple[Row, Encoder]:
    """torchao's int8 weights and dynamic int8 activations of linear layers, not compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    modules = {kind: Tower(clip, kind, calibration, (), folder, 1).module() for kind in TOWERS}
    with measured("cpu") as figures:
        for module in modules.values():
            quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return figures, Executed(clip, {kind: in_torch(module, module).run for kind, module in modules.items()})


Quantizer = Callable[[CLIP, CalibrationSet, Path], tuple[Row, Encoder]]
"""From a model, calibration images and a folder to what quantizing took and the quantized model."""


def _written(path: Path, _tower: Tower) -> Path:
    return path


def candidates(method: str) -> dict[str, Quantizer]:
    if method == NO_IMAGES:
        return {"torchao dynamic int8": run_torchao}
    return {
        "NNCF int8": run_nncf,
        "d4c W8A8, ranges only": partial(run_d4c, "none"),
        "d4c W8A8, GPTQ": partial(run_d4c, "gptq"),
    }


def compare(bench: Bench, models: list[str], methods: list[str], out: Path) -> None:
    """Measure every cell that is missing in `out`, and write the tables beside it."""
    report = read_report(out, {"rows": []})
    for model in models:
        problems = [bench.problem(model, data) for data in datasets(model)]
        for method in (*methods, NO_IMAGES):
            calibration = bench.calibration(model, methods[0] if method == NO_IMAGES else method, SEED)
            for name, run in candidates(method).items():
                cell: Row = {"model": model, "method": method, "candidate": name, "rows": bench.places.rows}
                if is_measured(cell, report["rows"]):
                    continue
                row = cell | measure(run, bench.clip(model), calibration, problems)
                report["rows"].append(row)
                report["setup"] = setup("cpu", *PACKAGES) | {"prompts": PROMPTS, "command": command("peers.measure")}
                write_report(out, report, page)
                print(cell, top1_line(row["results"]), f"{row['quantize']['cpu_seconds']:.1f} s", flush=True)


def measure(run: Quantizer, clip: CLIP, calibration: CalibrationSet, problems: list[Problem]) -> Row:
    """What quantizing takes, and the metrics of what it gives."""
    with tempfile.TemporaryDirectory() as folder:
        figures, executed = run(clip, calibration, Path(folder))
        results = {problem.dataset.name: problem.score(executed) for problem in problems}
    made = {key: calibration.provenance.get(key) for key in ("images", "iterations", "precision", "device")}
    return {"quantize": figures, "calibration": made, "results": results}


def main() -> None:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    add_real(parser)
    add_cache_and_rows(parser)
    parser.add_argument("--only", type=words, default=["bench-vit", "bench-rn"], help="models")
    parser.add_argument("--methods", type=words, default=["leaves", "d4c"], help="of the synthesis, and real")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="of the synthesis")
    parser.add_argument("--batch", type=int, default=200, help="images evaluated at once")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    places = Places(args.models, args.data, args.cache, args.rows, "cpu", args.batch)
    compare(Bench(places, args.cache / "calibration", args.preset, args.real), args.only, args.methods, args.out)


if __name__ == "__main__":
    main()

r"""The authors' quantizer beside ours: same weights, images and prompts, both towers.

    python -m benchmarks.reference_quantizer.measure --reference DIR --model FILE --data DIR --set FOLDER \
        --schemes W4A8,W4A4 --iterations 2000 --out FILE.jsonl

`--reference` is a clone of https://github.com/Keio-CSG/D4C, whose package is called d4c too: it runs in a process of
its own (`authors.py`), without ours, on tensors that this one writes. `--set` is a calibration set that `d4c
synthesize` wrote. Their modules, order and reconstruction loop run as they are; with the published 20,000 iterations a
layer that takes hours, so that `--iterations` shortens it (0: ranges only), and `seconds_published` says what 20,000
would take: the time to collect what a layer reads and gives stays, the rest grows with the iterations. Their
two-dimensional range search, hours at 8 bits, is replaced by ours on 4,096 evenly spaced values of each tensor, which
looks at the same candidates. Every cell is one line of the output.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import d4c
from benchmarks.common.records import commit, measured
from benchmarks.reference_quantizer.cells import DATA, argument_parser, score, write_row
from d4c.calibration.prompts import generic_prompts
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.quantization.quantize import PROMPTS
from d4c.templates import fill_template

OURS = (
    ("d4c, GPTQ", {"reconstruction": "gptq"}),
    ("d4c, block", {"reconstruction": "block"}),
    ("d4c, published track", {"track": "paper"}),
)
RANGES_ONLY = (
    ("d4c, ranges", {"reconstruction": "none"}),
    ("d4c, published track, ranges", {"track": "paper", "reconstruction": "none"}),
)


def tensors_for_both(args: argparse.Namespace, clip: CLIP, images: d4c.CalibrationSet, prompts: Any) -> dict[str, Any]:
    """Calibration images and prompts, and the pictures, labels and prompts of both datasets."""
    tensors = {"images": images.pixels.contiguous(), "prompts": clip.tokenize(prompts)}
    for data in DATA:
        dataset = load_dataset(f"parquet:{args.data / data}.parquet")
        dataset = dataset.subset(args.limit) if args.limit else dataset
        tensors[f"{data}.pixels"] = torch.cat(list(pixel_batches(dataset, clip.preprocess, 500)))
        tensors[f"{data}.labels"] = torch.as_tensor(dataset.labels).long()
        tokens = [
            clip.tokenize([fill_template(t, name.lower()) for t in dataset.templates]) for name in dataset.classes
        ]
        tensors[f"{data}.tokens"] = torch.stack(tokens)
    return tensors


def run_authors(args: argparse.Namespace, tensors: Path) -> None:
    """The same arguments in a process that has no d4c of ours to import."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["--tensors", str(tensors), *(("--commit", args.commit) if args.commit else ())]
    module = "benchmarks.reference_quantizer.authors"
    subprocess.run([sys.executable, "-m", module, *sys.argv[1:], *words], env=environment, check=True)


def main() -> None:
    args = argument_parser(__doc__).parse_args()
    args.commit = commit()
    clip = d4c.load(args.model, device=args.device)
    images = d4c.CalibrationSet.load(args.set)
    prompts = generic_prompts(PROMPTS, seed=0)
    tensors = tensors_for_both(args, clip, images, prompts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors.safetensors"
        save_file(tensors, path)
        run_authors(args, path)
    with torch.no_grad():
        write_row(args, "float", "", 0, 0, score(clip, tensors, args.device))
    for scheme in args.schemes:
        for label, options in OURS if args.iterations else RANGES_ONLY:
            settings: dict[str, Any] = {**options, "prompts": prompts}
            if args.iterations and "track" in options:
                settings["iterations"] = args.iterations
            with measured(args.device) as figures:
                quantized = d4c.quantize(clip, images, scheme, **settings)
            seconds = figures["seconds"]
            with torch.no_grad():
                write_row(args, label, scheme, seconds, seconds, score(quantized, tensors, args.device))


if __name__ == "__main__":
    main()

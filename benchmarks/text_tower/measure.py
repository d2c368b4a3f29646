"""The text tower at low bits: its MLPs beside the authors' 8-bit exception, and what its positions cost.

    python benchmarks/text_tower.py --part accuracy --models DIR --data DIR --cache DIR
    python benchmarks/text_tower.py --part positions --models DIR

Accuracy: only the text tower is quantized (deployable track), images keep the float model's embeddings, and each seed
draws 512 other calibration prompts. `own` holds the MLPs at the scheme's width, `W8A8` at eight bits as the authors do.
Positions: attention is causal and only the end-of-text position is read, so that positions behind it need not be
computed. Time with and without them (a share, in one process on one thread, 1 prompt and 50 prompts at once), the
largest difference of the embeddings, and the largest activations at begin-of-text beside all other positions.
Results are merged into `--out`; a cell that stands there is not measured again. The tables are written beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import d4c
from benchmarks.common.problems import PHOTOS, Places, Problem, command, datasets, setup, top1
from benchmarks.text_tower.table import SCHEMES, tables
from d4c.calibration.prompts import generic_prompts
from d4c.files import atomic_file
from d4c.inspection.positions import begin_of_text_ratios, position_peaks
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP

MODELS = ("bench-vit", "bench-rn", "demo-vit", "demo-rn")
EXCEPTION = {r"text\.blocks\.\d+\.mlp\..*": "W8A8"}
PROMPTS = 512
BATCHES = (1, 50)
ROUNDS = 7
TIMED_PROMPTS = 50
Cell = dict[str, Any]


def cells(args: argparse.Namespace) -> list[Cell]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.schemes, ("own", "W8A8"))
    keys = ("seed", "reconstruction", "model", "scheme", "mlp")
    return [dict(zip(keys, values, strict=True)) for values in axes]


def quantize_text(clip: CLIP, cell: Cell) -> QuantizedCLIP:
    """A CLIP with a quantized text tower; its images only have the right shape, no tower reads them."""
    return d4c.quantize(
        clip,
        cell["scheme"],
        d4c.synthesize(clip, "leaves", images=1, seed=0),
        reconstruction=cell["reconstruction"],
        towers=("text",),
        overrides=EXCEPTION if cell["mlp"] == "W8A8" else {},
        prompts=generic_prompts(PROMPTS, seed=cell["seed"]),
        seed=cell["seed"],
    )


def accuracy(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure every cell that is missing."""
    places = Places(args.models, args.data, args.cache, args.rows, "cpu", 50)
    clips: dict[str, CLIP] = {}
    problems: dict[str, list[Problem]] = {}
    rows = results.setdefault("accuracy", {"rows": []})["rows"]
    for cell in cells(args):
        if any(cell.items() <= row.items() for row in rows):
            continue
        name = cell["model"]
        if name not in clips:
            clips[name] = places.clip(name)
            problems[name] = [Problem(places, clips[name], data) for data in datasets(name)]
        started = time.perf_counter()
        quantized = quantize_text(clips[name], cell)
        seconds = time.perf_counter() - started
        found = {problem.dataset.name: problem.score(quantized, ("text",)) for problem in problems[name]}
        bits = quantized.effective_bits()
        rows.append({**cell, "bits": bits, "quantize_seconds": round(seconds, 2), "results": found})
        results["accuracy"]["setup"] = setup("cpu") | {"prompts": PROMPTS, "command": command("text_tower.py")}
        write(args.out, results)
        print(cell, f"{bits:.2f} bits", top1(found), f"{seconds:.1f} s", flush=True)


def positions(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Time, differences and peaks of each model."""
    found = results.setdefault("positions", {"models": {}})
    found["setup"] = setup("cpu") | {"prompts": PROMPTS, "rounds": ROUNDS, "command": command("text_tower.py")}
    for name in args.only:
        clip = Places(args.models, args.data, args.cache, None, "cpu", 50).clip(name)
        tokens = clip.tokenize(generic_prompts(PROMPTS))
        peaks = position_peaks(clip, tokens)
        quantized = quantize_text(clip, {"scheme": "W4A8", "mlp": "own", "reconstruction": "none", "seed": 0})
        found["models"][name] = {
            "float": removal(clip, tokens[:TIMED_PROMPTS]),
            "W4A8": removal(quantized, tokens[:TIMED_PROMPTS]),
            "peaks": {layer: [float(f"{value:.4g}") for value in peak.tolist()] for layer, peak in peaks.items()},
            "begin_of_text_ratios": begin_of_text_ratios(peaks),
        }
        write(args.out, results)
        print(name, found["models"][name]["float"], found["models"][name]["W4A8"], flush=True)


@torch.no_grad()
def removal(clip: CLIP, tokens: Tensor) -> dict[str, Any]:
    """Time of the forward pass without the positions behind end-of-text as a share of the time with all 77."""

    def encode(trim: bool, batch: int) -> tuple[float, Tensor]:
        clip.text.trim = trim
        started = time.perf_counter()
        out = torch.cat([clip.encode_text(part) for part in tokens.split(batch)])
        return time.perf_counter() - started, out

    figures: dict[str, Any] = {"positions": float(clip.text.end_of_text(tokens).float().mean()) + 1}
    for batch in BATCHES:
        (_, short), (_, whole) = encode(True, batch), encode(False, batch)  # not timed: the first calls are slower
        shares = [encode(True, batch)[0] / encode(False, batch)[0] for _ in range(ROUNDS)]
        figures[f"batch {batch}"] = {
            "time_share": statistics.median(shares),
            "lowest": min(shares),
            "highest": max(shares),
            "largest_relative_difference": float(((short - whole).norm(dim=-1) / whole.norm(dim=-1)).max()),
        }
    clip.text.trim = True
    return figures


def write(path: Path, results: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_file(path.with_suffix(".md")) as file:
        file.write_text(tables(results))


def main() -> None:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("accuracy", "positions"), required=True)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bench models")
    parser.add_argument("--data", type=Path, default=Path("data"), help=f"folder of {', '.join(PHOTOS)} as .parquet")
    parser.add_argument("--cache", type=Path, default=Path("out/cache"), help="folder for pixels and float embeddings")
    parser.add_argument("--rows", type=int, help="of each dataset, evenly spread; all by default")
    parser.add_argument("--only", type=words, default=list(MODELS), help="models")
    parser.add_argument("--schemes", type=words, default=list(SCHEMES))
    parser.add_argument("--reconstructions", type=words, default=["none", "gptq"])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in words(text)], default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "text_tower.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    (accuracy if args.part == "accuracy" else positions)(args, results)


if __name__ == "__main__":
    main()

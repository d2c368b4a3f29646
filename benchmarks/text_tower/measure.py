"""The text tower at low bits: its MLPs beside the authors' 8-bit exception, and what its positions cost.

    python -m benchmarks.text_tower.measure --part accuracy --models DIR --data DIR --cache DIR
    python -m benchmarks.text_tower.measure --part positions --models DIR
    python -m benchmarks.text_tower.measure --part spikes

Accuracy: only the text tower is quantized (deployable track), images keep the float model's embeddings, and each seed
draws 512 other calibration prompts. `own` holds the MLPs at the scheme's width, `W8A8` at eight bits as the authors do.
Positions: attention is causal and only the end-of-text position is read, so that positions after it need not be
computed. Time with and without them (a share, in one process on one thread, 1 prompt and 50 prompts at once), the
largest difference of the embeddings, and the largest activations at begin-of-text beside all other positions.
Spikes: the text tower of demo-vit as it is and with the activations of real ones (`spiked`), quantized in published
places and in ours, ranges only; each seed draws other calibration prompts and another order of the channels' spreads.
Fidelity is that to the same float model: the cosine between embeddings of other prompts, and how often all pictures of
the emoji pack keep their class.
Results are merged into `--out`; a cell that is there is not measured again. The tables are written beside it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import d4c
from benchmarks.common.arguments import add_cache_and_rows, add_models_and_data, add_seeds, argument_parser, words
from benchmarks.common.problems import Places, Problem, datasets
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, is_measured, read_report, top1_line, write_report
from benchmarks.text_tower.placements import PLACEMENTS, quantize_text_at
from benchmarks.text_tower.spiked import spiked
from benchmarks.text_tower.table import FORMS, SCHEMES, SPIKE_SCHEMES, page
from d4c.calibration.prompts import generic_prompts
from d4c.inspection.positions import begin_of_text_ratios, position_peaks
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP

MODELS = ("bench-vit", "bench-rn", "demo-vit", "demo-rn")
EXCEPTION = {"text.blocks.*.mlp.*": "W8A8"}
PROMPTS = 512
BATCHES = (1, 50)
ROUNDS = 7
TIMED_PROMPTS = 50
OTHER_PROMPTS = 256


def cells(args: argparse.Namespace) -> list[Row]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.schemes or SCHEMES, ("own", "W8A8"))
    keys = ("seed", "reconstruction", "model", "scheme", "mlp")
    return [dict(zip(keys, values, strict=True)) for values in axes]


def quantize_text(clip: CLIP, cell: Row) -> QuantizedCLIP:
    """A CLIP with a quantized text tower; its images only have the right shape, no tower reads them."""
    return d4c.quantize(
        clip,
        d4c.synthesize(clip, "leaves", images=1, seed=0),
        cell["scheme"],
        reconstruction=cell["reconstruction"],
        towers=("text",),
        overrides=EXCEPTION if cell["mlp"] == "W8A8" else {},
        prompts=generic_prompts(PROMPTS, seed=cell["seed"]),
        seed=cell["seed"],
    )


def accuracy(args: argparse.Namespace, report: Row) -> None:
    """Measure every cell that is missing."""
    places = Places(args.models, args.data, args.cache, args.rows, "cpu", 50)
    clips: dict[str, CLIP] = {}
    problems: dict[str, list[Problem]] = {}
    rows = report.setdefault("accuracy", {"rows": []})["rows"]
    for cell in cells(args):
        if is_measured(cell, rows):
            continue
        name = cell["model"]
        if name not in clips:
            clips[name] = places.clip(name)
            problems[name] = [Problem(places, clips[name], data) for data in datasets(name)]
        with measured("cpu") as figures:
            quantized = quantize_text(clips[name], cell)
        seconds = figures["seconds"]
        results = {problem.dataset.name: problem.score(quantized, ("text",)) for problem in problems[name]}
        bits = quantized.effective_bits()
        rows.append({**cell, "bits": bits, "quantize_seconds": round(seconds, 2), "results": results})
        report["accuracy"]["setup"] = setup("cpu") | {"prompts": PROMPTS, "command": command("text_tower.measure")}
        write_report(args.out, report, page)
        print(cell, f"{bits:.2f} bits", top1_line(results), f"{seconds:.1f} s", flush=True)


def positions(args: argparse.Namespace, report: Row) -> None:
    """Time, differences and peaks of each model."""
    part = report.setdefault("positions", {"models": {}})
    part["setup"] = setup("cpu") | {"prompts": PROMPTS, "rounds": ROUNDS, "command": command("text_tower.measure")}
    for name in args.only:
        clip = Places(args.models, args.data, args.cache, None, "cpu", 50).clip(name)
        tokens = clip.tokenize(generic_prompts(PROMPTS))
        peaks = position_peaks(clip, tokens)
        quantized = quantize_text(clip, {"scheme": "W4A8", "mlp": "own", "reconstruction": "none", "seed": 0})
        part["models"][name] = {
            "float": removal(clip, tokens[:TIMED_PROMPTS]),
            "W4A8": removal(quantized, tokens[:TIMED_PROMPTS]),
            "peaks": {layer: [float(f"{value:.4g}") for value in peak.tolist()] for layer, peak in peaks.items()},
            "begin_of_text_ratios": begin_of_text_ratios(peaks),
        }
        write_report(args.out, report, page)
        print(name, part["models"][name]["float"], part["models"][name]["W4A8"], flush=True)


@torch.no_grad()
def spikes(args: argparse.Namespace, report: Row) -> None:
    """Fidelity of each placement, on the model as it is and with spikes."""
    places = Places(args.models, args.data, args.cache, None, "cpu", 50)
    rows = report.setdefault("spikes", {"rows": []})["rows"]
    keys = ("scheme", "seed", "form", "placement")
    for values in itertools.product(args.schemes or SPIKE_SCHEMES, args.seeds, FORMS, PLACEMENTS):
        cell = dict(zip(keys, values, strict=True))
        if is_measured(cell, rows):
            continue
        clip = places.clip("demo-vit")
        if cell["form"] == "spiked":
            clip = spiked(clip, cell["seed"])
        quantized = quantize_text_at(
            clip, cell["placement"], cell["scheme"], generic_prompts(PROMPTS, seed=cell["seed"])
        )
        tokens = clip.tokenize(generic_prompts(OTHER_PROMPTS, seed=1000 + cell["seed"]))
        cosines = F.cosine_similarity(clip.encode_text(tokens), quantized.encode_text(tokens))
        score = Problem(places, clip, "demo").score(quantized, ("text",))
        row = {"cosine": float(cosines.mean()), "lowest_cosine": float(cosines.min())}
        row |= {"same_class": score["fidelity"]["same_class"]["value"], "top1": score["top1"]["value"]}
        rows.append({**cell, **row, "float_top1": score["float_top1"]})
        report["spikes"]["setup"] = setup("cpu") | {"prompts": PROMPTS, "command": command("text_tower.measure")}
        write_report(args.out, report, page)
        print(cell, row, flush=True)


@torch.no_grad()
def removal(clip: CLIP, tokens: Tensor) -> Row:
    """Time of the forward pass without the positions after end-of-text as a share of the time with all 77."""

    def encode(trim: bool, batch: int) -> tuple[float, Tensor]:
        clip.text.trim = trim
        started = time.perf_counter()
        out = torch.cat([clip.encode_text(part) for part in tokens.split(batch)])
        return time.perf_counter() - started, out

    figures: Row = {"positions": float(clip.text.pooled_position(tokens).float().mean()) + 1}
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


PARTS = {"accuracy": accuracy, "positions": positions, "spikes": spikes}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    add_models_and_data(parser)
    add_cache_and_rows(parser)
    parser.add_argument("--only", type=words, default=list(MODELS), help="models")
    parser.add_argument("--schemes", type=words, help="those of the part by default")
    parser.add_argument("--reconstructions", type=words, default=["none", "gptq"])
    add_seeds(parser)
    parser.add_argument("--out", type=Path, help="results/spikes.json for the part spikes, else text_tower.json")
    args = parser.parse_args()
    name = "spikes" if args.part == "spikes" else "text_tower"
    args.out = args.out or Path(__file__).parent / "results" / f"{name}.json"
    torch.set_num_threads(1)
    PARTS[args.part](args, read_report(args.out, {}))


if __name__ == "__main__":
    main()

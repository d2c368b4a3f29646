"""Both towers quantized: accuracy by calibration images, scheme and reconstruction; peers; seconds at full size.

    python benchmarks/quantization.py --part accuracy --models DIR --data DIR --real FILE --out out/quantization.jsonl
    python benchmarks/quantization.py --part time --out out/quantization.jsonl
    python benchmarks/quantization.py --part peers --models DIR --data DIR --rows 2000 --out out/peers.json

Accuracy: deployable track, all rows of both test sets (demo models: the emoji pack). What every cell needs (decoded
pictures, calibration images, the float model's embeddings) is made first, once, in the folder `cache` beside the
output. Then `--processes` workers take cells from one list, spread over the GPUs there are; each cell is one line of
the output, written when it is done, so that a second call goes on where the first one ended, and `--minutes` ends one.
Time: seconds and peak memory of quantizing ViT-B/32 in full size with random weights, behind a warm-up call.
Peers (`quantization_peers.py`): int8 of NNCF and torchao beside d4c's W8A8 on the same images, on the CPU.
`python benchmarks/quantization_table.py FILE.jsonl` makes the tables of the first two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import d4c
from benchmarks.common.problems import PHOTOS, Bench, Places, command, datasets, measured, setup, top1
from benchmarks.synthesis.measure import MODELS, make_clip
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.synthesis.config import PRESETS

SCHEMES = ("W8A8", "W4A8", "W6A6", "W4A4")
METHODS = ("noise", "d4c", "real")
RECONSTRUCTIONS = ("none", "gptq", "block")
WARM_UP_STEPS = 10
Cell = dict[str, Any]


def open_bench(args: argparse.Namespace, device: str) -> Bench:
    places = Places(args.models, args.data, args.cache, args.rows, device, args.batch)
    return Bench(places, args.cache / "calibration", args.preset, args.real)


def cells(args: argparse.Namespace) -> list[Cell]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    shared = {"part": "accuracy", "preset": args.preset, "rows": args.rows}
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.methods, args.schemes)
    keys = ("seed", "reconstruction", "model", "method", "scheme")
    found = [shared | dict(zip(keys, values, strict=True)) for values in axes]
    return [cell | {"steps": steps(cell, args)} for cell in found]


def steps(cell: Cell, args: argparse.Namespace) -> int | None:
    """Steps of learning for each unit, where the reconstruction has any; None means d4c's own number."""
    return args.steps if learns(cell) else None


def learns(cell: Cell) -> bool:
    return cell["reconstruction"] == "block"


def missing(wanted: list[Cell], out: Path) -> list[Cell]:
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return [cell for cell in wanted if not any(cell.items() <= row.items() for row in done)]


def append(out: Path, row: Cell) -> None:
    """Add a line in one write, which no other process can break up."""
    with out.open("ab", buffering=0) as stream:
        stream.write(json.dumps(row).encode() + b"\n")


def quantize(clip: CLIP, calibration: CalibrationSet, cell: Cell) -> QuantizedCLIP:
    settings = {"reconstruction": cell["reconstruction"], "iterations": cell["steps"], "seed": cell["seed"]}
    return d4c.quantize(clip, cell["scheme"], calibration, **settings)


def accuracy(args: argparse.Namespace) -> None:
    """Make what cells share, then measure them in `--processes` workers."""
    todo = missing(cells(args), args.out)
    bench = open_bench(args, args.device)
    for cell in todo:
        bench.calibration(cell["model"], cell["method"], cell["seed"])
    for model in dict.fromkeys(cell["model"] for cell in todo):
        for data in datasets(model):
            bench.problem(model, data)
    del bench
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".claims.") as claims:
        if args.processes == 1:
            work(args, todo, Path(claims), 0)
            return
        context = torch.multiprocessing.get_context("spawn")
        given = [(args, todo, Path(claims), i) for i in range(args.processes)]
        workers = [context.Process(target=work, args=values, daemon=True) for values in given]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise SystemExit(f"{len(failed)} of {args.processes} workers failed; what they have measured is kept.")


def work(args: argparse.Namespace, todo: list[Cell], claims: Path, worker: int) -> None:
    """Measure every cell that no other worker has claimed; a claim is a folder, which only one can make."""
    set_up_torch()
    device = args.device
    if device == "cuda":
        device = f"cuda:{worker % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    bench = open_bench(args, device)
    for i, cell in enumerate(todo):
        if time.monotonic() > args.deadline:
            return
        try:
            os.mkdir(claims / str(i))
        except FileExistsError:
            continue
        row = measure(args, bench, cell)
        append(args.out, row)
        print(cell, top1(row["results"]), f"{row['quantize']['seconds']:.1f} s", flush=True)


def measure(args: argparse.Namespace, bench: Bench, cell: Cell) -> Cell:
    """Quantize and evaluate one cell."""
    clip = bench.clip(cell["model"])
    calibration = bench.calibration(cell["model"], cell["method"], cell["seed"])
    device = bench.places.device
    with measured(device) as figures:
        quantized = quantize(clip, calibration, cell)
    given = {key: calibration.provenance.get(key) for key in ("images", "iterations", "precision", "seconds", "source")}
    return {
        **cell,
        "quantize": figures,
        "calibration": given,
        "recipe": quantized.recipe["reconstruction"],
        "bits": quantized.effective_bits(),
        "processes": args.processes,
        "setup": setup(device) | {"command": command("quantization.py")},
        "results": {data: bench.problem(cell["model"], data).score(quantized) for data in datasets(cell["model"])},
    }


def seconds(args: argparse.Namespace) -> None:
    """Time of `quantize` for models in full size; the first call chooses kernels, and captures graphs."""
    shared = {"part": "time", "seed": 0, "scheme": "W4A8", "images": args.images}
    wanted = [shared | {"model": m, "reconstruction": r} for m in args.only for r in args.reconstructions]
    for cell in missing([cell | {"steps": steps(cell, args)} for cell in wanted], args.out):
        clip = make_clip(cell["model"], args.device, 0)
        calibration = d4c.synthesize(clip, "leaves", images=args.images, seed=0)
        with measured(args.device) as first:
            quantize(clip, calibration, cell | {"steps": WARM_UP_STEPS if learns(cell) else None})
        repeats = []
        for _ in range(args.repeats):
            with measured(args.device) as figures:
                quantized = quantize(clip, calibration, cell)
            repeats.append(figures)
        settings = {"prompts": quantized.recipe["prompts"], "recipe": quantized.recipe["reconstruction"]}
        found = {"first": first, "repeats": repeats, **settings}
        append(args.out, cell | found | {"setup": setup(args.device) | {"command": command("quantization.py")}})
        print(cell, first, repeats, flush=True)


def set_up_torch() -> None:
    """Full float32 on GPUs too: codes are integers times scales, which ten bits of a TF32 product would blur."""
    torch.backends.cudnn.allow_tf32 = False


def peers(args: argparse.Namespace) -> None:
    # Only this part needs the peers and the runtimes.
    from benchmarks.peers.measure import compare

    compare(open_bench(args, "cpu"), args.only, args.methods, args.out)


PARTS = {
    "accuracy": (accuracy, ["bench-vit", "bench-rn"], METHODS),
    "time": (seconds, ["ViT-B-32"], ()),
    "peers": (peers, ["bench-vit", "bench-rn"], ("leaves", "d4c")),
}
"""What to run, and its models and methods by default."""


def main() -> None:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bench models")
    parser.add_argument("--data", type=Path, default=Path("data"), help=f"folder of {', '.join(PHOTOS)} as .parquet")
    parser.add_argument("--real", type=Path, default=Path("data/tiny-imagenet-train.parquet"), help="for method real")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=words, help=f"models; for the time {', '.join(MODELS)}")
    parser.add_argument("--methods", type=words, help="of the synthesis, and real")
    parser.add_argument("--schemes", type=words, default=SCHEMES)
    parser.add_argument("--reconstructions", type=words, default=RECONSTRUCTIONS)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in words(text)], default=[0, 1, 2])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="of the synthesis")
    parser.add_argument("--steps", type=int, help="of reconstruction block, for each unit; d4c's own by default")
    parser.add_argument("--rows", type=int, help="of each dataset, evenly spread; all by default")
    parser.add_argument("--batch", type=int, default=200, help="images evaluated at once")
    parser.add_argument("--images", type=int, default=128, help="to calibrate with in the part time")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement in the part time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so long")
    args = parser.parse_args()
    run, models, methods = PARTS[args.part]
    args.only, args.methods = args.only or models, args.methods or methods
    args.deadline = time.monotonic() + 60 * args.minutes
    args.cache = args.out.parent / "cache"
    args.cache.mkdir(parents=True, exist_ok=True)
    set_up_torch()
    # An end from outside, such as a time limit, ends the workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run(args)


if __name__ == "__main__":
    main()

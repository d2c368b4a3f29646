"""How long the published synthesis takes: seconds an iteration, beside the loop of the method's authors.

    python -m benchmarks.synthesis.measure --models demo-vit,ViT-B-32 --device cuda --out FILE.json [--reference DIR]

One iteration is one step of every group: 128 images in groups of 16 are eight steps of the authors' loop. The time of
an iteration is the difference between a long and a short run, divided by the iterations between them, so that set-up
drops out; set-up (text features, model hash, kernels, graph capture, final check) is the rest of the short run.
`--reference` is a clone of https://github.com/Keio-CSG/D4C; of it one file is run, on our towers and prompts. It always
computes in float32 and on the tower as it is, where ours rearranges a copy. `demo-vit` and `demo-rn` are the embedded
models; the others have their published shapes and random weights.
Under torchrun (`torchrun --nproc-per-node=2 -m benchmarks.synthesis.measure ...`) the processes share the images, whose
hash is that of one process with `--batch` at the images of each.
`--peak-tflops` is what the device can do in the chosen precision; with it the table tells how much of the time the
products of the image tower as it is would need (forward and gradient of the input, 2 views an image). The table is
printed, and written beside the report.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import d4c
from benchmarks.common import records
from benchmarks.common.arguments import add_device, argument_parser, require_names, words
from benchmarks.common.models import MODELS, make_clip
from benchmarks.common.records import synchronize
from benchmarks.common.rows import Row, write_report
from benchmarks.synthesis.table import PUBLISHED, page, speed_table
from d4c.calibration.prompts import resolve_prompts
from d4c.models.clip import CLIP
from d4c.synthesis.shards import rank_and_count, workers

FILE = Path("d4c", "solver", "dfq_utils.py")
WHOLE_METHOD = 3
"""The authors' number for the method with both of its additions."""
# Iterations of the short run. A GPU chooses kernels in the first ones and captures a graph after them.
SHORT = {"cuda": 8}


def tower_flops(clip: CLIP) -> int:
    """Floating-point operations of one image through the image tower and back to its pixels; none are executed."""
    ghost = copy.deepcopy(clip).to("meta")
    pixels = torch.empty(1, 3, clip.image_size, clip.image_size, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        ghost.encode_image(pixels).sum().backward()
    return counter.get_total_flops()


def ours(clip: CLIP, args: argparse.Namespace, made: list[Tensor]) -> Callable[[int], None]:
    """The published synthesis of this package as a function of the iterations; `made` holds its last images."""

    def run(iterations: int) -> None:
        sizes = {"images": args.images, "iterations": iterations, "batch": args.batch}
        made[:] = [d4c.synthesize(clip, "d4c", "paper", **sizes, precision=args.precision, seed=args.seed).pixels]

    return run


def reference(clip: CLIP, args: argparse.Namespace) -> Callable[[int], None]:
    """The authors' loop on our model, likewise; it needs `encode_image` and `encode_text` alone."""
    spec = importlib.util.spec_from_file_location("reference_loop", args.reference / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokens = clip.tokenize(list(resolve_prompts(None))).to(clip.device)

    def run(iterations: int) -> None:
        torch.manual_seed(args.seed)
        images = torch.randn(args.images, 3, clip.image_size, clip.image_size)
        sizes = (iterations, PUBLISHED.group_size, PUBLISHED.lr)
        with redirect_stdout(io.StringIO()):
            module.train_fake_img_d4c(clip, images, tokens, WHOLE_METHOD, *sizes, str(clip.device))

    return run


def timed(run: Callable[[int], None], iterations: int, device: torch.device) -> float:
    """Seconds of one run, until the device has finished."""
    started = time.perf_counter()
    run(iterations)
    synchronize(device)
    return time.perf_counter() - started


def measure(run: Callable[[int], None], iterations: int, repeats: int, device: torch.device) -> Row:
    """Seconds an iteration: median, lowest and highest of the repeats; seconds of set-up; peak memory in GiB."""
    short = SHORT.get(device.type, 1)
    first = timed(run, short, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    steps, shorts = [], []
    for _ in range(repeats):
        shorts.append(timed(run, short, device))
        steps.append((timed(run, short + iterations, device) - shorts[-1]) / iterations)
    middle = statistics.median(steps)
    return {
        "seconds": middle,
        "lowest": min(steps),
        "highest": max(steps),
        "setup": statistics.median(shorts) - short * middle,
        "first_setup": first - short * middle,
        "memory_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        "iterations": iterations,
        "repeats": repeats,
    }


def case(name: str, args: argparse.Namespace) -> Row:
    """All figures of one model."""
    clip = make_clip(name, args.device, args.seed)
    flops = 2 * args.images * tower_flops(clip)
    row: Row = {"model": name, "image_size": clip.image_size, "tflop": flops / 1e12}
    made: list[Tensor] = []
    row["ours"] = measure(ours(clip, args, made), args.iterations, args.repeats, clip.device)
    row["images_sha256"] = hashlib.sha256(made[0].contiguous().numpy().tobytes()).hexdigest()
    row["reference"] = None
    if args.reference:
        row["reference"] = measure(reference(clip, args), args.reference_iterations, args.repeats, clip.device)
        row["ratio"] = row["reference"]["seconds"] / row["ours"]["seconds"]
    if args.peak_tflops:
        row["floor_share"] = row["tflop"] / args.peak_tflops / row["ours"]["seconds"]
    return row


def setup(args: argparse.Namespace, processes: int) -> Row:
    """What the figures depend on."""
    source = (args.reference / FILE).read_bytes() if args.reference else None
    return records.setup(args.device) | {
        "command": records.command("synthesis.measure"),
        "seed": args.seed,
        "images": args.images,
        "group_size": PUBLISHED.group_size,
        "processes": processes,
        "batch": args.batch,
        "precision": args.precision,
        "peak_tflops": args.peak_tflops,
        "reference_sha256": hashlib.sha256(source).hexdigest() if source else None,
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--models", type=words, default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--iterations", type=int, default=50, help="measured iterations of ours")
    parser.add_argument("--reference-iterations", type=int, default=4, help="measured iterations of the reference")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="a clone of the authors' repository")
    parser.add_argument("--images", type=int, default=PUBLISHED.images)
    parser.add_argument("--batch", type=int, help="images that go through the tower at once; default all")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="of ours")
    parser.add_argument("--peak-tflops", type=float, help="of the device in that precision")
    add_device(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    require_names(parser, "model", args.models, MODELS)
    if args.reference and not (args.reference / FILE).is_file():
        parser.error(f"{args.reference} has no file {FILE}; give a clone of https://github.com/Keio-CSG/D4C.")
    with workers(args.device) as (args.device, writes):
        report: Row = {"setup": setup(args, rank_and_count()[1]), "rows": []}
        for name in args.models:
            report["rows"].append(case(name, args))
            if writes:
                write_report(args.out, report, page)
                print("\n".join(speed_table(report["rows"])), flush=True)


if __name__ == "__main__":
    main()

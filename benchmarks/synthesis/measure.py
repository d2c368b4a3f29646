"""How long the published synthesis takes: seconds an iteration, beside the loop of the method's authors.

    python benchmarks/synthesis.py --models demo-vit,ViT-B-32 --device cuda --out FILE.json [--reference DIR]

One iteration is one step of every group: 128 images in groups of 16 are eight steps of the authors' loop. The time of
an iteration is the difference between a long and a short run, divided by the iterations between them, so that set-up
drops out; set-up (text features, model hash, kernels, graph capture, final check) is the rest of the short run.
`--reference` is a clone of https://github.com/Keio-CSG/D4C; of it one file is run, on our towers and prompts. It always
computes in float32 and on the tower as it is, where ours rearranges a copy. `demo-vit` and `demo-rn` are the embedded
models; the others have their published shapes and random weights.
Under torchrun (`torchrun --nproc-per-node=2 benchmarks/synthesis.py ...`) the processes share the images, whose hash is
that of one process with `--batch` at the images of each.
`--peak-tflops` is what the device can do in the chosen precision; with it the table tells how much of the time the
products of the image tower as it is would need (forward and gradient of the input, 2 views an image).
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import importlib.util
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import d4c
from benchmarks.common.problems import commit
from d4c.calibration.prompts import resolve_prompts
from d4c.files import atomic_file
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig, ResNetConfig, TextConfig, ViTConfig
from d4c.synthesis.config import PRESETS
from d4c.synthesis.shards import place, workers

PUBLISHED = PRESETS["paper"]
CONFIGS = {
    "ViT-B-32": CLIPConfig(512, ViTConfig(224, 32, 768, 12, 12, 3072), TextConfig(512, 12, 8, 2048)),
    "RN50": CLIPConfig(1024, ResNetConfig(224, 64, (3, 4, 6, 3), 32), TextConfig(512, 12, 8, 2048)),
    "ViT-L-14": CLIPConfig(768, ViTConfig(224, 14, 1024, 24, 16, 4096), TextConfig(768, 12, 12, 3072)),
}
MODELS = ("demo-vit", "demo-rn", *CONFIGS)
FILE = Path("d4c", "solver", "dfq_utils.py")
WHOLE_METHOD = 3
"""The authors' number for the method with both of its additions."""
# Iterations of the short run. A GPU chooses kernels in the first ones and captures a graph behind them.
SHORT = {"cuda": 8}


def make_clip(name: str, device: str, seed: int) -> CLIP:
    """An embedded model, or random weights in the shape of a published one."""
    if name not in CONFIGS:
        return d4c.load(name, device=device)
    torch.manual_seed(seed)
    return CLIP(CONFIGS[name], name).eval().requires_grad_(False).to(device)


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
        given = {"images": args.images, "precision": args.precision, "seed": args.seed, "batch": args.batch}
        made[:] = [d4c.synthesize(clip, "d4c", "paper", iterations=iterations, **given).pixels]

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
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(run: Callable[[int], None], iterations: int, repeats: int, device: torch.device) -> dict[str, Any]:
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


def case(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    clip = make_clip(name, args.device, args.seed)
    flops = 2 * args.images * tower_flops(clip)
    row: dict[str, Any] = {"model": name, "image_size": clip.image_size, "tflop": flops / 1e12}
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


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with what 3,000 iterations would take."""

    def cells(figures: dict[str, Any] | None) -> list[str]:
        if figures is None:
            return ["", "", ""]
        memory = figures["memory_gib"]
        spread = f"{figures['seconds']:.4g} ({figures['lowest']:.4g} to {figures['highest']:.4g})"
        whole = max(0, figures["setup"]) + PUBLISHED.iterations * figures["seconds"]
        return [spread, f"{whole:,.0f}", "" if memory is None else f"{memory:.1f}"]

    heads = [f"{who}: {what}" for who in ("ours", "reference") for what in ("s / iteration", "s / 3,000", "GiB")]
    lines = [["model", *heads, "times faster", "share of floor"], ["---", *["---:"] * (len(heads) + 2)]]
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        share = f"{100 * row['floor_share']:.0f} %" if "floor_share" in row else ""
        lines.append([row["model"], *cells(row["ours"]), *cells(row["reference"]), ratio, share])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def setup(args: argparse.Namespace, processes: int) -> dict[str, Any]:
    """What the figures depend on."""
    gpu = args.device.startswith("cuda")
    source = (args.reference / FILE).read_bytes() if args.reference else None
    return {
        "command": "python benchmarks/synthesis.py " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(args.device) if gpu else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"d4c": d4c.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": commit(),
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--iterations", type=int, default=50, help="measured iterations of ours")
    parser.add_argument("--reference-iterations", type=int, default=4, help="measured iterations of the reference")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="a clone of the authors' repository")
    parser.add_argument("--images", type=int, default=PUBLISHED.images)
    parser.add_argument("--batch", type=int, help="images that go through the tower at once; default all")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="of ours")
    parser.add_argument("--peak-tflops", type=float, help="of the device in that precision")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if unknown := sorted(set(args.models) - set(MODELS)):
        parser.error(f"no model is called {unknown[0]!r}; choose from {', '.join(MODELS)}")
    if args.reference and not (args.reference / FILE).is_file():
        parser.error(f"{args.reference} has no file {FILE}; give a clone of https://github.com/Keio-CSG/D4C")
    with workers(args.device) as (args.device, writes):
        report: dict[str, Any] = {"setup": setup(args, place()[1]), "rows": []}
        for name in args.models:
            report["rows"].append(case(name, args))
            if writes:
                with atomic_file(args.out) as file:
                    file.write_text(json.dumps(report, indent=1) + "\n")
                print(table(report["rows"]), flush=True)


if __name__ == "__main__":
    main()

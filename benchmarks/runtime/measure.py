"""Speed, size and fidelity of d4c's towers beside float32 and the int8 tools that people use instead, on a CPU.

    python benchmarks/runtime.py --part fidelity --models DIR --data FILE.parquet
    python benchmarks/runtime.py --part speed --batch 1,32 --rounds 9,3

Speed: the towers of ViT-B/32 and RN50 in full size with random weights (time depends on shapes alone), all candidates
in one process on two threads. In every round each candidate runs once, in alternating order; a candidate's figure is
the median over rounds of its time divided by that of float32 in the same round. The float text tower computes all 77
positions; the others get a prompt of 10 tokens without the positions behind it, as `d4c.load_quantized` does.
Fidelity: bench-vit and bench-rn on 2,000 images, one tower replaced and the other one float; every tool is calibrated
on the same 128 dead-leaves images, or 512 prompts. d4c's rows choose ranges only, unless they say otherwise.
`runtime_candidates.py` builds the candidates; the peers need `pip install nncf torchao`, and torch.compile a C++
compiler. A candidate that cannot be built is listed with the reason. Results are merged into `--out`, and the tables
written beside it, so that cells can be measured one by one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import d4c
from benchmarks.common.problems import commit
from benchmarks.runtime.candidates import CANDIDATES, ORT, Array, Builder, Built, Tower, onnxruntime_d4c
from benchmarks.runtime.table import FLOAT, tables
from benchmarks.synthesis.measure import make_clip
from d4c.calibration.prompts import generic_prompts
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import Embeddings, class_embeddings, embed
from d4c.evaluation.evaluate import score
from d4c.evaluation.load_dataset import load_dataset
from d4c.files import atomic_file
from d4c.templates import fill_template

# Name of a tower in full size, the published configuration, and the trained model that stands for it in fidelity.
TOWERS = {
    "ViT-B/32 image": ("ViT-B-32", "image", "bench-vit"),
    "RN50 image": ("RN50", "image", "bench-rn"),
    "ViT-B/32 text": ("ViT-B-32", "text", "bench-vit"),
}
THREADS = 2
PROMPT_TOKENS, CONTEXT = 10, 77
CALIBRATION_IMAGES, CALIBRATION_PROMPTS, EVALUATION_IMAGES = 128, 512, 2000
# Where only time counts, any ranges will do.
FEW_IMAGES, FEW_PROMPTS = 4, 16
BATCH = 50
PACKAGES = ("d4c", "torch", "onnxruntime", "openvino", "nncf", "torchao", "numpy")
CROPPED = "float32, 10 positions"


def build(tower: Tower, builders: Mapping[tuple[str, str], Builder]) -> dict[tuple[str, str], Built | str]:
    """Every candidate that can be built, the reason for the others."""
    out: dict[tuple[str, str], Built | str] = {}
    for key, builder in builders.items():
        started = time.perf_counter()
        out[key] = attempt(partial(builder, tower), key)
        print(f"  {', '.join(key)}: built in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return out


def attempt(action: Callable[[], Any], key: tuple[str, str]) -> Any:
    """The action's result, or of a peer that fails the first line of its error; ours and float32 must not fail."""
    try:
        return action()
    except Exception as error:
        if key[1] == FLOAT or key[1].startswith("d4c"):
            raise
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def interleaved(runs: Mapping[tuple[str, str], Callable[[], Any]], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each candidate in each round."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for i in range(rounds):
        for key in list(runs)[:: 1 if i % 2 == 0 else -1]:
            once = timed(runs[key])
            # The run before has filled caches with other weights; in a long run that makes no difference.
            seconds[key].append(timed(runs[key]) if once < 0.5 else once)
    return seconds


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class OtherLoad:
    """Share of the processors that other processes take between making this and reading `share`."""

    def __init__(self) -> None:
        self.before = self._ticks()

    def share(self) -> float:
        busy, total, own = (after - before for before, after in zip(self.before, self._ticks(), strict=True))
        return max(0.0, busy - own) / total

    @staticmethod
    def _ticks() -> tuple[float, float, float]:
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle, second = ticks[3] + ticks[4], os.sysconf("SC_CLK_TCK")
        spent = os.times()
        return (sum(ticks) - idle) / second, sum(ticks) / second, spent.user + spent.system


def speed_inputs(tower: Tower, batch: int) -> tuple[Array, Array]:
    """What float32 gets and what the others get."""
    if tower.kind == "image":
        size = tower.clip.image_size
        pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
        return pixels, pixels
    prompt = tower.clip.tokenize(" ".join(["photo"] * (PROMPT_TOKENS - 2))).numpy().repeat(batch, 0)
    assert prompt[0].argmax() == PROMPT_TOKENS - 1
    return prompt, np.ascontiguousarray(prompt[:, :PROMPT_TOKENS])


def measure_speed(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One cell of the results for each batch size."""
    config, kind, _ = TOWERS[name]
    clip = make_clip(config, "cpu", 0)
    images = d4c.synthesize(clip, "leaves", images=FEW_IMAGES, seed=0)
    tower = Tower(clip, kind, images, generic_prompts(FEW_PROMPTS), folder, THREADS)
    builders = dict(CANDIDATES)
    if kind == "text":
        builders[ORT, CROPPED] = CANDIDATES[ORT, FLOAT]
    built = build(tower, builders)
    cells = zip(args.batch, args.rounds, strict=True)
    return {f"{name}, batch {batch}": measure_batch(tower, built, batch, rounds) for batch, rounds in cells}


def measure_batch(
    tower: Tower, built: Mapping[tuple[str, str], Built | str], batch: int, rounds: int
) -> dict[str, Any]:
    whole, short = speed_inputs(tower, batch)
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for key, found in built.items():
        if isinstance(found, str):
            reasons[key] = found
            continue
        values = whole if key[1] == FLOAT else short
        run = partial(found.run, values)
        output = attempt(run, key)  # compilers work in the first run
        if isinstance(output, str):
            reasons[key] = output
        else:
            runs[key] = run
    load = OtherLoad()
    seconds = interleaved(runs, rounds)
    share = load.share()
    rows: list[dict[str, Any]] = []
    for (runtime, candidate), times in seconds.items():
        own, common = (ratio(times, seconds[key]) for key in ((runtime, FLOAT), (ORT, FLOAT)))
        row = {"runtime": runtime, "candidate": candidate, "bytes": built[runtime, candidate].bytes}
        rows.append(row | {"seconds": statistics.median(times), "to_own_float": own, "to_onnxruntime_float": common})
        print(f"  {runtime}, {candidate}: {own['median']:.3f}", file=sys.stderr, flush=True)
    failed = [{"runtime": key[0], "candidate": key[1], "reason": reason} for key, reason in reasons.items()]
    return {"setup": setup(THREADS) | {"rounds": rounds, "other_load": share}, "rows": rows, "failed": failed}


def ratio(times: list[float], reference: list[float]) -> dict[str, float]:
    rounds = [one / other for one, other in zip(times, reference, strict=True)]
    return {"median": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}


def measure_fidelity(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One cell: the trained model that stands for a tower, with that tower replaced by each candidate."""
    _, kind, model = TOWERS[name]
    clip = d4c.load(args.models / f"{model}.safetensors")
    images = d4c.synthesize(clip, "leaves", images=CALIBRATION_IMAGES, seed=0)
    tower = Tower(clip, kind, images, generic_prompts(CALIBRATION_PROMPTS), folder, 1)
    data = replace(load_dataset(f"parquet:{args.data}").subset(EVALUATION_IMAGES), name=args.data.stem)
    reference = embed(clip, data, batch_size=BATCH)
    learned = {(ORT, "d4c W4A8, GPTQ"): onnxruntime_d4c("W4A8", "gptq")}
    evaluate = images_evaluator(clip, data) if kind == "image" else texts_evaluator(clip, data)
    rows, failed = [], []
    for key, built in build(tower, CANDIDATES | learned).items():
        found = built if isinstance(built, str) else attempt(partial(evaluate, built.run, reference), key)
        named = {"runtime": key[0], "candidate": key[1]}
        if isinstance(found, str):
            failed.append(named | {"reason": found})
            continue
        metrics = score(found, data, reference=reference)
        print(f"  {key}: {metrics}", file=sys.stderr, flush=True)
        rows.append(named | {"bytes": built.bytes, "metrics": metrics.to_dict()})
    details = {"model": model, "calibration": images.provenance, "prompts": CALIBRATION_PROMPTS}
    return {f"{name}, fidelity": {"setup": setup(1) | details, "rows": rows, "failed": failed}}


Evaluator = Callable[[Callable[[Array], Array], Embeddings], Embeddings]


def images_evaluator(clip: Any, data: Dataset) -> Evaluator:
    """Embeds the dataset's images with a candidate, beside the reference's classes."""
    batches = [batch.numpy() for batch in pixel_batches(data, clip.preprocess, BATCH)]

    def evaluate(run: Callable[[Array], Array], reference: Embeddings) -> Embeddings:
        features = torch.cat([torch.from_numpy(run(batch)) for batch in batches])
        return Embeddings(data.name, F.normalize(features, dim=-1), reference.text, reference.logit_scale, 0.0)

    return evaluate


def texts_evaluator(clip: Any, data: Dataset) -> Evaluator:
    """Embeds the dataset's classes with a candidate, beside the reference's images; every batch has one length."""
    prompts = [fill_template(template, name.lower()) for name in data.classes for template in data.templates]
    longest = clip.text.crop(clip.tokenize(prompts)).shape[1]

    def evaluate(run: Callable[[Array], Array], reference: Embeddings) -> Embeddings:
        def encode(tokens: torch.Tensor) -> Array:
            return run(np.ascontiguousarray(tokens[:, :longest].numpy()))

        model: Any = SimpleNamespace(tokenize=clip.tokenize, encode_text=encode)
        text = class_embeddings(model, data, BATCH)
        return Embeddings(data.name, reference.image, text, reference.logit_scale, 0.0)

    return evaluate


def setup(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = d4c.__version__ if package == "d4c" else None
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "CPU")
    flags = next((line.split() for line in info if line.startswith("flags")), [])
    return {
        "command": command(),
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{model}, {os.cpu_count()} cores",
        "instructions": sorted(set(flags) & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"}),
        "threads": threads,
        "seed": 0,
        "versions": versions | {"python": platform.python_version()},
        "commit": commit(),
    }


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def command() -> str:
    """The command line, without the places of this machine."""
    words = ["python benchmarks/runtime.py", *sys.argv[1:]]
    private = ("--models", "--data", "--out")
    return " ".join("PATH" if before in private else word for before, word in zip(["", *words], words, strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("speed", "fidelity"), required=True)
    parser.add_argument("--towers", type=lambda text: text.split(","), default=list(TOWERS), help=", ".join(TOWERS))
    parser.add_argument("--batch", type=integers, default=[1, 32], help="sizes, such as 1,32")
    parser.add_argument("--rounds", type=integers, default=[9, 3], help="one number for each batch size")
    parser.add_argument("--models", type=Path, help="folder of bench-vit.safetensors and bench-rn.safetensors")
    parser.add_argument("--data", type=Path, help="Tiny ImageNet's validation images as Parquet")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "runtime.json")
    args = parser.parse_args()
    if unknown := sorted(set(args.towers) - set(TOWERS)):
        parser.error(f"no tower is called {unknown[0]!r}; choose from {', '.join(TOWERS)}")
    if len(args.rounds) != len(args.batch):
        parser.error(f"{len(args.batch)} batch sizes have {len(args.rounds)} numbers of rounds; give one for each")
    if args.part == "fidelity" and not (args.models and args.data):
        parser.error("fidelity needs --models and --data")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1 if args.part == "fidelity" else THREADS)
    measure = measure_speed if args.part == "speed" else measure_fidelity
    for name in args.towers:
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            cells = measure(name, args, Path(folder))
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        results = known | cells
        with atomic_file(args.out) as file:
            file.write_text(json.dumps(results, indent=1) + "\n")
        with atomic_file(args.out.with_suffix(".md")) as file:
            file.write_text(tables(results))


if __name__ == "__main__":
    main()

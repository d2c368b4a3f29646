"""How much the calibration images matter: accuracy after quantization with noise, D4C and real images.

    python benchmarks/calibration.py --models DIR --data DIR --out FILE.jsonl --part ranges [--device cuda]

Parts: `images` (only makes the calibration sets, so that several processes can share them), `ranges` (image tower,
published placement, no reconstruction), `reconstruction` (the same with the published units, `--steps` steps each) and
`demo` (with `--only demo-vit,demo-rn`: deployable track, both towers, emoji pack).
`--models` holds bench-vit.safetensors and bench-rn.safetensors; `--data` holds tiny-imagenet-val.parquet,
cifar10-test.parquet and a parquet of real images to draw from (`--real`). Every cell is one line of the output file,
written when it is done; a second call goes on behind the last one, and `--minutes` ends a call early.
`benchmarks/calibration_table.py` makes the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import d4c
from d4c.evaluation.datasets import Dataset, load_dataset, pixel_batches
from d4c.evaluation.evaluate import score
from d4c.evaluation.zeroshot import Embeddings, class_embeddings
from d4c.models.clip import CLIP
from d4c.synthesis.calibration import CalibrationSet
from d4c.synthesis.config import PRESETS

SCHEMES = ("W8A8", "W4A8", "W6A6", "W4A4")
BATCH = 200
"""Images evaluated at once; activations of this many stay in a GPU's cache."""


class Problem:
    """A dataset decoded once for one model, with the float model's embeddings of it."""

    def __init__(self, clip: CLIP, dataset: Dataset) -> None:
        self.dataset = dataset
        self.pixels = torch.cat(list(pixel_batches(dataset, clip.preprocess, 500))).to(clip.device)
        self.reference = self.embed(clip, text=True)

    @torch.no_grad()
    def embed(self, clip: CLIP, text: bool) -> Embeddings:
        """Embeddings of a model; the class embeddings are the float model's unless `text` is set."""
        started = time.perf_counter()
        image = torch.cat([F.normalize(clip.encode_image(part), dim=-1).cpu() for part in self.pixels.split(BATCH)])
        words = class_embeddings(clip, self.dataset, 512) if text else self.reference.text
        return Embeddings(self.dataset.name, image, words, clip.logit_scale, time.perf_counter() - started)


class Bench:
    """Models, problems and calibration sets, each made on first use."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.clips: dict[str, CLIP] = {}
        self.problems: dict[tuple[str, str], Problem] = {}

    def clip(self, name: str) -> CLIP:
        if name not in self.clips:
            path = name if name.startswith("demo") else self.args.models / f"{name}.safetensors"
            self.clips[name] = d4c.load(path, device=self.args.device)
        return self.clips[name]

    def problem(self, model: str, data: str) -> Problem:
        if (model, data) not in self.problems:
            dataset = load_dataset(data if data == "demo" else f"parquet:{self.args.data / data}.parquet")
            self.problems[model, data] = Problem(self.clip(model), dataset)
        return self.problems[model, data]

    def calibration(self, model: str, method: str, seed: int) -> CalibrationSet:
        folder = self.args.out.parent / "calibration" / f"{model}-{method}-{self.args.preset}-{seed}"
        if not (folder / "calibration.safetensors").exists():
            clip = self.clip(model)
            if method == "real":
                made = real_images(clip, self.args.real, PRESETS[self.args.preset].images, seed)
            else:
                made = d4c.synthesize(clip, method, self.args.preset, seed=seed, precision=self.args.precision)
            made.save(folder)
        return CalibrationSet.load(folder)


def real_images(clip: CLIP, path: Path, count: int, seed: int) -> CalibrationSet:
    """Randomly drawn pictures of a labelled parquet file, as calibration images without prompts."""
    dataset = load_dataset(f"parquet:{path}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
    pixels = torch.stack([clip.preprocess(dataset.image(i)) for i in order.tolist()])
    statistics = {"mean": list(clip.config.mean), "std": list(clip.config.std)}
    provenance = {"method": "real", "images": count, "seed": seed, "source": path.name, **statistics}
    return CalibrationSet(pixels, ("",) * count, torch.full((count,), -1), (), provenance)


def cells(args: argparse.Namespace) -> list[dict[str, object]]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    if args.part == "images":
        axes = itertools.product(args.seeds, args.only, args.methods or ("noise", "real", "d4c"))
        return [{"seed": s, "model": m, "method": c} for s, m, c in axes]
    methods = args.methods or (("noise", "leaves", "d4c") if args.part == "demo" else ("noise", "d4c", "real"))
    kinds = {"ranges": ("none",), "reconstruction": ("published",), "demo": ("none", "gptq")}[args.part]
    shared = {"part": args.part, "preset": args.preset, "steps": args.steps, "batch_size": args.batch_size}
    return [
        {**shared, "seed": s, "model": m, "method": c, "scheme": q, "reconstruction": r}
        for s, m, r, c, q in itertools.product(args.seeds, args.only, kinds, methods, args.schemes)
    ]


def measure(bench: Bench, cell: dict[str, object]) -> dict[str, object]:
    """Quantize and evaluate one cell."""
    demo = cell["part"] == "demo"
    clip = bench.clip(str(cell["model"]))
    calibration = bench.calibration(str(cell["model"]), str(cell["method"]), int(str(cell["seed"])))
    started = time.perf_counter()
    quantized = d4c.quantize(
        clip,
        str(cell["scheme"]),
        calibration,
        track="deployable" if demo else "paper",
        reconstruction=cell["reconstruction"],
        iterations=cell["steps"],
        batch_size=cell["batch_size"],
        towers=("image", "text") if demo else ("image",),
        seed=int(str(cell["seed"])),
    )
    seconds = time.perf_counter() - started
    results = {}
    for data in ("demo",) if demo else ("tiny-imagenet-val", "cifar10-test"):
        problem = bench.problem(str(cell["model"]), data)
        metrics = score(problem.embed(quantized, text=demo), problem.dataset, reference=problem.reference)
        plain = score(problem.reference, problem.dataset)
        results[data] = {**metrics.to_dict(), "float_top1": plain.top1.value}
    return {
        **cell,
        "quantize_seconds": round(seconds, 2),
        "processes": bench.args.share[1],
        "synthesis_precision": calibration.provenance.get("precision"),
        "synthesis_seconds": calibration.provenance.get("seconds"),
        "device": torch.cuda.get_device_name() if clip.device.type == "cuda" else "cpu",
        "versions": {"d4c": d4c.__version__, "torch": torch.__version__},
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--real", type=Path, default=Path("data/tiny-imagenet-train.parquet"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("images", "ranges", "reconstruction", "demo"), required=True)
    share = "i/n: only every n-th cell from the i-th on, to share the work between processes"
    parser.add_argument("--share", type=lambda t: tuple(int(v) for v in t.split("/")), default=(0, 1), help=share)
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--only", type=lambda text: text.split(","), default=["bench-vit", "bench-rn"], help="models")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="of the synthesis, and real; by part")
    parser.add_argument("--schemes", type=lambda text: text.split(","), default=SCHEMES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="of the synthesis")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto", help="of the synthesis")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=1e9)
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = [json.loads(line) for line in lines]
    bench = Bench(args)
    mine, workers = args.share
    for cell in cells(args)[mine::workers]:
        if any(all(row[key] == value for key, value in cell.items()) for row in done):
            continue
        if time.monotonic() > deadline:
            break
        if args.part == "images":
            bench.calibration(str(cell["model"]), str(cell["method"]), int(str(cell["seed"])))
            continue
        row = measure(bench, cell)
        with args.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        top = {name: round(result["top1"]["value"], 2) for name, result in row["results"].items()}
        print(cell, top, f"{row['quantize_seconds']} s", flush=True)


if __name__ == "__main__":
    main()

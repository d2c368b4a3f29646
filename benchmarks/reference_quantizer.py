"""Our published track beside the authors' quantizer: same weights, same images, ranges only, image tower of a ViT.

    python benchmarks/reference_quantizer.py --reference DIR --model FILE --data DIR --sets FOLDER... --out FILE.jsonl

`--reference` is a clone of https://github.com/Keio-CSG/D4C, whose package is called d4c too: it runs in a process of
its own, without ours, on tensors that this one writes. `--sets` are calibration sets that `d4c synthesize` wrote;
ranges are chosen on 32 images of each, as published. The authors' range search takes minutes a set on a GPU at 4 bits
and hours at 8. Every cell is one line of the output.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

IMAGES = 32
DATA = ("tiny-imagenet-val", "cifar10-test")


def score(encode: Any, tensors: dict[str, Tensor], device: str) -> dict[str, float]:
    """Top-1 % of an image encoder on both datasets."""
    found = {}
    for name in DATA:
        parts = tensors[f"{name}.pixels"].split(500)
        features = torch.cat([F.normalize(encode(part.to(device)).float(), dim=-1).cpu() for part in parts])
        right = (features @ tensors[f"{name}.text"].T).argmax(1) == tensors[f"{name}.labels"]
        found[name] = round(100 * float(right.double().mean()), 4)
    return found


def ours(args: argparse.Namespace, folder: Path) -> None:
    """Decode the data, quantize with this package, write tensors for the other process, and start it."""
    import d4c
    from d4c.evaluation.datasets import load_dataset, pixel_batches
    from d4c.evaluation.zeroshot import class_embeddings

    clip = d4c.load(args.model, device=args.device)
    tensors: dict[str, Tensor] = {}
    for name in DATA:
        dataset = load_dataset(f"parquet:{args.data / name}.parquet")
        dataset = dataset.subset(args.limit) if args.limit else dataset
        tensors[f"{name}.pixels"] = torch.cat(list(pixel_batches(dataset, clip.preprocess, 500)))
        tensors[f"{name}.labels"] = torch.as_tensor(dataset.labels).long()
        tensors[f"{name}.text"] = class_embeddings(clip, dataset, 512).cpu()
    for path in args.sets:
        images = d4c.CalibrationSet.load(path)
        tensors[f"set.{path.name}"] = images.pixels[:IMAGES].contiguous()
        started = time.perf_counter()
        kept = {"track": "paper", "reconstruction": "none", "towers": ("image",)}
        quantized = d4c.quantize(clip, args.scheme, images, **kept)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        with torch.no_grad():
            write(args, "d4c", path.name, seconds, score(quantized.encode_image, tensors, args.device))
    save_file(tensors, folder / "tensors.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--inner", str(folder)], env=environment, check=True)


def package(name: str, path: Path) -> None:
    """Make a folder importable as a package without running what its __init__ imports."""
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    sys.modules[name] = module


@torch.no_grad()
def theirs(args: argparse.Namespace, folder: Path) -> None:
    """The authors' model, quantizers, observers and order of calibration."""
    package("d4c", args.reference / "d4c")
    package("clip", args.reference / "CLIP" / "clip")
    if importlib.util.find_spec("easydict") is None:
        sys.modules["easydict"] = types.SimpleNamespace(EasyDict=dict)  # type: ignore[assignment]
    model_module, state, blocks, modules = (
        importlib.import_module(name)
        for name in (
            "clip.model",
            "d4c.quantization.state",
            "d4c.quantization.quant_block",
            "d4c.quantization.quantized_module",
        )
    )
    tensors = load_file(folder / "tensors.safetensors")
    weights = load_file(args.model)
    weights.pop("token_embedding.token_ids", None)
    weight_bits, activation_bits = int(args.scheme[1]), int(args.scheme[3])
    for name in (key.removeprefix("set.") for key in tensors if key.startswith("set.")):
        shared = {"observer": "MSEObserver", "symmetric": False}
        a = types.SimpleNamespace(quantizer="LSQFakeQuantize", bit=activation_bits, ch_axis=-1, **shared)
        w = types.SimpleNamespace(quantizer="AdaRoundFakeQuantize", bit=weight_bits, ch_axis=0, **shared)
        quantized = blocks.QuantCLIP(model_module.build_model(dict(weights)).float().eval(), w, a).eval()
        for path, block in quantized.named_modules():
            if isinstance(block, modules.QuantizedBlock) and "attn" in path:
                for projection in (block.q_proj, block.k_proj, block.v_proj):
                    state.set_ch_axis(projection)
            elif isinstance(block, modules.QuantizedBlock) and "mlp" in path:
                state.set_ch_axis(block.c_fc)
        quantized = quantized.to(args.device)
        images = tensors[f"set.{name}"].to(args.device)
        started = time.perf_counter()
        state.disable_all(quantized)
        state.enable_calibration_woquantization(quantized.visual, quantizer_type="act_fake_quant")
        quantized.encode_image(images)
        state.enable_calibration_woquantization(quantized.visual, quantizer_type="weight_fake_quant")
        quantized.encode_image(images[:1])
        seconds = time.perf_counter() - started
        state.disable_all(quantized)
        state.enable_quantization(quantized.visual)
        write(args, "reference", name, seconds, score(quantized.encode_image, tensors, args.device))


def write(args: argparse.Namespace, code: str, images: str, seconds: float, top1: dict[str, float]) -> None:
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    row = {"code": code, "scheme": args.scheme, "set": images, "seconds": round(seconds, 1), "top1": top1}
    row |= {"model": args.model.name, "limit": args.limit, "device": device, "torch": torch.__version__}
    with args.out.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    print({key: row[key] for key in ("code", "scheme", "set", "seconds", "top1")}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--scheme", default="W4A4")
    parser.add_argument("--limit", type=int, help="images of each dataset; default all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        theirs(args, args.inner)
    else:
        with tempfile.TemporaryDirectory() as folder:
            ours(args, Path(folder))


if __name__ == "__main__":
    main()

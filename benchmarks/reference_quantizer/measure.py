"""The authors' quantizer beside ours: same weights, images and prompts, both towers.

    python benchmarks/reference_quantizer.py --reference DIR --model FILE --data DIR --set FOLDER --schemes W4A8,W4A4
        --iterations 2000 --out FILE.jsonl

`--reference` is a clone of https://github.com/Keio-CSG/D4C, whose package is called d4c too: it runs in a process of
its own, without ours, on tensors that this one writes. `--set` is a calibration set that `d4c synthesize` wrote. Their
modules, order and reconstruction loop run as they are; with the published 20,000 iterations a layer that takes hours,
so that `--iterations` shortens it (0: ranges only), and `seconds_published` says what 20,000 would take: the time to
collect what a layer reads and gives stays, the rest grows with the iterations. Their two-dimensional range search,
hours at 8 bits, is replaced by ours on 4,096 evenly spaced values of each tensor, which looks at the same candidates.
Every cell is one line of the output.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

RANGE_IMAGES = 32
PUBLISHED = 20_000
POINTS = 4096
VOCABULARY = 49_408
DATA = ("tiny-imagenet-val", "cifar10-test")
OURS = (
    ("d4c, GPTQ", {"reconstruction": "gptq"}),
    ("d4c, block", {"reconstruction": "block"}),
    ("d4c, published track", {"track": "paper"}),
)
RANGES_ONLY = (
    ("d4c, ranges", {"reconstruction": "none"}),
    ("d4c, published track, ranges", {"track": "paper", "reconstruction": "none"}),
)


def score(model: Any, tensors: dict[str, Tensor], device: str) -> dict[str, float]:
    """Top-1 % of a model on both datasets, with class embeddings from its own text tower."""
    found = {}
    for name in DATA:
        tokens = tensors[f"{name}.tokens"]
        found_texts = [model.encode_text(part.to(device)).float() for part in tokens.flatten(0, 1).split(256)]
        texts = F.normalize(torch.cat(found_texts), dim=-1).view(*tokens.shape[:2], -1)
        classes = F.normalize(texts.mean(1), dim=-1)
        parts = tensors[f"{name}.pixels"].split(500)
        right = [
            (F.normalize(model.encode_image(part.to(device)).float(), dim=-1) @ classes.T).argmax(1).cpu()
            for part in parts
        ]
        accuracy = (torch.cat(right) == tensors[f"{name}.labels"]).double().mean()
        found[name] = round(100 * float(accuracy), 2)
    return found


def ours(args: argparse.Namespace, folder: Path) -> None:
    """Decode the data, quantize with this package, write tensors for the other process, and start it."""
    import d4c
    from benchmarks.common.problems import commit
    from d4c.calibration.prompts import generic_prompts
    from d4c.evaluation.batches import pixel_batches
    from d4c.evaluation.load_dataset import load_dataset
    from d4c.quantization.quantize import PROMPTS
    from d4c.templates import fill_template

    args.commit = commit()
    clip = d4c.load(args.model, device=args.device)
    images = d4c.CalibrationSet.load(args.set)
    prompts = generic_prompts(PROMPTS, seed=0)
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
    save_file(tensors, folder / "tensors.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    inner = ["--inner", str(folder), *(("--commit", args.commit) if args.commit else ())]
    subprocess.run([sys.executable, __file__, *sys.argv[1:], *inner], env=environment, check=True)
    with torch.no_grad():
        write(args, "float", "", 0, 0, score(clip, tensors, args.device))
    for scheme in args.schemes:
        for label, given in OURS if args.iterations else RANGES_ONLY:
            settings: dict[str, Any] = {**given, "prompts": prompts}
            if args.iterations and "track" in given:
                settings["iterations"] = args.iterations
            started = time.perf_counter()
            quantized = d4c.quantize(clip, scheme, images, **settings)
            seconds = time.perf_counter() - started
            with torch.no_grad():
                write(args, label, scheme, seconds, seconds, score(quantized, tensors, args.device))


def package(name: str, path: Path) -> None:
    """Make a folder importable as a package without running what its __init__ imports."""
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    sys.modules[name] = module


def range_search() -> Callable[..., tuple[Tensor, Tensor]]:
    """Our range search as a method of their observer: lowest and highest real value of each row."""
    path = Path(__file__).parents[2] / "src" / "d4c" / "quantization" / "ranges" / "search.py"
    spec = importlib.util.spec_from_file_location("range_search", path)
    assert spec is not None
    assert spec.loader is not None
    ranges = sys.modules["range_search"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ranges)

    def search(observer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        whole = observer.ch_axis == -1
        rows = x.reshape(1, -1) if whole else x.movedim(observer.ch_axis, 0).flatten(1)
        low, high = rows.aminmax(dim=1, keepdim=True)
        step = max(1, rows.shape[1] // POINTS)
        points = torch.cat([rows[:, ::step], low, high], 1)
        scale, zero = ranges.search(ranges.summarize(points), observer.bit)
        ends = -zero * scale, (observer.quant_max - zero) * scale
        return (ends[0][0], ends[1][0]) if whole else ends

    return search


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def theirs(args: argparse.Namespace, folder: Path) -> None:
    """The authors' model, quantizers, observers, order of calibration and reconstruction."""
    package("d4c", args.reference / "d4c")
    package("clip", args.reference / "CLIP" / "clip")
    if importlib.util.find_spec("easydict") is None:
        sys.modules["easydict"] = types.SimpleNamespace(EasyDict=dict)  # type: ignore[assignment]
    names = ("clip.model", "d4c.quantization.state", "d4c.quantization.quant_block")
    model_module, state, blocks = map(importlib.import_module, names)
    fake, modules = (importlib.import_module(f"d4c.quantization.{name}") for name in ("fake_quant", "quantized_module"))
    importlib.import_module("d4c.quantization.ranges.observer").MSEObserver.perform_2D_search = range_search()
    solver = importlib.import_module("d4c.solver.recon")
    collecting = clocked(solver, "save_inp_oup_data", args.device)
    tensors = load_file(folder / "tensors.safetensors")
    weights = load_file(args.model)
    if (kept := weights.pop("token_embedding.token_ids", None)) is not None:
        rows = weights["token_embedding.weight"]
        weights["token_embedding.weight"] = rows.new_zeros(VOCABULARY, rows.shape[1]).index_copy(0, kept.long(), rows)
    images, prompts = tensors["images"].to(args.device), tensors["prompts"].to(args.device)

    for scheme in args.schemes:
        shared = {"observer": "MSEObserver", "symmetric": False}
        bits = {"w": int(scheme[1]), "a": int(scheme[3])}
        a = types.SimpleNamespace(quantizer="LSQFakeQuantize", bit=bits["a"], ch_axis=-1, **shared)
        w = types.SimpleNamespace(quantizer="AdaRoundFakeQuantize", bit=bits["w"], ch_axis=0, **shared)
        quantized = blocks.QuantCLIP(model_module.build_model(dict(weights)).float().eval(), w, a).eval()
        quantized = quantized.to(args.device)
        reference = copy.deepcopy(quantized)
        state.disable_all(reference)
        for path, block in quantized.named_modules():
            if not isinstance(block, modules.QuantizedBlock):
                continue
            if "attn" in path:
                for projection in (block.q_proj, block.k_proj, block.v_proj):
                    state.set_ch_axis(projection)
            elif "mlp" in path:
                state.set_ch_axis(block.c_fc)
                if not path.startswith("visual"):
                    state.set_ch_axis(block.c_proj)
                    for layer in block.modules():
                        if isinstance(layer, fake.QuantizeBase):
                            layer.set_bit(8)
        started = time.perf_counter()
        with torch.no_grad(), silence():
            for kind in ("act_fake_quant", "weight_fake_quant"):
                state.enable_calibration_woquantization(quantized, quantizer_type=kind)
                quantized(images[:RANGE_IMAGES], prompts[:RANGE_IMAGES])
        state.enable_quantization(quantized)
        synchronize(args.device)
        fixed = time.perf_counter() - started
        collecting.clear()
        if args.iterations:
            config = types.SimpleNamespace(
                visual_batch_size=32, text_batch_size=32, visual_scale_lr=4e-5, text_scale_lr=4e-6, warm_up=0.2,
                weight=0.01, iters=args.iterations, b_range=[20, 2], keep_gpu=True, round_mode="learned_hard_sigmoid",
                drop_prob=1.0,
            )  # fmt: skip
            whole = (modules.QuantizedLayer, modules.QuantizedBlock)
            convolutional = isinstance(quantized.visual, blocks.QuantModifiedResNet)
            for tower, branch in (("visual", "visual"), ("transformer", "text")):
                for module in quantized.get_submodule(tower).modules():
                    if isinstance(module, whole):
                        module.branch = branch
                kinds = whole if convolutional and branch == "visual" else modules.QuantizedLayer
                for path in units(quantized.get_submodule(tower), kinds, tower):
                    pair = quantized.get_submodule(path), reference.get_submodule(path)
                    with silence():
                        solver.reconstruction(quantized, reference, *pair, prompts, images, config)
            synchronize(args.device)
        seconds = time.perf_counter() - started
        fixed += sum(collecting)
        published = fixed + (seconds - fixed) * PUBLISHED / args.iterations if args.iterations else seconds
        state.enable_quantization(quantized)
        with torch.no_grad():
            write(args, "reference", scheme, seconds, published, score(quantized, tensors, args.device))


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def clocked(module: Any, name: str, device: str) -> list[float]:
    """Make a function of a module write the seconds of each of its calls into the list returned."""
    function, spent = getattr(module, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        started = time.perf_counter()
        result = function(*args, **kwargs)
        synchronize(device)
        spent.append(time.perf_counter() - started)
        return result

    setattr(module, name, call)
    return spent


def units(module: torch.nn.Module, kinds: Any, path: str) -> Iterator[str]:
    """Paths of what is rebuilt together, in the model's order."""
    for name, child in module.named_children():
        if isinstance(child, kinds):
            yield f"{path}.{name}"
        else:
            yield from units(child, kinds, f"{path}.{name}")


def write(
    args: argparse.Namespace, code: str, scheme: str, seconds: float, published: float, top1: dict[str, float]
) -> None:
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    row = {"model": args.model.stem, "code": code, "scheme": scheme, "iterations": args.iterations, "top1": top1}
    row |= {"seconds": round(seconds, 1), "seconds_published": round(published, 1), "set": args.set.name}
    row |= {"limit": args.limit, "device": device, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    row |= {"commit": args.commit}
    with args.out.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    print({key: row[key] for key in ("model", "code", "scheme", "seconds", "top1")}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--schemes", type=lambda text: text.split(","), default=["W8A8", "W4A8", "W6A6", "W4A4"])
    parser.add_argument("--iterations", type=int, default=2000, help="of their reconstruction; 0: ranges only")
    parser.add_argument("--limit", type=int, help="images of each dataset; default all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--commit", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        theirs(args, args.inner)
    else:
        with tempfile.TemporaryDirectory() as folder:
            ours(args, Path(folder))


if __name__ == "__main__":
    main()

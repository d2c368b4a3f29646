"""The authors' half of the comparison, in a process without our package: started by `measure.py`, not by hand."""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.reference_quantizer.cells import argument_parser, score, write_row

RANGE_IMAGES = 32
PUBLISHED = 20_000
POINTS = 4096
VOCABULARY = 49_408


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


class Authors:
    """The authors' modules, of which some are changed: quiet, clocked, and with our range search."""

    def __init__(self, reference: Path, device: str) -> None:
        package("d4c", reference / "d4c")
        package("clip", reference / "CLIP" / "clip")
        if importlib.util.find_spec("easydict") is None:
            sys.modules["easydict"] = types.SimpleNamespace(EasyDict=dict)  # type: ignore[assignment]
        self.model = importlib.import_module("clip.model")
        self.state = importlib.import_module("d4c.quantization.state")
        self.blocks = importlib.import_module("d4c.quantization.quant_block")
        self.fake = importlib.import_module("d4c.quantization.fake_quant")
        self.modules = importlib.import_module("d4c.quantization.quantized_module")
        observer = importlib.import_module("d4c.quantization.ranges.observer")
        observer.MSEObserver.perform_2D_search = range_search()
        self.solver = importlib.import_module("d4c.solver.recon")
        self.collecting = clocked(self.solver, "save_inp_oup_data", device)
        """Seconds of each collection of what a layer reads and gives."""

    def convert(self, weights: dict[str, Tensor], scheme: str) -> Any:
        """Their quantized model, with the exceptions that their script makes."""
        shared = {"observer": "MSEObserver", "symmetric": False}
        a = types.SimpleNamespace(quantizer="LSQFakeQuantize", bit=int(scheme[3]), ch_axis=-1, **shared)
        w = types.SimpleNamespace(quantizer="AdaRoundFakeQuantize", bit=int(scheme[1]), ch_axis=0, **shared)
        quantized = self.blocks.QuantCLIP(self.model.build_model(dict(weights)).float().eval(), w, a).eval()
        for path, block in quantized.named_modules():
            if not isinstance(block, self.modules.QuantizedBlock):
                continue
            if "attn" in path:
                for projection in (block.q_proj, block.k_proj, block.v_proj):
                    self.state.set_ch_axis(projection)
            elif "mlp" in path:
                self.state.set_ch_axis(block.c_fc)
                if not path.startswith("visual"):
                    self.state.set_ch_axis(block.c_proj)
                    for layer in block.modules():
                        if isinstance(layer, self.fake.QuantizeBase):
                            layer.set_bit(8)
        return quantized

    def choose_ranges(self, quantized: Any, images: Tensor, prompts: Tensor) -> None:
        with torch.no_grad(), silence():
            for kind in ("act_fake_quant", "weight_fake_quant"):
                self.state.enable_calibration_woquantization(quantized, quantizer_type=kind)
                quantized(images[:RANGE_IMAGES], prompts[:RANGE_IMAGES])
        self.state.enable_quantization(quantized)

    def rebuild(self, quantized: Any, reference: Any, images: Tensor, prompts: Tensor, iterations: int) -> None:
        """Their reconstruction, unit by unit: layers in transformers, bottlenecks in ResNets."""
        config = types.SimpleNamespace(
            visual_batch_size=32, text_batch_size=32, visual_scale_lr=4e-5, text_scale_lr=4e-6, warm_up=0.2,
            weight=0.01, iters=iterations, b_range=[20, 2], keep_gpu=True, round_mode="learned_hard_sigmoid",
            drop_prob=1.0,
        )  # fmt: skip
        whole = (self.modules.QuantizedLayer, self.modules.QuantizedBlock)
        convolutional = isinstance(quantized.visual, self.blocks.QuantModifiedResNet)
        for tower, branch in (("visual", "visual"), ("transformer", "text")):
            for module in quantized.get_submodule(tower).modules():
                if isinstance(module, whole):
                    module.branch = branch
            kinds = whole if convolutional and branch == "visual" else self.modules.QuantizedLayer
            for path in units(quantized.get_submodule(tower), kinds, tower):
                pair = quantized.get_submodule(path), reference.get_submodule(path)
                with silence():
                    self.solver.reconstruction(quantized, reference, *pair, prompts, images, config)


def measure(args: argparse.Namespace) -> None:
    """A line for each scheme: accuracy, seconds, and what the seconds would be with the published iterations."""
    authors = Authors(args.reference, args.device)
    tensors = load_file(args.tensors)
    weights = load_file(args.model)
    if (kept := weights.pop("token_embedding.token_ids", None)) is not None:
        rows = weights["token_embedding.weight"]
        weights["token_embedding.weight"] = rows.new_zeros(VOCABULARY, rows.shape[1]).index_copy(0, kept.long(), rows)
    images, prompts = tensors["images"].to(args.device), tensors["prompts"].to(args.device)
    for scheme in args.schemes:
        quantized = authors.convert(weights, scheme).to(args.device)
        reference = copy.deepcopy(quantized)
        authors.state.disable_all(reference)
        started = time.perf_counter()
        authors.choose_ranges(quantized, images, prompts)
        synchronize(args.device)
        fixed = time.perf_counter() - started
        authors.collecting.clear()
        if args.iterations:
            authors.rebuild(quantized, reference, images, prompts, args.iterations)
            synchronize(args.device)
        seconds = time.perf_counter() - started
        fixed += sum(authors.collecting)
        published = fixed + (seconds - fixed) * PUBLISHED / args.iterations if args.iterations else seconds
        authors.state.enable_quantization(quantized)
        with torch.no_grad():
            write_row(args, "reference", scheme, seconds, published, score(quantized, tensors, args.device))


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def clocked(module: Any, name: str, device: str) -> list[float]:
    """Make a function of a module write the seconds of each of its calls into the list returned."""
    function = getattr(module, name)
    spent: list[float] = []

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


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--tensors", type=Path, required=True, help="what measure.py wrote")
    parser.add_argument("--commit", help="of our package")
    args = parser.parse_args()
    measure(args)


if __name__ == "__main__":
    main()

"""Ways to execute one CLIP tower on a CPU: float, d4c, and the int8 tools that people use instead.

Every builder takes a `Tower` and gives a `Built`. All candidates start from the same weights and calibrate on the same
inputs. The ONNX tools and NNCF get the float graph that d4c's own emitter writes, with biases as additions: the form in
which exporters write them and these tools know them.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime import quantization as ort_tools
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch._inductor import config as inductor_config

import d4c
from benchmarks.runtime.table import FLOAT
from d4c.calibration.images import CalibrationSet
from d4c.deployment.onnx.tower_graphs import image_graph, text_graph
from d4c.models.clip import CLIP
from d4c.models.vit import VisionTransformer
from d4c.quantization.config import RangeRule
from d4c.runtime.openvino_convolutions import use_convolutions

ORT, OPENVINO, TORCH = "ONNX Runtime", "OpenVINO", "PyTorch"
SCHEMES = ("W8A8", "W4A8", "W6A6")
AS_CONVOLUTIONS = " as convolutions"
CALIBRATION_BATCH = 8

Array = NDArray[Any]


@dataclass(frozen=True)
class Tower:
    """One tower of a float CLIP, what calibrates it, a folder for its graphs and the threads to run it with.

    `ranges` is how d4c chooses those of activations.
    """

    clip: CLIP
    kind: str
    calibration: CalibrationSet
    prompts: tuple[str, ...]
    folder: Path
    threads: int
    ranges: RangeRule = "mse"

    def batches(self) -> list[Tensor]:
        """Calibration inputs; prompts of one length together, without the positions after their end."""
        if self.kind == "image":
            return list(self.calibration.pixels.split(CALIBRATION_BATCH))
        tokens = self.clip.tokenize(self.prompts)
        return [self.clip.text.crop(part) for part in self.clip.text.batches(tokens, CALIBRATION_BATCH)]

    def module(self) -> nn.Module:
        """A copy for PyTorch that computes every position it is given."""
        module: Any = copy.deepcopy(self.clip.image if self.kind == "image" else self.clip.text)
        module.trim = False
        return module.eval().requires_grad_(False)

    @property
    def is_transformer(self) -> bool:
        return self.kind == "text" or isinstance(self.clip.image, VisionTransformer)


@dataclass(frozen=True)
class Built:
    """A tower as a function from pixels or tokens to embeddings, and the bytes that it takes on disk."""

    run: Callable[[Array], Array]
    bytes: int


Builder = Callable[[Tower], Built]


def in_onnxruntime(write: Callable[[Tower], Path], tower: Tower) -> Built:
    path = write(tower)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = tower.threads
    # Threads that wait for work after a run would take the processor from the next candidate.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Built(lambda values: session.run(None, {name: values})[0], path.stat().st_size)


def in_openvino(write: Callable[[Tower], Path], tower: Tower, *, convolutions: bool = False) -> Built:
    """With `convolutions`, as `d4c.load_quantized` opens a graph on processors without VNNI."""
    import openvino

    path = write(tower)
    model = openvino.Core().read_model(path)
    if convolutions:
        use_convolutions(model)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": tower.threads,
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    return Built(lambda values: np.array(compiled(values)[0]), sum(file.stat().st_size for file in files))


def float_graph(tower: Tower) -> Path:
    """The float tower as ONNX."""
    path = tower.folder / "float32.onnx"
    if not path.exists():
        emit = image_graph if tower.kind == "image" else text_graph
        onnx.save(emit(tower.clip).model(d4c.__version__), path)
    return path


def d4c_graph(scheme: str, reconstruction: Any, tower: Tower) -> Path:
    """The tower as d4c exports it."""
    path = tower.folder / f"{scheme}-{reconstruction}.onnx"
    if not path.exists():
        settings = {"reconstruction": reconstruction, "towers": (tower.kind,), "prompts": tower.prompts}
        quantized = d4c.quantize(tower.clip, tower.calibration, scheme, ranges=tower.ranges, **settings)
        emit = image_graph if tower.kind == "image" else text_graph
        path.write_bytes(emit(quantized).model(d4c.__version__).SerializeToString())
    return path


def dynamic_graph(tower: Tower) -> Path:
    """ONNX Runtime's dynamic quantization: weights per channel, activations measured in every run."""
    path = tower.folder / "dynamic.onnx"
    ort_tools.quantize_dynamic(_preprocessed(tower), path, per_channel=True)
    return path


def static_graph(tower: Tower) -> Path:
    """ONNX Runtime's static quantization in its QDQ form: weights per channel, unsigned activations, MinMax."""
    path = tower.folder / "static.onnx"
    source = _preprocessed(tower)
    nodes = onnx.load(source, load_external_data=False).graph.node
    ort_tools.quantize_static(
        source,
        path,
        _Reader(tower),
        quant_format=ort_tools.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ort_tools.QuantType.QUInt8,
        weight_type=ort_tools.QuantType.QInt8,
        calibrate_method=ort_tools.CalibrationMethod.MinMax,
        # The causal mask holds minus infinity, which leaves no finite range.
        nodes_to_exclude=[node.name for node in nodes if any("mask" in name for name in node.input)],
    )
    return path


def _preprocessed(tower: Tower) -> Path:
    """The float graph as ONNX Runtime's tools want it: shapes inferred, BatchNorm folded."""
    path = tower.folder / "preprocessed.onnx"
    if not path.exists():
        # Symbolic shape inference gives up on prompts of free length.
        quant_pre_process(float_graph(tower), path, skip_symbolic_shape=tower.kind == "text")
    return path


class _Reader(ort_tools.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, tower: Tower) -> None:
        name = "pixels" if tower.kind == "image" else "tokens"
        self.feeds = iter([{name: batch.numpy()} for batch in tower.batches()])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def nncf_graph(tower: Tower) -> Path:
    """NNCF's post-training quantization of the float graph in OpenVINO."""
    import nncf
    import openvino

    path = tower.folder / "nncf.xml"
    inputs = [row[None].numpy() for batch in tower.batches() for row in batch]
    quantized = nncf.quantize(
        openvino.Core().read_model(float_graph(tower)),
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if tower.is_transformer else None,
        subset_size=len(inputs),
    )
    openvino.save_model(quantized, path)
    return path


def in_torch(module: nn.Module, run: Callable[[Tensor], Tensor]) -> Built:
    state = module.state_dict()
    if isinstance(module, torch.fx.GraphModule):
        # A converted program keeps the float weights beside the integers that it reads.
        read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
        state = {name: tensor for name, tensor in state.items() if name in read}
    stored = io.BytesIO()
    torch.save(state, stored)

    @torch.no_grad()
    def call(values: Array) -> Array:
        return run(torch.from_numpy(values)).float().numpy()

    return Built(call, stored.tell())


def eager(tower: Tower) -> Built:
    module = tower.module()
    return in_torch(module, module)


def compiled_float32(tower: Tower) -> Built:
    module = tower.module()
    return in_torch(module, _compile(module))


def compiled_bf16(tower: Tower) -> Built:
    module = tower.module().to(torch.bfloat16)
    run = _compile(module)
    return in_torch(module, lambda x: run(x.to(torch.bfloat16) if x.is_floating_point() else x))


def torchao_dynamic(tower: Tower) -> Built:
    """torchao's int8 weights and activations of linear layers, the latter measured in every run, compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    module = tower.module()
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return in_torch(module, _compile(module))


def torchao_static(tower: Tower) -> Built:
    """torchao's quantization of an exported program with its quantizer for x86, compiled."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batches = tower.batches()
    free = {0: torch.export.Dim("batch", min=1, max=64)}
    if tower.kind == "text":
        free[1] = torch.export.Dim("length", min=3, max=77)
    with torch.no_grad():
        # From a batch of one the exporter concludes that there is never more.
        program = torch.export.export(tower.module(), (max(batches, key=len),), dynamic_shapes=(free,))
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(program.module(), quantizer)
        for batch in batches:
            prepared(batch)
        module = convert_pt2e(prepared)
    return in_torch(module, _compile(module))


def _compile(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """`torch.compile` for fixed shapes; freezing lets the compiler rearrange weights, as PyTorch advises on CPUs."""
    inductor_config.freezing = True
    return torch.compile(module, dynamic=False)


def onnxruntime_d4c(scheme: str, reconstruction: str = "none") -> Builder:
    return partial(in_onnxruntime, partial(d4c_graph, scheme, reconstruction))


def openvino_d4c(scheme: str, convolutions: bool = False) -> Builder:
    return partial(in_openvino, partial(d4c_graph, scheme, "none"), convolutions=convolutions)


CANDIDATES: dict[tuple[str, str], Builder] = {
    (ORT, FLOAT): partial(in_onnxruntime, float_graph),
    **{(ORT, f"d4c {scheme}"): onnxruntime_d4c(scheme) for scheme in SCHEMES},
    (ORT, "dynamic int8"): partial(in_onnxruntime, dynamic_graph),
    (ORT, "static int8 (QDQ)"): partial(in_onnxruntime, static_graph),
    (OPENVINO, FLOAT): partial(in_openvino, float_graph),
    **{(OPENVINO, f"d4c {scheme}"): openvino_d4c(scheme) for scheme in SCHEMES},
    **{(OPENVINO, f"d4c {scheme}{AS_CONVOLUTIONS}"): openvino_d4c(scheme, convolutions=True) for scheme in SCHEMES},
    (OPENVINO, "NNCF int8"): partial(in_openvino, nncf_graph),
    (TORCH, FLOAT): eager,
    (TORCH, "torch.compile float32"): compiled_float32,
    (TORCH, "torch.compile bf16"): compiled_bf16,
    (TORCH, "torchao dynamic int8"): torchao_dynamic,
    (TORCH, "torchao static int8 (PT2E)"): torchao_static,
}
"""How to build each candidate, by runtime and name; the float32 of a runtime is what its others are compared with."""

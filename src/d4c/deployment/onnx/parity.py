"""Checks that ONNX Runtime computes from a file what PyTorch computes from the artifact.

Each layer gets exactly the input that it has in PyTorch: its codes are then the same, and only the order of float32
sums may differ. Each stage of a tower (embedding, block, head) gets the input that it has in PyTorch and runs as the
optimizer fuses it: a last-bit difference inside can move a value across a rounding boundary, so that single codes
differ by one step. Over a whole tower such steps add up. Two runtimes with one file differ there as well, so the
end-to-end figures are reported but have no tolerance. Where the last block computes a single row, that row is compared.
Where the processor needs wide sums for this artifact, the check uses them, as `RuntimeCLIP` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from torch import Tensor

from d4c.calibration.natural import dead_leaves, gaussian_noise
from d4c.calibration.prompts import generic_prompts
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity_sessions import INTEGER_KERNELS, kernels, open_session, run
from d4c.deployment.saturating import saturating_layers
from d4c.errors import ArtifactError
from d4c.models.clip import CLIP
from d4c.progress import Progress, silent
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.stages import Stage, stages
from d4c.runtime import processor

LAYER_TOLERANCE = 1e-4
"""Largest relative difference of a layer."""
STAGE_TOLERANCE = 0.02
"""Largest relative difference of a stage; a code that is rounded differently changes a block by less than 4e-3."""


@dataclass(frozen=True)
class StageParity:
    """The differences of a stage.

    Args:
        error: Root mean square difference of the stage's output over the root mean square of the output.
        layer_error: Largest difference over the largest value of a layer, for the worst of its layers.
        worst_layer: Name of that layer.
    """

    error: float
    layer_error: float
    worst_layer: str


@dataclass(frozen=True)
class TowerParity:
    """The differences of a tower.

    Args:
        stages: Differences by name of the stage.
        cosine_mean: Mean cosine between embeddings of both.
        cosine_min: Smallest cosine.
        embedding_error: Largest difference over the largest value of the embeddings.
        integer_layers: Number of quantized products that run in integers.
        float_layers: Those that do not, with the type of their node.
    """

    stages: dict[str, StageParity]
    cosine_mean: float
    cosine_min: float
    embedding_error: float
    integer_layers: int
    float_layers: dict[str, str]

    def summary(self) -> str:
        """Return one line for the command line."""
        layers = self.integer_layers + len(self.float_layers)
        worst = max(stage.error for stage in self.stages.values())
        return (
            f"every layer and block as in PyTorch (blocks within {worst:.0e}, embeddings at cosine "
            f"{self.cosine_min:.4f} or more); {self.integer_layers} of {layers} quantized products run in integers"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form."""
        return asdict(self)


def probes(clip: CLIP, tower: str) -> Tensor:
    """Make inputs without data: prompts, or pictures of dead leaves and one of noise far outside every range."""
    if tower == "text":
        return clip.text.crop(clip.tokenize(generic_prompts(4)))
    generator = torch.Generator().manual_seed(0)
    pictures = clip.normalize(dead_leaves(2, clip.image_size, generator))
    return torch.cat([pictures, 4 * gaussian_noise(1, clip.image_size, generator)])


@torch.no_grad()
def check_tower(file: Path, g: Graph, clip: QuantizedCLIP, tower: str, progress: Progress = silent) -> TowerParity:
    """Compare a graph with a tower of the artifact that it was made from.

    Args:
        file: The ONNX file.
        g: What the file was written from.
        clip: The artifact in PyTorch.
        tower: "image" or "text".
        progress: Called with the stages done and their number.

    Returns:
        The differences of all stages and layers, which are within the tolerances.

    Raises:
        ArtifactError: A layer or a stage differs; the message names the first one.
    """
    inputs = probes(clip, tower)
    wide_sums = bool(saturating_layers(clip)) and processor.saturates("onnxruntime")
    parts = _Parts(onnx.load(file), g, _read_rows(clip, tower, inputs), wide_sums)
    state, input_name = inputs, g.inputs[0].name
    tower_stages = stages(clip, tower)
    stage_parities = {}
    for done, stage in enumerate(tower_stages, 1):
        output_name = g.outputs[0].name if stage is tower_stages[-1] else stage.name
        state, stage_parities[stage.name] = _check_stage(parts, clip, stage, input_name, output_name, state, inputs)
        input_name = output_name
        progress(done, len(tower_stages))
    computed = run(open_session(file, wide_sums=wide_sums), {g.inputs[0].name: inputs.numpy()})[0]
    cosine = torch.cosine_similarity(torch.from_numpy(computed), state, dim=-1)
    nodes = kernels(file, g.products, wide_sums=wide_sums)
    in_float = {layer: kind for layer, kind in nodes.items() if kind not in INTEGER_KERNELS}
    return TowerParity(
        stage_parities,
        float(cosine.mean()),
        float(cosine.min()),
        _largest_error(computed, state.numpy()),
        len(nodes) - len(in_float),
        in_float,
    )


def _check_stage(
    parts: _Parts, clip: QuantizedCLIP, stage: Stage, input_name: str, output_name: str, state: Tensor, inputs: Tensor
) -> tuple[Tensor, StageParity]:
    feeds = {parts.g.inputs[0].name: inputs.numpy(), input_name: parts.graph_value(input_name, state.numpy())}
    nodes = parts.nodes_between(feeds, output_name)
    written = {name for node in nodes for name in node.output}
    layers = [name for name, layer in parts.g.layers.items() if layer.output in written]
    with _recorded(clip, layers) as records:
        torch_output = stage.run(clip, state, inputs)
    errors = dict(zip(layers, _layer_errors(parts, nodes, feeds, layers, records), strict=True))
    for name, error in errors.items():
        if not error <= LAYER_TOLERANCE:
            raise _mismatch(name, error, LAYER_TOLERANCE)
    computed = parts.run(nodes, feeds, [output_name])[0]
    expected = parts.graph_value(output_name, torch_output.numpy())
    difference = _rms(computed - expected) / max(_rms(expected), 1e-30)
    if not difference <= STAGE_TOLERANCE:
        raise _mismatch(stage.name, difference, STAGE_TOLERANCE)
    worst = max(errors, key=lambda name: errors[name])
    return torch_output, StageParity(difference, errors[worst], worst)


def _mismatch(name: str, error: float, tolerance: float) -> ArtifactError:
    return ArtifactError(
        f"ONNX Runtime computes {name} differently from the artifact, with a relative error of {error:.1e} where "
        f"{tolerance:.0e} is allowed; nothing was exported, use --no-check to export all the same."
    )


def _layer_errors(
    parts: _Parts, nodes: Sequence[NodeProto], feeds: dict[str, NDArray[Any]], layers: Sequence[str], records: _Records
) -> Iterator[float]:
    """Largest relative error of each layer, which reads its input in PyTorch under a new name."""
    tensors = dict(feeds)
    renamed = {}
    for layer in layers:
        for tensor, value in zip(parts.g.layers[layer].inputs, records[layer][0], strict=True):
            renamed[tensor] = f"{tensor}/torch"
            tensors[renamed[tensor]] = parts.graph_value(tensor, value)
    isolated_nodes = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [renamed.get(name, name) for name in node.input]
        isolated_nodes.append(copy)
    outputs = [parts.g.layers[layer].output for layer in layers]
    for layer, computed in zip(layers, parts.run(isolated_nodes, tensors, outputs), strict=True):
        traced = parts.g.layers[layer]
        expected = parts.graph_value(traced.output, records[layer][1]) * np.float32(traced.factor)
        if expected.ndim > computed.ndim:  # the patch embedding, a linear layer in the graph
            expected = expected.reshape(*expected.shape[:2], -1).swapaxes(1, 2)
        yield _largest_error(computed, expected)


_Records = dict[str, tuple[tuple[NDArray[Any], ...], NDArray[Any]]]


@contextmanager
def _recorded(clip: CLIP, layers: Iterable[str]) -> Iterator[_Records]:
    """Inputs and output of modules, by name, after the block has run them."""
    records: _Records = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            records[name] = tuple(x.numpy() for x in inputs), output.numpy()

        return hook

    handles = [clip.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _read_rows(clip: CLIP, tower: str, inputs: Tensor) -> NDArray[Any]:
    """The row of each sample that a transformer's head reads."""
    rows = clip.tower(tower).read_rows(inputs)
    return np.zeros(len(inputs), np.int64) if rows is None else rows.numpy()


class _Parts:
    """Parts of a graph as separate models.

    Args:
        whole: The file.
        g: What the file was written from.
        rows: The row of each sample that the head reads.
        wide_sums: Avoid 16-bit sums of products.
    """

    def __init__(self, whole: ModelProto, g: Graph, rows: NDArray[Any], wide_sums: bool) -> None:
        self.whole, self.g, self.rows, self.wide_sums = whole, g, rows, wide_sums
        self.writer = {name: node for node in whole.graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in whole.graph.initializer}
        graph = whole.graph
        self.infos = {info.name: info for info in [*graph.input, *graph.output, *graph.value_info]}
        # Up to the last state, whatever is computed from one row has one row.
        self.single_row_tensors = set(g.rows)
        for node in self.nodes_between((), g.states[-1].name):
            if self.single_row_tensors.intersection(node.input):
                self.single_row_tensors.update(node.output)

    def graph_value(self, tensor: str, value: NDArray[Any]) -> NDArray[Any]:
        """The part of a value [N, ..., rows, C] of PyTorch that a tensor of the graph holds."""
        if tensor not in self.single_row_tensors:
            return value
        return np.take_along_axis(value, self.rows.reshape(-1, *[1] * (value.ndim - 1)), axis=-2)

    def nodes_between(self, inputs: Iterable[str], output: str) -> list[NodeProto]:
        """The nodes that lead from `inputs` to `output`, in order."""
        needed, open_ends = set(), [output]
        while open_ends:
            tensor = open_ends.pop()
            if tensor not in inputs and tensor in self.writer and self.writer[tensor].name not in needed:
                needed.add(self.writer[tensor].name)
                open_ends.extend(self.writer[tensor].input)
        return [node for node in self.whole.graph.node if node.name in needed]

    def run(
        self, nodes: Sequence[NodeProto], inputs: dict[str, NDArray[Any]], outputs: Sequence[str]
    ) -> list[NDArray[Any]]:
        """What ONNX Runtime computes from `inputs` with some of the nodes."""
        return run(open_session(self.model(nodes, inputs, outputs), wide_sums=self.wide_sums), inputs)

    def model(self, nodes: Sequence[NodeProto], inputs: dict[str, NDArray[Any]], outputs: Sequence[str]) -> bytes:
        used = dict.fromkeys(name for node in nodes for name in node.input)
        graph = helper.make_graph(
            list(nodes),
            "part",
            [self.infos.get(name) or _info(name, value) for name, value in inputs.items()],
            [self.infos.get(name) or helper.make_empty_tensor_value_info(name) for name in outputs],
            [self.constants[name] for name in used if name in self.constants],
        )
        part = helper.make_model(graph, opset_imports=self.whole.opset_import, ir_version=self.whole.ir_version)
        return part.SerializeToString()


def _info(name: str, value: NDArray[Any]) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * value.ndim)


def _rms(x: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def _largest_error(computed: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(computed - expected).max() / max(np.abs(expected).max(), 1e-30))

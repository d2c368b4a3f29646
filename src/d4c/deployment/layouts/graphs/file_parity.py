"""Checks that a file of a layout computes what the towers do that were compared with PyTorch.

The nodes are the same, but shapes may be fixed, so that a runtime may fuse others: a sum in another order moves a code
across a rounding boundary now and then (see `d4c.deployment.onnx.parity`). So what is compared is the whole embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d4c.deployment.layouts.graphs.graph_file import Form, GraphFile, Ports
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity import probes
from d4c.deployment.onnx.parity_sessions import INTEGER_KERNELS, kernels, open_session, run
from d4c.deployment.saturating import saturating_layers
from d4c.errors import ArtifactError
from d4c.models.clip import CLIP
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.runtime import processor
from d4c.zeroshot.classification import unit_rows

LEAST_COSINE: dict[Form, float] = {
    "integers": 0.98,
    "weights": 0.9999,
    "weights16": 0.999,
    "float32": 0.9999,
    "float16": 0.999,
}
"""Smallest cosine between an embedding of the file and what it is compared with, by form."""
KERNELS: dict[Form, set[str]] = {"integers": INTEGER_KERNELS}
"""The nodes that quantized products should be, where not MatMulNBits."""

Arrays = dict[str, NDArray[Any]]
Embeddings = dict[str, NDArray[Any]]
"""Embeddings of `probes`, by tower."""


@dataclass(frozen=True)
class FileParity:
    """How a file compares with the towers.

    Args:
        form: How the file computes.
        cosine_min: Smallest cosine between embeddings of both.
        packed_layers: Number of quantized products that run in integers, or from packed weights.
        float_layers: Those that do not, with the type of their node.
    """

    form: Form
    cosine_min: float
    packed_layers: int
    float_layers: dict[str, str]

    def summary(self) -> str:
        """Return one line for the command line."""
        layers = self.packed_layers + len(self.float_layers)
        how = "in integers" if self.form == "integers" else "from packed weights"
        products = f"; {self.packed_layers} of {layers} quantized products run {how}" if layers else ""
        return f"embeddings of the towers (cosine {self.cosine_min:.4f} or more){products}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form."""
        return asdict(self)


def needs_wide_sums(clip: CLIP) -> bool:
    """Whether ONNX Runtime has to avoid 16-bit sums of products for this model on this processor."""
    return bool(saturating_layers(clip)) and processor.saturates("onnxruntime")


def graph_embeddings(clip: CLIP, folder: Path) -> Embeddings:
    """Return what image.onnx and text.onnx of the target "onnx" compute from `probes`."""
    wide_sums = needs_wide_sums(clip)
    return {
        tower: run(open_session(folder / f"{tower}.onnx", wide_sums=wide_sums), {name: probes(clip, tower).numpy()})[0]
        for tower, name in {"image": "pixels", "text": "tokens"}.items()
        if tower in clip.towers
    }


@torch.no_grad()
def float_embeddings(clip: CLIP) -> Embeddings:
    """Return what PyTorch computes from `probes` if activations are not quantized."""
    quantizers = [module for module in clip.modules() if isinstance(module, ActivationQuantizer)]
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        return {tower: clip.tower(tower)(probes(clip, tower)).numpy() for tower in clip.towers}
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True


def check_file(path: Path, graph: Graph, file: GraphFile, clip: CLIP, reference: Embeddings) -> FileParity:
    """Compare a file with the towers.

    Args:
        path: The file.
        graph: What it was written from.
        file: Its towers, ports and form.
        clip: The model in PyTorch.
        reference: What `graph_embeddings` or, for other forms than integers, `float_embeddings` returns.

    Returns:
        The comparison.

    Raises:
        ArtifactError: The file computes something else.
    """
    wide_sums = file.form == "integers" and needs_wide_sums(clip)
    inputs = {tower: probes(clip, tower).numpy() for tower in file.towers}
    session = open_session(path, wide_sums=wide_sums)
    outputs = run_file(session, file.ports, inputs, clip.config.text.context_length)
    expected = {tower: reference[tower] for tower in file.towers}
    cosine = _check_embeddings(path, file, expected, outputs, clip)
    nodes = kernels(path, graph.products, wide_sums=wide_sums)
    packed = KERNELS.get(file.form, {"MatMulNBits"})
    in_float = {layer: kind for layer, kind in nodes.items() if kind not in packed}
    return FileParity(file.form, cosine, len(nodes) - len(in_float), in_float)


def run_file(session: Any, ports: Ports, inputs: Mapping[str, NDArray[Any]], context: int) -> Arrays:
    """Run a session of a layout's file on pictures and prompts of any number.

    Args:
        session: An ONNX Runtime session.
        ports: Its inputs and outputs; where a batch is fixed, rows are run one by one.
        inputs: Pixels as "image", tokens as "text".
        context: Length that prompts are padded to where it is fixed.

    Returns:
        The outputs by name.
    """
    feeds = padded_feeds(ports, inputs, context)
    names = [output.name for output in session.get_outputs()]
    if isinstance(ports.image_batch, int):
        ((name, rows),) = feeds.items()
        results = [run(session, {name: row[None]}) for row in rows]
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*results, strict=True), strict=True)}
    return dict(zip(names, run(session, feeds), strict=True))


def padded_feeds(ports: Ports, inputs: Mapping[str, NDArray[Any]], context: int) -> Arrays:
    """Return pictures and prompts by the names of their ports, and prompts in the type and length that these have."""
    feeds: Arrays = {}
    if "image" in inputs:
        feeds[ports.pixels] = inputs["image"]
    if "text" in inputs:
        tokens = inputs["text"].astype(ports.ids)
        if isinstance(ports.length, int):
            tokens = np.pad(tokens, ((0, 0), (0, context - tokens.shape[1])))
        feeds[ports.tokens] = tokens
    return feeds


def _check_embeddings(path: Path, file: GraphFile, expected: Embeddings, outputs: Arrays, clip: CLIP) -> float:
    """The smallest cosine of all embeddings; raises ArtifactError where outputs are not what they should be."""
    ports, least = file.ports, LEAST_COSINE[file.form]
    units = {tower: unit_rows(values) for tower, values in expected.items()}
    cosines = []
    for tower, values in expected.items():
        output = outputs[{"image": ports.image, "text": ports.text}[tower]]
        lengths = np.linalg.norm(output, axis=-1)
        target = np.ones_like(lengths) if ports.unit_length else np.linalg.norm(values, axis=-1)
        cosine = float((unit_rows(output) * units[tower]).sum(-1).min())
        if not (cosine >= least and np.allclose(lengths, target, rtol=0.2)):
            raise different("ONNX Runtime", path, f"the embedding of the {tower} tower", f"cosine {cosine:.4f}")
        cosines.append(cosine)
    if len(expected) > 1:
        logits = clip.logit_scale * units["image"] @ units["text"].T + (clip.logit_bias or 0)
        error = float(np.abs(outputs["logits_per_image"] - logits).max() / clip.logit_scale)
        transposed = np.array_equal(outputs["logits_per_image"].T, outputs["logits_per_text"])
        if not (error <= 1 - least and transposed):
            raise different("ONNX Runtime", path, "logits", f"cosines differ by {error:.4f}")
    return min(cosines)


def different(runtime: str, path: Path, what: str, how: str) -> ArtifactError:
    """Return the error for a file of which a runtime computes something else."""
    return ArtifactError(
        f"{runtime} computes {what} of {path.name} differently from the towers ({how}); nothing was exported, use "
        "--no-check to export all the same."
    )

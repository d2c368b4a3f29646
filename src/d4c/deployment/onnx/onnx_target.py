"""The export target "onnx": image.onnx and text.onnx, whose inputs and outputs `tower_graphs` describes."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.target import ANY_FAMILY, ExportOptions, Parity, Target, Written
from d4c.models.inputs.reader_files import files_of
from d4c.progress import Progress, parts
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

LIBRARIES = {"onnx": "onnx", "onnxruntime": "onnx"}
"""The extra that installs each module that writing and checking a graph takes."""


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the towers as graphs and compare each layer and each block with PyTorch in ONNX Runtime.

    Args:
        clip: The artifact in PyTorch.
        folder: Empty folder to write into.
        options: Whether to store int8 weights, to round the token table to 4 bits, and to compare.
        progress: Called with (thousandths done, 1000).

    Returns:
        Settings for export.json, and the parity by tower.

    Raises:
        ArtifactError: ONNX Runtime computes something else.
    """
    # Imported here: onnx is an extra and torch takes a second, and the table of targets needs neither.
    from d4c.deployment.onnx.graph import OPSET
    from d4c.deployment.onnx.parity import check_tower
    from d4c.deployment.onnx.token_table import in_torch, narrow_table
    from d4c.deployment.onnx.tower_graphs import image_graph, text_graph
    from d4c.quantization.quantized import QuantizedCLIP

    assert isinstance(clip, QuantizedCLIP), "a target that takes no float model gets none"
    parity: dict[str, Parity] = {}
    for tower, progress_of_tower in zip(clip.towers, parts(progress, [1] * len(clip.towers)), strict=True):
        narrow = narrow_table(clip) if tower == "text" and options.narrow_table else None
        graph = image_graph(clip, options.unpacked) if tower == "image" else text_graph(clip, options.unpacked, narrow)
        file = folder / f"{tower}.onnx"
        file.write_bytes(graph.model(__version__, options.origin).SerializeToString())
        if options.check:
            with in_torch(clip, narrow) if narrow else nullcontext():
                parity[tower] = check_tower(file, graph, clip, tower, progress_of_tower)
        progress_of_tower(1, 1)
    for name in files_of(clip.config):
        shutil.copyfile(options.readers / name, folder / name)
    return Written({"opset": OPSET, "unpacked": options.unpacked}, parity if options.check else None)


ONNX = Target(
    name="onnx",
    summary="d4c's own runtime, in ONNX Runtime and OpenVINO",
    libraries=LIBRARIES,
    write=write,
    takes=("--narrow-table",),
    families=ANY_FAMILY,
)

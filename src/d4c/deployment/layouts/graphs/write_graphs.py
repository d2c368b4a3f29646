"""Writes the ONNX files of a layout and compares each with the towers, which are compared with PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from d4c.deployment.layouts.graphs.file_parity import check_file
from d4c.deployment.layouts.graphs.graph_file import GraphFile
from d4c.deployment.layouts.graphs.port_graph import port_graph
from d4c.deployment.onnx import onnx_target
from d4c.deployment.onnx.graph import OPSET
from d4c.deployment.target import ExportOptions, Parity, Written
from d4c.errors import SettingError
from d4c.progress import Progress, parts
from d4c.quantization.quantized import QuantizedCLIP
from d4c.version import __version__


def write_graphs(
    clip: QuantizedCLIP, folder: Path, files: Sequence[GraphFile], options: ExportOptions, progress: Progress
) -> Written:
    """Write the graphs of a layout.

    Args:
        clip: The artifact in PyTorch.
        folder: Where their paths begin.
        files: What to write.
        options: Whether to store int8 weights and whether to compare.
        progress: Called with (thousandths done, 1000).

    Returns:
        Settings for export.json, and the parity by tower and by file.

    Raises:
        ArtifactError: ONNX Runtime computes something else.
        SettingError: The towers are not those of a CLIP.
    """
    if clip.config.text.every_position_counts:
        raise SettingError(
            f"{clip.name!r} is a SigLIP or of its kind, expected a CLIP as transformers knows it, since no other "
            "files are written for other tools; export without --for."
        )
    parity: dict[str, Parity] = {}
    progress_of_towers, progress_of_files = parts(progress, [3, 1])
    with tempfile.TemporaryDirectory() as scratch:
        towers = Path(scratch)
        if options.check:
            parity.update(onnx_target.write(clip, towers, options, progress_of_towers).parity or {})
        for done, file in enumerate(files, 1):
            graph, path = port_graph(clip, file, options.unpacked), folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(graph.model(__version__, options.origin).SerializeToString())
            if options.check:
                parity[file.path] = check_file(path, graph, file, clip, towers)
            progress_of_files(done, len(files))
    return Written({"opset": OPSET, "unpacked": options.unpacked}, parity if options.check else None)

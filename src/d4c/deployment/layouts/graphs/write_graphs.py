"""Writes the ONNX files of a layout and compares each with the towers, which are compared with PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d4c.deployment.layouts.graphs.changed_files import changed
from d4c.deployment.layouts.graphs.file_parity import Embeddings, check_file, float_embeddings, graph_embeddings
from d4c.deployment.layouts.graphs.graph_file import Form, GraphFile
from d4c.deployment.layouts.graphs.port_graph import port_graph
from d4c.deployment.onnx import onnx_target
from d4c.deployment.onnx.graph import OPSET
from d4c.deployment.onnx.token_table import narrow_table
from d4c.deployment.target import ExportOptions, Parity, Written
from d4c.models.clip import CLIP
from d4c.progress import Progress, parts
from d4c.version import __version__


def write_graphs(
    clip: CLIP, folder: Path, files: Sequence[GraphFile], options: ExportOptions, progress: Progress
) -> Written:
    """Write the graphs of a layout.

    Args:
        clip: The artifact in PyTorch, or a float model.
        folder: Where their paths begin.
        files: What to write.
        options: How to change it, and whether to compare.
        progress: Called with (thousandths done, 1000).

    Returns:
        Settings for export.json, and the parity by tower and by file.

    Raises:
        ArtifactError: ONNX Runtime computes something else.
        SettingError: No file is as asked for.
    """
    parity: dict[str, Parity] = {}
    progress_of_towers, progress_of_files = parts(progress, [3, 1])
    chosen = changed(files, options, clip.config.text.context_length)
    needs_table = options.narrow_table and any("text" in file.towers for file in chosen)
    narrow = narrow_table(clip) if needs_table else None
    with tempfile.TemporaryDirectory() as scratch:
        references: dict[Form, Embeddings] = {}
        if options.check and options.half is None:
            whole_table = replace(options, narrow_table=False)
            parity.update(onnx_target.write(clip, Path(scratch), whole_table, progress_of_towers).parity or {})
            references["integers"] = graph_embeddings(clip, Path(scratch))
        for done, file in enumerate(chosen, 1):
            graph, path = port_graph(clip, file, options.unpacked, narrow), folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(graph.model(__version__, options.origin).SerializeToString())
            if options.check:
                if file.form not in references:
                    references[file.form] = float_embeddings(clip)
                parity[file.path] = check_file(path, graph, file, clip, references[file.form])
            progress_of_files(done, len(chosen))
    return Written({"opset": OPSET, "unpacked": options.unpacked}, parity if options.check else None)

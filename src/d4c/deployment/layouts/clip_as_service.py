"""The layout of clip-as-service, `CLIPEncoder(NAME, model_path=FOLDER)` under the name of a model that it knows.

visual.onnx     pixel_values -> one output
textual.onnx    input_ids, int32 -> one output
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import SHAPES, ExportOptions, Target, Written
from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

PORTS = Ports(ids="int32")
FILES = (GraphFile("visual.onnx", ("image",), PORTS), GraphFile("textual.onnx", ("text",), PORTS))


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs

    return write_graphs(clip, folder, FILES, options, progress)


CLIP_AS_SERVICE = Target("clip-as-service", "clip-as-service", LIBRARIES, write, SHAPES)

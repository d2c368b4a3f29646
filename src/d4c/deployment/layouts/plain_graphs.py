"""A layout for code of your own: a graph per tower, with every choice of inputs and outputs.

    image.onnx    pixel_values -> image_embeds
    text.onnx     input_ids -> text_embeds
    tokenizer.json, tokenizer_config.json, preprocessor_config.json

The graph of a tower alone has no other beside it, and also gives penultimate_hidden_state and last_hidden_state.
With `webgpu` also image_q4.onnx, image_q4f16.onnx and so on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import Form, GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import ANY_FAMILY, SHAPES, ExportOptions, Target, Written
from d4c.models.inputs.reader_files import files_of
from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

FORMS: dict[str, Form] = {"": "integers"}
WEBGPU: dict[str, Form] = {"_q4": "weights", "_q4f16": "weights16"}
"""How graphs compute, by the end of their names."""


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs

    forms = FORMS | WEBGPU if options.webgpu else FORMS
    files = [
        GraphFile(f"{tower}{suffix}.onnx", (tower,), Ports(), form)
        for suffix, form in forms.items()
        for tower in clip.towers
    ]
    for name in files_of(clip.config):
        shutil.copyfile(options.readers / name, folder / name)
    return write_graphs(clip, folder, files, options, progress)


GRAPHS = Target("graphs", "code of your own", LIBRARIES, write, (*SHAPES, "--webgpu"), ANY_FAMILY)

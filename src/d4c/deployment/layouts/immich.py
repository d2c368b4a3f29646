"""The layout of immich's machine learning, for its cache: CACHE/clip/NAME, where NAME is a model that it lists.

config.json                          the model in the words of open_clip
visual/model.onnx                    image float32 [1, 3, S, S] -> embedding [1, D] of unit length
visual/preprocess_cfg.json           how pictures are read
textual/model.onnx                   text int32 [1, L] -> embedding [1, D] of unit length
textual/tokenizer.json, textual/tokenizer_config.json
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import CLIP_AND_SIGLIP, SHAPES, ExportOptions, Target, Written
from d4c.models.inputs.tokenizer_files import FILES as TOKENIZER_FILES
from d4c.progress import Progress
from d4c.storage.files import write_json

if TYPE_CHECKING:
    from d4c.models.clip import CLIP


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs
    from d4c.deployment.layouts.records.open_clip import model_config, preprocess_config

    length = clip.config.text.context_length
    ports = Ports("image", "text", "embedding", "embedding", "int32", True, 1, 1, length)
    files = (GraphFile("visual/model.onnx", ("image",), ports), GraphFile("textual/model.onnx", ("text",), ports))
    written = write_graphs(clip, folder, files, options, progress)
    write_json(folder / "config.json", model_config(clip))
    if options.tower != "text":
        write_json(folder / "visual" / "preprocess_cfg.json", preprocess_config(clip))
    for name in TOKENIZER_FILES if options.tower != "image" else ():
        shutil.copyfile(options.readers / name, folder / "textual" / name)
    return written


IMMICH = Target("immich", "immich", LIBRARIES, write, SHAPES, CLIP_AND_SIGLIP)

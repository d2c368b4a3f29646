"""The layout of optimum-intel: graphs of OpenVINO, which it reads without ONNX.

`OVModelForZeroShotImageClassification` reads one file of both towers, with the four outputs of transformers:

    openvino_model.xml, .bin           input_ids, pixel_values
    config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json

`OVModelOpenCLIPForZeroShotImageClassification(init_logit_scale=log_scale)` reads one file per tower:

    openvino_model_text.xml, .bin      text -> text_features
    openvino_model_vision.xml, .bin    x -> image_features
    open_clip_config.json              the model and its preprocessing in the words of open_clip
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import JOINT, GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import SHAPES, ExportOptions, Parity, Target, Written
from d4c.progress import Progress, parts
from d4c.storage.files import write_json

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

OPEN_CLIP = Ports("x", "text", "image_features", "text_features")
FILES = (
    GraphFile("openvino_model.onnx", ("image", "text"), JOINT),
    GraphFile("openvino_model_vision.onnx", ("image",), OPEN_CLIP),
    GraphFile("openvino_model_text.onnx", ("text",), OPEN_CLIP),
)
"""The graphs before they are converted."""


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.changed_files import changed
    from d4c.deployment.layouts.graphs.openvino_parity import check_in_openvino, convert
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs
    from d4c.deployment.layouts.records.hugging_face import save_processor
    from d4c.deployment.layouts.records.open_clip import model_config, preprocess_config

    save_processor(options.readers, folder, clip)
    described = {"model_cfg": model_config(clip), "preprocess_cfg": preprocess_config(clip)}
    write_json(folder / "open_clip_config.json", described)
    progress_of_graphs, progress_of_files = parts(progress, [4, 1])
    with tempfile.TemporaryDirectory() as scratch:
        graphs = Path(scratch)
        files = changed(FILES, options, clip.config.text.context_length)
        written = write_graphs(clip, graphs, files, options, progress_of_graphs)
        parity: dict[str, Parity] = dict(written.parity or {})
        for done, file in enumerate(files, 1):
            path = (folder / file.path).with_suffix(".xml")
            convert(graphs / file.path, path, options.origin, convolutions=options.without_vnni)
            if options.check:
                parity[path.name] = check_in_openvino(path, graphs / file.path, file, clip)
            progress_of_files(done, len(files))
    return replace(written, parity=parity if options.check else None)


OPENVINO = Target(
    "openvino", "optimum-intel", {**LIBRARIES, "openvino": "openvino"}, write, (*SHAPES, "--without-vnni")
)

"""The layout of optimum, `ORTModelForZeroShotImageClassification`: one file of both towers with four outputs.

config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json
model.onnx    input_ids, pixel_values -> logits_per_image, logits_per_text, text_embeds, image_embeds
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import JOINT, GraphFile
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import CLIP_AND_SIGLIP, SHAPES, ExportOptions, Target, Written
from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

FILES = (GraphFile("model.onnx", ("image", "text"), JOINT),)


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs
    from d4c.deployment.layouts.records.hugging_face import save_processor

    save_processor(options.readers, folder, clip)
    return write_graphs(clip, folder, FILES, options, progress)


OPTIMUM = Target("optimum", "optimum-onnx", LIBRARIES, write, SHAPES, CLIP_AND_SIGLIP)

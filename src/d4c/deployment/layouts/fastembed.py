"""The layout of fastembed: a folder for each tower, which `specific_model_path` names.

    image/   model.onnx: pixel_values -> image_embeds;  preprocessor_config.json
    text/    model.onnx: input_ids -> text_embeds;  config.json, tokenizer.json, tokenizer_config.json,
             special_tokens_map.json

`ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=...)` divides by the length itself,
`TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path=...)` does not, with its own models neither.

Of a SigLIP both towers lie in one folder, for the name "google/siglip2-base-patch16-224" of both classes:

    onnx/vision_model.onnx: pixel_values -> pooler_output;  onnx/text_model.onnx: input_ids -> pooler_output
    config.json, tokenizer.json, tokenizer_config.json, preprocessor_config.json
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import POOLED, GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import CLIP_AND_SIGLIP, SHAPES, ExportOptions, Target, Written
from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

FILES = (GraphFile("image/model.onnx", ("image",), Ports()), GraphFile("text/model.onnx", ("text",), Ports()))
SIGLIP_FILES = (
    GraphFile("onnx/vision_model.onnx", ("image",), POOLED),
    GraphFile("onnx/text_model.onnx", ("text",), POOLED),
)


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs
    from d4c.deployment.layouts.records.hugging_face import save_processor, save_special_tokens

    if not clip.config.has_plain_towers:
        save_processor(options.readers, folder, clip)
        return write_graphs(clip, folder, SIGLIP_FILES, options, progress)
    written = write_graphs(clip, folder, FILES, options, progress)
    for tower in ("image", "text") if options.tower is None else (options.tower,):
        save_processor(options.readers, folder / tower, clip)
        save_special_tokens(folder / tower)
    return written


FASTEMBED = Target("fastembed", "fastembed", LIBRARIES, write, SHAPES, CLIP_AND_SIGLIP)

"""The layout of transformers.js, in Node and in browsers: one file per tower, and one of both for pipelines.

    config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json
    onnx/model_q4.onnx           input_ids, pixel_values -> logits_per_image, logits_per_text, text_embeds, image_embeds
    onnx/text_model_q4.onnx      input_ids -> text_embeds
    onnx/vision_model_q4.onnx    pixel_values -> image_embeds

The end of a name is what the library calls a type: "q4" here where most weights have 4 bits or fewer, or "quantized"
("q8"). config.json says which, so that `from_pretrained` needs no `dtype`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from d4c.deployment.layouts.graphs.graph_file import JOINT, GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import ExportOptions, Target, Written
from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.quantization.quantized import QuantizedCLIP

SUFFIXES = {"q4": "_q4", "q8": "_quantized"}
"""Ends of file names, by the `dtype` of transformers.js."""


def write(clip: QuantizedCLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs
    from d4c.deployment.layouts.records.hugging_face import save_processor

    dtype = dtype_of(clip)
    suffix = SUFFIXES[dtype]
    files = (
        GraphFile(f"onnx/model{suffix}.onnx", ("image", "text"), JOINT),
        GraphFile(f"onnx/vision_model{suffix}.onnx", ("image",), Ports()),
        GraphFile(f"onnx/text_model{suffix}.onnx", ("text",), Ports()),
    )
    save_processor(options.readers, folder, clip, **{"transformers.js_config": {"dtype": dtype}})
    return write_graphs(clip, folder, files, options, progress)


def dtype_of(clip: QuantizedCLIP) -> str:
    """Return "q4" if most weights of layers that multiply have at most 4 bits, "q8" otherwise."""
    from d4c.quantization.layers.quantized_weight import QuantizedEmbedding

    weights: Counter[bool] = Counter()
    for layer in clip.layers().values():
        if isinstance(layer, QuantizedEmbedding):
            continue
        weights[layer.weight_args.num_bits <= 4] += layer.stored_weights()
    return "q4" if weights[True] > weights[False] else "q8"


TRANSFORMERS_JS = Target(
    name="transformers.js",
    summary="transformers.js in Node and browsers",
    libraries=LIBRARIES,
    write=write,
)

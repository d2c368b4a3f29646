"""The layout of transformers.js, in Node and in browsers: one file per tower, and one of both for pipelines.

    config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json
    onnx/model_q4.onnx           input_ids, pixel_values -> logits_per_image, logits_per_text, text_embeds, image_embeds
    onnx/text_model_q4.onnx      input_ids -> text_embeds
    onnx/vision_model_q4.onnx    pixel_values -> image_embeds

A SigLIP's embedding of one tower is called pooler_output, as in its class there.

The end of a name is what the library calls a type: "q4" here where most weights have 4 bits or fewer, or "quantized"
("q8"). config.json says which, so that `from_pretrained` needs no `dtype`. With `webgpu`, "q4" and "q4f16" are for
GPUs, as in other repositories, and the integers are "q8". The library's runtime in browsers has no 4-bit types, so that
4-bit codes are stored two to a byte.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4c.deployment.layouts.graphs.graph_file import JOINT, POOLED, Form, GraphFile, Ports
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.deployment.target import CLIP_AND_SIGLIP, SHAPES, ExportOptions, Target, Written
from d4c.progress import Progress

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

SUFFIXES = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}
"""Ends of file names, by the `dtype` of transformers.js."""
WEBGPU: dict[str, Form] = {"q4": "weights", "q4f16": "weights16"}
"""The files for WebGPU, by `dtype`; integers are called "q8" beside them."""


def write(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress) -> Written:
    """Write the files; see `d4c.deployment.target.Write`."""
    from d4c.deployment.layouts.graphs.write_graphs import write_graphs
    from d4c.deployment.layouts.records.hugging_face import save_processor

    dtype = "q8" if options.webgpu else dtype_of(clip, options.half)
    ports = Ports() if clip.config.has_plain_towers else POOLED
    files = graph_files(dtype, "integers", ports)
    settings: dict[str, Any] = {"dtype": dtype}
    if options.webgpu:
        files += [file for name, form in WEBGPU.items() for file in graph_files(name, form, ports)]
        settings["device_config"] = {"webgpu": {"dtype": "q4"}}
    save_processor(options.readers, folder, clip, **{"transformers.js_config": settings})
    return write_graphs(clip, folder, files, options, progress)


def graph_files(dtype: str, form: Form, ports: Ports) -> list[GraphFile]:
    """Return the files of a `dtype`; `ports` are those of one tower."""
    suffix = SUFFIXES[dtype]
    return [
        GraphFile(f"onnx/model{suffix}.onnx", ("image", "text"), JOINT, form, bytes_only=True),
        GraphFile(f"onnx/vision_model{suffix}.onnx", ("image",), ports, form, bytes_only=True),
        GraphFile(f"onnx/text_model{suffix}.onnx", ("text",), ports, form, bytes_only=True),
    ]


def dtype_of(clip: CLIP, half: bool | None) -> str:
    """Return "q4" if most weights of products have 4 bits or fewer, "q8" if not; or the type of a float model."""
    from d4c.quantization.layers.quantized_weight import QuantizedEmbedding, weighted_layers

    if half is not None:
        return "fp16" if half else "fp32"
    weights: Counter[bool] = Counter()
    for layer in weighted_layers(clip).values():
        if isinstance(layer, QuantizedEmbedding):
            continue
        weights[layer.weight_args.num_bits <= 4] += layer.stored_weights()
    return "q4" if weights[True] > weights[False] else "q8"


TRANSFORMERS_JS = Target(
    name="transformers.js",
    summary="transformers.js in Node and browsers",
    libraries=LIBRARIES,
    write=write,
    takes=(*SHAPES, "--webgpu"),
    families=CLIP_AND_SIGLIP,
)

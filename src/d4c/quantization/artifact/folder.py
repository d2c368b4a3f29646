"""The artifact on disk: packed integers in safetensors, with everything that is needed to use them.

config.json              architecture, `quantization_config` (formats of every layer), recipe, sizes and hashes of the
                         other files, and the checksum of all that
model.safetensors        <layer>.weight_packed, .weight_scale, .weight_zero_point, .bias, .input_scale,
                         .input_zero_point (of a product or sum of two activations: .a.* and .b.*), .loud_scale and
                         .loud_zero_point of a layer with loud channels, .class_token_scale and
                         .class_token_zero_point of one with a range for the class token, and what stays float
tokenizer.json, tokenizer_config.json (of a text tower), preprocessor_config.json (of an image tower), README.md

Loading checks hashes, and names, shapes and types against what config.json announces, before it reads a tensor.
"""

from __future__ import annotations

from pathlib import Path

from d4c.errors import ArtifactError
from d4c.reading.json_file import read_json
from d4c.reading.schema import OneOf, Record, check

FORMAT_VERSION = 1
KIND = "quantized model"
"""What the manifest of an artifact calls it."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
IS_OURS = Record({"quantization_config": Record({"quant_method": OneOf(("d4c",))})})


def is_artifact(folder: Path) -> bool:
    """Whether `write_artifact` wrote this folder, by its config.json."""
    try:
        check(read_json(folder / CONFIG, ArtifactError, ""), IS_OURS, "", ArtifactError, "")
    except ArtifactError:
        return False
    return True


def range_prefix(quantizer: str) -> str:
    """What the names of an activation quantizer's tensors begin with, from its name in the model.

    A layer's own quantizer is stored as <layer>.input_scale, that of its loud channels as <layer>.loud_scale, that of
    the class token as <layer>.class_token_scale, the two of a pair as <pair>.a.scale.
    """
    for part, prefix in (("", ".input_"), (".loud", ".loud_"), (".class_token", ".class_token_")):
        if quantizer.endswith(end := f".input_quantizer{part}"):
            return quantizer.removesuffix(end) + prefix
    return f"{quantizer}."

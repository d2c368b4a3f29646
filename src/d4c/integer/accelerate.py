"""`accelerate`: turns a quantized CLIP into one that computes in integers on a GPU."""

from __future__ import annotations

import copy

import torch
from torch import nn

from d4c.errors import SettingError
from d4c.integer.integer_tower import has_integer_form, to_integer
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.layers import MatMul
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.quantized import QuantizedCLIP


def accelerate(quantized: QuantizedCLIP, dtype: torch.dtype | None = None) -> CLIP:
    """Make a CLIP with the same interface whose transformers multiply int8 by int8 on the device's integer units.

    On a GPU with Triton a product and what directly follows it are one kernel, whose tiles the first call of a shape
    chooses. Embeddings agree with the artifact's up to the rounding of `dtype` and an unquantized softmax. A float
    tower stays as it is.

    Args:
        quantized: The artifact.
        dtype: Type between the products, by default bf16 on GPUs and float32 elsewhere.

    Returns:
        The CLIP, on the device of the artifact.

    Raises:
        SettingError: The image tower is a quantized ResNet, overrides left layers of a quantized tower float, or the
            artifact is of track "paper".
    """
    if _is_quantized(quantized.image) and not has_integer_form(quantized.image):
        kind = type(quantized.image).__name__
        raise SettingError(
            f"{quantized.name!r} has a {kind} image tower, and only transformers have integer products on GPUs here; "
            "export it and use runtime='onnxruntime' or 'openvino', or runtime='torch'."
        )
    if quantized.recipe["track"] != "paper" and (left := _float_layers(quantized)):
        raise SettingError(
            f"Overrides left {left[0]} of {quantized.name!r} float ({len(left)} in all), and integer products on GPUs "
            "take whole towers; export it and use runtime='onnxruntime' or 'openvino', or runtime='torch'."
        )
    on_gpu = quantized.device.type == "cuda"
    between_products = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    model = CLIP(
        quantized.config,
        quantized.name,
        image=copy.deepcopy(quantized.image),
        text=copy.deepcopy(quantized.text),
        log_logit_scale=quantized.log_logit_scale,
        sigmoid_bias=quantized.sigmoid_bias,
        tokenizer=quantized.tokenizer,
    )
    for tower in (model.image, model.text):
        if not _is_quantized(tower):
            continue
        to_integer(tower, between_products)
    return model.eval().requires_grad_(False)


def _float_layers(quantized: QuantizedCLIP) -> list[str]:
    """The products that stayed float in quantized towers."""
    towers = [name for name in TOWERS if _is_quantized(quantized.tower(name))]
    products = {name: m for name, m in quantized.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | MatMul)}
    return [name for name in products if name.partition(".")[0] in towers]


def _is_quantized(tower: nn.Module) -> bool:
    return any(isinstance(module, QuantizedLayer) for module in tower.modules())

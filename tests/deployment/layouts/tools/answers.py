"""What other tools say of pictures and prompts: python answers.py TOOL FOLDER < {"pictures": ..., "prompts": ...}.

Prints {"image": embeddings, "text": embeddings, "logits": [pictures, prompts] or null} as JSON, and needs no d4c where
the tools are installed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from PIL import Image


def optimum(folder: str, pictures: list[str], prompts: list[str]) -> tuple[Any, Any, Any]:
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    return _joint(ORTModelForZeroShotImageClassification.from_pretrained(folder), folder, pictures, prompts)


def openvino(folder: str, pictures: list[str], prompts: list[str]) -> tuple[Any, Any, Any]:
    from optimum.intel import OVModelForZeroShotImageClassification

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = OVModelForZeroShotImageClassification.from_pretrained(folder, ov_config=settings)
    return _joint(model, folder, pictures, prompts)


def openvino_open_clip(folder: str, pictures: list[str], prompts: list[str]) -> tuple[Any, Any, Any]:
    from optimum.intel import OVModelOpenCLIPForZeroShotImageClassification

    with open(f"{folder}/export.json") as file:
        scale = json.load(file)["logit_scale"]
    model = OVModelOpenCLIPForZeroShotImageClassification.from_pretrained(
        folder, init_logit_scale=math.log(scale), ov_config={"INFERENCE_PRECISION_HINT": "f32"}
    )
    return _joint(model, folder, pictures, prompts)


def _joint(model: Any, folder: str, pictures: list[str], prompts: list[str]) -> tuple[Any, Any, Any]:
    """What a model of transformers' kind says, with the processor that lies beside it."""
    import transformers

    reader: Any = transformers.AutoProcessor
    processor = reader.from_pretrained(folder)
    images = [Image.open(path) for path in pictures]
    siglip = model.config.model_type == "siglip"
    padding = "max_length" if siglip else True
    inputs = processor(text=prompts, images=images, return_tensors="pt", padding=padding, truncation=True)
    assert set(inputs) == {"input_ids", "pixel_values"} | (set() if siglip else {"attention_mask"})
    outputs = model(**inputs)
    return (
        outputs.image_embeds.numpy(),
        outputs.text_embeds.detach().numpy(),
        outputs.logits_per_image.detach().numpy(),
    )


def fastembed(folder: str, pictures: list[str], prompts: list[str]) -> tuple[Any, Any, Any]:
    from fastembed import ImageEmbedding, TextEmbedding

    image = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=f"{folder}/image")
    text = TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path=f"{folder}/text")
    return np.array(list(image.embed(pictures))), np.array(list(text.embed(prompts))), None


def fastembed_siglip(folder: str, pictures: list[str], prompts: list[str]) -> tuple[Any, Any, Any]:
    from fastembed import ImageEmbedding, TextEmbedding

    name = "google/siglip2-base-patch16-224"
    image, text = (kind(name, specific_model_path=folder) for kind in (ImageEmbedding, TextEmbedding))
    return np.array(list(image.embed(pictures))), np.array(list(text.embed(prompts))), None


TOOLS: dict[str, Callable[[str, list[str], list[str]], tuple[Any, Any, Any]]] = {
    "optimum": optimum,
    "openvino": openvino,
    "openvino-open-clip": openvino_open_clip,
    "fastembed": fastembed,
    "fastembed-siglip": fastembed_siglip,
}

if __name__ == "__main__":
    tool, folder = sys.argv[1:]
    given = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        image, text, logits = TOOLS[tool](folder, given["pictures"], given["prompts"])
    answer = {"image": image.tolist(), "text": text.tolist(), "logits": None if logits is None else logits.tolist()}
    print(json.dumps(answer))

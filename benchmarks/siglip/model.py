"""The small SigLIP: its shape, its embeddings while it is trained, and its files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.common.torchvision_operators import declare_operators
from benchmarks.siglip.captions import PAD
from benchmarks.siglip.training_data import POSITIONS, SIZE
from d4c.storage.files import atomic_file, write_json

declare_operators()  # which transformers asks for when it is imported
from transformers import SiglipConfig, SiglipModel  # noqa: E402


def new_model(vocabulary: int, pad_id: int) -> SiglipModel:
    """A SigLIP of the demo models' size with random weights."""
    text = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 768}
    text |= {"vocab_size": vocabulary, "max_position_embeddings": POSITIONS, "projection_size": 256}
    text |= {"pad_token_id": pad_id, "bos_token_id": pad_id, "eos_token_id": pad_id}
    image = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=image | {"image_size": SIZE, "patch_size": 8}))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-10)
    return model


def drop_paths(model: SiglipModel, most: float) -> None:
    """Leave out branches of the image tower at random, later blocks more often, while it is trained."""
    layers = model.vision_model.encoder.layers
    for number, layer in enumerate(layers):
        keep = 1 - most * (number + 1) / len(layers)

        def drop(module: nn.Module, _: Any, output: Tensor, keep: float = keep) -> Tensor:
            if not module.training:
                return output
            return output * (torch.rand(len(output), 1, 1, device=output.device) < keep).to(output.dtype) / keep

        layer.self_attn.out_proj.register_forward_hook(drop)
        layer.mlp.fc2.register_forward_hook(drop)


class Towers:
    """Unit embeddings of a `SiglipModel`, computed in bfloat16."""

    def __init__(self, model: SiglipModel, device: str, compiled: bool) -> None:
        def image(pixels: Tensor) -> Tensor:
            return model.vision_model(pixel_values=pixels).pooler_output

        def text(tokens: Tensor) -> Tensor:
            return model.text_model(input_ids=tokens).pooler_output

        self.device = torch.device(device).type
        self._image, self._text = (torch.compile(image), torch.compile(text)) if compiled else (image, text)

    def image(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return F.normalize(self._image(pixels * 2 - 1).float(), dim=-1)

    def text(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return F.normalize(self._text(tokens).float(), dim=-1)


def averaged_of(average: AveragedModel) -> SiglipModel:
    model = average.module
    assert isinstance(model, SiglipModel)
    return model


def save_weights(model: SiglipModel, folder: Path) -> None:
    weights = {key: value.half().contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic_file(folder / "model.safetensors") as file:
        save_file({k: v for k, v in weights.items() if "position_ids" not in k}, file, metadata={"format": "pt"})


def save_reader(model: SiglipModel, tokenizer: str, folder: Path) -> None:
    """Write what a `SiglipModel` needs beside its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict() | {"architectures": ["SiglipModel"], "dtype": "float16"}
    write_json(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    tokens = {"pad_token": PAD, "eos_token": PAD, "unk_token": "<unk>"}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "SiglipTokenizer", **tokens, "model_max_length": POSITIONS},
    )
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "rescale_factor": 1 / 255}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "size": {"height": SIZE, "width": SIZE}}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor", **steps, **pixels})

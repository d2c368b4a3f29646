"""Models to take times of: the embedded ones, and published shapes with random weights."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import d4c
from d4c.calibration.prompts import generic_prompts
from d4c.errors import CheckpointError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.beside.image_processor import HALF
from d4c.models.formats.siglip.siglip_configs import EPS, LAST, LATENT
from d4c.models.inputs.prompt_tokenizers import OwnTokenizer
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig


def siglip(image_size: int, patch: int, width: int, layers: int, heads: int, mlp_width: int) -> CLIPConfig:
    """A SigLIP, whose text tower has the image tower's width."""
    size = (width, layers, heads, mlp_width)
    image = ViTConfig(image_size, patch, *size, "gelu_tanh", norm_eps=EPS, **LATENT)
    text = TextConfig(*size, "gelu_tanh", context_length=64, vocab_size=32000, norm_eps=EPS, **LAST)
    return CLIPConfig(width, image, text, HALF, HALF, "squash", sigmoid=True)


CONFIGS = {
    "ViT-B-32": CLIPConfig(512, ViTConfig(224, 32, 768, 12, 12, 3072), TextConfig(512, 12, 8, 2048)),
    "ViT-B-16": CLIPConfig(512, ViTConfig(224, 16, 768, 12, 12, 3072), TextConfig(512, 12, 8, 2048)),
    "RN50": CLIPConfig(1024, ResNetConfig(224, 64, (3, 4, 6, 3), 32), TextConfig(512, 12, 8, 2048)),
    "ViT-L-14": CLIPConfig(768, ViTConfig(224, 14, 1024, 24, 16, 4096), TextConfig(768, 12, 12, 3072)),
    "SigLIP-B-16": siglip(224, 16, 768, 12, 12, 3072),
    "SigLIP-L-16": siglip(256, 16, 1024, 24, 16, 4096),
    "SigLIP-SO400M-14": siglip(384, 14, 1152, 27, 16, 4304),
}
MODELS = ("demo-vit", "demo-rn", *CONFIGS)


def make_clip(name: str, device: str, seed: int) -> CLIP:
    """An embedded model, or random weights in the shape of a published one: time depends on shapes alone."""
    if name not in CONFIGS:
        return d4c.load(name, device=device)
    torch.manual_seed(seed)
    config = CONFIGS[name]
    tokenizer = words_tokenizer(config.text) if config.text.tokenizer == "own" else None
    return CLIP(config, name, tokenizer=tokenizer).eval().requires_grad_(False).to(device)


def words_tokenizer(text: TextConfig) -> OwnTokenizer:
    """A tokenizer of the words of the generic prompts, for a text tower whose own one cannot be made up."""
    splitter = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for prompt in generic_prompts(512) for word, _ in splitter.pre_tokenize_str(prompt.lower())})
    ids = {word: i for i, word in enumerate(["<unk>", "</s>", *words])}
    whole = Tokenizer(models.WordLevel(ids, "<unk>"))
    whole.normalizer, whole.pre_tokenizer = normalizers.Lowercase(), splitter
    whole.enable_padding(pad_id=1, pad_token="</s>", length=text.context_length)
    whole.enable_truncation(text.context_length)
    return OwnTokenizer(whole.to_str(), {"pad_token": "</s>"}, "the benchmark's tokenizer", CheckpointError)

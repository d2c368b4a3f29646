"""Variants of open_clip's towers give the embeddings of open_clip, in PyTorch and as integer graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import d4c
from d4c.models.clip import CLIP
from d4c.models.formats.beside.own_tokenizer import TokenizerFiles
from d4c.models.formats.build import from_state
from d4c.models.formats.openclip import openclip_config

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("onnxruntime")

IMAGE = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
TEXT = {"context_length": 12, "width": 24, "heads": 2, "layers": 2}
CLIPA = {"pool_type": "avg", "no_ln_pre": True}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "average, norm first": (CLIPA, {}),
    "average, norm last": ({**CLIPA, "final_ln_after_pool": True}, {"no_causal_mask": True, "pool_type": "last"}),
    "no causal mask": ({"no_ln_pre": True}, {"no_causal_mask": True}),
    "last position": (CLIPA, {"pool_type": "last", "proj_bias": True}),
    "end by its id": ({}, {"pool_type": "eos", "eos_id": 49407}),
    "no projection": ({}, {"width": 32, "proj_type": "none"}),
    "tanh and eps": (
        {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
        {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
    ),
}
PROMPTS = [f"{words} {i}" for i in range(8) for words in ("a photo of a cat", "two dogs", "rain", "the old town")]


def loaded(variant: str) -> tuple[CLIP, Any]:
    """Our model and open_clip's, with the same random weights."""
    image, text = VARIANTS[variant]
    config = {"embed_dim": 32, "vision_cfg": IMAGE | image, "text_cfg": TEXT | text}
    torch.manual_seed(2)
    theirs = open_clip.model.CustomTextCLIP(**config).eval().requires_grad_(False)
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return from_state(theirs.state_dict(), openclip_config(config, {}, "x"), "x", "x"), theirs


@pytest.mark.parametrize("variant", VARIANTS)
def test_embeddings_are_open_clips(variant: str) -> None:
    clip, theirs = loaded(variant)
    pixels, tokens = torch.randn(2, 3, 32, 32), clip.tokenize(PROMPTS[:4])
    for ours, expected in (
        (clip.encode_image(pixels), theirs.encode_image(pixels)),
        (clip.encode_text(tokens), theirs.encode_text(tokens)),
    ):
        assert float((ours - expected).abs().max() / expected.abs().max()) <= 1e-4


@torch.no_grad()
def test_exports_compute_what_the_simulation_does(tmp_path: Path) -> None:
    clip, _ = loaded("last position")
    images = d4c.synthesize(clip, "leaves", images=8, seed=0)
    quantized = d4c.quantize(clip, images, "W4A8", prompts=PROMPTS, reconstruction="none")
    quantized.save_pretrained(tmp_path / "artifact")
    d4c.export(tmp_path / "artifact", tmp_path / "onnx")  # compares each layer
    runtime = d4c.load_quantized(tmp_path / "onnx", runtime="onnxruntime")
    tokens = clip.tokenize(PROMPTS)
    ours, simulated = torch.as_tensor(runtime.encode_text(tokens)), quantized.encode_text(tokens)
    assert F.cosine_similarity(ours, simulated).min() > 0.98
    assert quantized.text.begin_id is not None  # attention is causal


def test_a_stripped_end_of_bert_is_a_zero(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat"])}
    bert = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    bert.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    bert.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    bert.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    text = openclip_config(
        {"embed_dim": 32, "vision_cfg": IMAGE, "text_cfg": {**TEXT, "context_length": 5, "vocab_size": 6}}, {}, "x"
    ).text
    tokenizer = TokenizerFiles(tmp_path, "plain", without_end=True).read(text, "x")
    assert tokenizer is not None
    assert tokenizer.token_ids(["a  cat", "a cat a"]).tolist() == [[2, 4, 5, 0, 0], [2, 4, 5, 4, 0]]

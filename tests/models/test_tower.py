"""Towers describe themselves: a new kind of tower needs no change elsewhere, and what the known towers list is true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import d4c
from d4c.inspection.structure import watch_patches
from d4c.models import clip as clip_module
from d4c.models import tower_config
from d4c.models.anatomy import Patches
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS, CLIPConfig
from d4c.models.layers import Block
from d4c.models.resnet import AttentionPool
from d4c.models.tower import Tower
from d4c.models.tower_config import ImageConfig, TextConfig


@dataclass(frozen=True)
class PooledConfig(ImageConfig):
    patch_size: int = 8
    width: int = 32


class PooledTransformer(Tower):
    """Patches without a class token, two blocks, attention pooling."""

    embed_parts = ("patch_embed", "positional_embedding")
    head_parts = ("norm", "pool")
    first_layer = "patch_embed"
    costly_parts = ("patch_embed", "pool")
    eight_bit_layers = ("patch_embed", "pool.out")

    def __init__(self, config: PooledConfig, embed_dim: int) -> None:
        super().__init__()
        width, self.grid = config.width, config.image_size // config.patch_size
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.randn(self.grid**2, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width, 2, 2 * width, "gelu") for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.pool = AttentionPool(self.grid, width, 2, embed_dim)

    def embed(self, inputs: Tensor) -> Tensor:
        return self.patch_embed(inputs).flatten(2).transpose(1, 2) + self.positional_embedding

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        return self.pool(self.norm(x).transpose(1, 2).unflatten(2, (self.grid, self.grid)))

    def patches(self) -> Patches:
        return Patches(("blocks.0.attn", "blocks.1.attn"), first=0, summary="pool", summary_first=1)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> CLIP:
    """A CLIP with random weights whose image tower d4c has never seen: one row in each of two tables."""
    monkeypatch.setitem(tower_config.IMAGE_CONFIGS, "pooled", PooledConfig)
    monkeypatch.setitem(clip_module.IMAGE_TOWERS, PooledConfig, PooledTransformer)
    text = TextConfig(width=32, layers=1, heads=2, mlp_width=64)
    return CLIP(CLIPConfig(16, PooledConfig(image_size=32), text), "pooled").eval().requires_grad_(False)


def test_a_third_tower_needs_no_change_elsewhere(pooled: CLIP, tmp_path: Path) -> None:
    pooled.save_pretrained(tmp_path / "float")
    clip = d4c.load(tmp_path / "float")
    assert clip.name == "pooled"
    pixels, tokens = torch.randn(4, 3, 32, 32), clip.tokenize(["a cat", "a small dog"])
    assert torch.equal(clip.encode_image(pixels), pooled.encode_image(pixels))

    images = d4c.synthesize(clip, "d4c", "quick", images=16, iterations=3)
    quantized = d4c.quantize(clip, images, "W8A8", iterations=2, prompts=[f"thing {i}" for i in range(40)])
    cosine = F.cosine_similarity(quantized.encode_image(images.pixels), clip.encode_image(images.pixels))
    assert float(cosine.min()) > 0.99
    layer = quantized.layers()["image.blocks.1.mlp.fc1"]
    assert layer.weight_args.num_bits == 8

    metrics = d4c.evaluate(quantized, "demo", reference=clip, limit=8)
    assert metrics.count == 8
    quantized.save_pretrained(tmp_path / "artifact")
    again = d4c.load_quantized(tmp_path / "artifact")
    assert torch.equal(again.encode_image(pixels), quantized.encode_image(pixels))
    assert torch.equal(again.encode_text(tokens), quantized.encode_text(tokens))


def test_patches_of_a_third_tower_are_compared_and_inspected(pooled: CLIP) -> None:
    images = d4c.synthesize(pooled, "pse", "quick", images=16, iterations=2)
    with watch_patches(pooled) as patches:
        pooled.encode_image(images.pixels)
    assert patches.similarity().shape == (16, 16, 16)


def test_what_is_not_written_for_a_tower_is_refused_in_a_sentence(pooled: CLIP, tmp_path: Path) -> None:
    images = d4c.synthesize(pooled, "leaves", "quick", images=16)
    quantized = d4c.quantize(pooled, images, "W8A8", reconstruction="none")
    quantized.save_pretrained(tmp_path / "artifact")
    with pytest.raises(d4c.SettingError, match="PooledTransformer"):
        d4c.export(tmp_path / "artifact", tmp_path / "onnx")


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_stages_one_after_the_other_are_the_tower(demo: CLIP, name: str) -> None:
    tower = demo.tower(name)
    inputs = torch.randn(2, 3, 64, 64) if name == "image" else tower.crop(demo.tokenize(["a cat", "a small red dog"]))
    state = inputs
    for stage in tower.stages():
        state = stage.run(tower, state, inputs)
    assert torch.equal(state, tower(inputs))


@pytest.mark.parametrize("name", TOWERS)
def test_every_parameter_belongs_to_one_stage(demo: CLIP, name: str) -> None:
    tower = demo.tower(name)
    owners = {key: sum(stage.owns(key) for stage in tower.stages()) for key in tower.state_dict()}
    assert set(owners.values()) == {1}


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_the_first_layer_reads_the_input(demo: CLIP, name: str) -> None:
    tower = demo.tower(name)
    inputs = torch.randn(2, 3, 64, 64) if name == "image" else tower.crop(demo.tokenize(["a cat", "a small red dog"]))
    seen: list[Tensor] = []
    handle = tower.get_submodule(tower.first_layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tower(inputs)
    handle.remove()
    assert torch.equal(seen[0], inputs)


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_only_the_row_that_a_tower_names_reaches_the_embedding(demo: CLIP, name: str) -> None:
    tower = demo.tower(name)
    inputs = torch.randn(2, 3, 64, 64) if name == "image" else tower.crop(demo.tokenize(["a cat", "a small red dog"]))
    *earlier_stages, head = tower.stages()
    state = inputs
    for stage in earlier_stages:
        state = stage.run(tower, state, inputs)
    rows = tower.read_rows(inputs)
    if rows is None:
        assert name == "image"  # the pool of a ResNet reads all positions
        return
    other = torch.randn_like(state)
    other[torch.arange(2), rows] = state[torch.arange(2), rows]
    assert torch.equal(head.run(tower, other, inputs), head.run(tower, state, inputs))

"""Checkpoints: weights, and the configurations beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import d4c
from benchmarks.fuzz.mutators import bytes_anywhere, safetensors_header, zip_entries
from benchmarks.fuzz.targets.target import ROUGH, Target, file_of, resealed
from d4c.models.clip import CLIP
from d4c.models.formats.weights import read_weights


def checkpoints(clip: CLIP, folder: Path) -> list[Target]:
    native = folder / "native"
    clip.save_pretrained(native)
    sound = (native / "config.json").read_bytes()
    foreign = folder / "foreign"
    foreign.mkdir()
    shutil.copy(native / "model.safetensors", foreign / "model.safetensors")
    huggingface = {
        "model_type": "clip",
        "projection_dim": 8,
        "vision_config": {
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        "text_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 8,
            "vocab_size": 49408,
            "eos_token_id": 49407,
        },
    }
    pixels = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
    }
    both = json.dumps({"config": huggingface, "pixels": pixels}).encode()
    openclip = {
        "model_cfg": {
            "embed_dim": 8,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
            "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    }
    resnet = json.loads(json.dumps(openclip))
    resnet["model_cfg"]["vision_cfg"] |= {"layers": [1, 1, 1, 1], "image_size": 64}
    open_folder = folder / "openclip"
    open_folder.mkdir()
    shutil.copy(native / "model.safetensors", open_folder / "open_clip_model.safetensors")
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}).encode()
    sharded = folder / "sharded"
    sharded.mkdir()
    shutil.copy(native / "model.safetensors", sharded / "model.safetensors")
    (sharded / "config.json").write_text(json.dumps(huggingface))

    def read_foreign(data: bytes) -> None:
        try:
            parts = json.loads(data)
            config, processor = parts["config"], parts["pixels"]
        except (ValueError, KeyError, TypeError, RecursionError):
            (foreign / "config.json").write_bytes(data)
        else:
            (foreign / "config.json").write_text(json.dumps(config))
            (foreign / "preprocessor_config.json").write_text(json.dumps(processor))
        d4c.load(foreign)

    weights = folder / "weights"
    few = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.int64), "c": torch.ones(())}
    save_file(few, weights, metadata={"format": "pt"})
    archive = folder / "archive"
    torch.save({"state_dict": {**few, "d": few["a"].T}}, archive)
    return [
        Target("config.json of d4c", (sound,), ROUGH, resealed(native / "config.json", lambda: d4c.load(native)), 0.3),
        Target("Hugging Face's configurations", (both,), ROUGH, read_foreign, 1.0),
        Target(
            "open_clip's configuration",
            (json.dumps(openclip).encode(), json.dumps(resnet).encode()),
            ROUGH,
            file_of(open_folder / "open_clip_config.json", lambda: d4c.load(open_folder)),
        ),
        Target(
            "index of shards",
            (index,),
            ROUGH,
            file_of(sharded / "model.safetensors.index.json", lambda: d4c.load(sharded)),
        ),
        Target(
            "safetensors",
            (weights.read_bytes(),),
            (safetensors_header, bytes_anywhere),
            file_of(weights, lambda: read_weights(weights)),
            2.0,
        ),
        Target(
            "PyTorch archive",
            (archive.read_bytes(),),
            (zip_entries, zip_entries, bytes_anywhere),
            file_of(archive, lambda: read_weights(archive)),
        ),
    ]

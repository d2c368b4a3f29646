"""LoRA beside its weights is merged, W + (alpha / r) B A; without them, or in other kinds, it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.formats.load import load

State = dict[str, Tensor]
Write = Callable[..., Path]
LAYER = "text_model.encoder.layers.0.self_attn.q_proj"
A, B = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16.0).reshape(8, 2)
SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "alpha_pattern": {}, "use_dora": False}


def adapted(state: State, adapter: str = ".default", prefix: str = "base_model.model.") -> State:
    """A state dict as PEFT has it while LoRA is in place."""
    wrapped = {key.replace(f"{LAYER}.", f"{LAYER}.base_layer."): value for key, value in state.items()}
    wrapped |= {f"{LAYER}.lora_A{adapter}.weight": A, f"{LAYER}.lora_B{adapter}.weight": B}
    return {f"{prefix}{key}": value for key, value in wrapped.items()}


def rewritten(folder: Path, state: State, settings: dict[str, Any] | None = None) -> Path:
    save_file(state, folder / "model.safetensors")
    if settings is not None:
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("adapter", [".default", ""])
def test_lora_is_merged(adapter: str, huggingface_folder: Write, huggingface_state: State) -> None:
    folder = rewritten(huggingface_folder(), adapted(huggingface_state, adapter), SETTINGS)
    weight = load(folder).state_dict()["text.blocks.0.attn.q.weight"]
    torch.testing.assert_close(weight, huggingface_state[f"{LAYER}.weight"] + 6 / 2 * (B @ A))


def test_what_was_trained_whole_takes_the_place_of_the_original(
    huggingface_folder: Write, huggingface_state: State
) -> None:
    state = adapted(huggingface_state)
    original = state.pop("base_model.model.text_projection.weight")
    state["base_model.model.text_projection.original_module.weight"] = original
    state["base_model.model.text_projection.modules_to_save.default.weight"] = original + 1
    clip = load(rewritten(huggingface_folder(), state, SETTINGS))
    assert torch.equal(clip.state_dict()["text.projection.weight"], original + 1)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, None, "no lora_alpha, which scales them"),
        ({}, SETTINGS | {"use_dora": True}, "LoRA with use_dora"),
        ({f"{LAYER}.lora_magnitude_vector.default.weight": A}, SETTINGS, "a kind of LoRA that is not supported"),
        ({f"{LAYER}.lora_A.other.weight": A}, SETTINGS, "several LoRA adapters"),
        ({f"{LAYER}.lora_B.default.weight": B.T.contiguous()}, SETTINGS, "which do not make one of"),
        ({"logit_scale.lora_A.default.weight": A}, SETTINGS, "one LoRA matrix for 'logit_scale'"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    change: State, settings: dict[str, Any], message: str, huggingface_folder: Write, huggingface_state: State
) -> None:
    state = adapted(huggingface_state) | {f"base_model.model.{key}": value for key, value in change.items()}
    state = {key: value.clone() for key, value in state.items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load(rewritten(huggingface_folder(), state, settings))
    assert str(caught.value).endswith("merge_and_unload and save the result.")


def test_lora_alone_is_refused(tmp_path: Path) -> None:
    name = f"base_model.model.{LAYER}"
    save_file({f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="without the weight that they change, expected both"):
        load(tmp_path / "adapter_model.safetensors")

"""A named file is the file, and what lies beside it says how it computes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from d4c.errors import CheckpointError, SettingError
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import load
from d4c.models.tower_config import ViTConfig

State = dict[str, Tensor]
Write = Callable[..., Path]
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 4,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "patch_size": 8, "head_width": 4, "mlp_ratio": 2.0},
    "text_cfg": {"width": 8, "heads": 4, "layers": 1, "mlp_ratio": 2.0},
}


def facts(clip: CLIP) -> tuple[str, int, int]:
    """Activation, heads of the image tower, heads of the text tower."""
    assert isinstance(clip.config.image, ViTConfig)
    assert clip.config.image.activation == clip.config.text.activation
    return clip.config.text.activation, clip.config.image.heads, clip.config.text.heads


def doubled(state: State) -> State:
    return {key: 2 * value for key, value in state.items()}


def test_a_named_file_is_the_file(huggingface_folder: Write, huggingface_state: State, openai_state: State) -> None:
    folder = huggingface_folder()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG}))
    save_file(openai_state, folder / "open_clip_model.safetensors")
    torch.save(doubled(huggingface_state), folder / "pytorch_model.bin")
    torch.save(doubled(huggingface_state), folder / "step-500.pt")
    theirs = huggingface_state["vision_model.embeddings.patch_embedding.weight"]
    openais = openai_state["visual.conv1.weight"]
    for name, expected, heads in (
        ("model.safetensors", theirs, 2),
        ("pytorch_model.bin", 2 * theirs, 2),
        ("step-500.pt", 2 * theirs, 2),
        ("open_clip_model.safetensors", openais, 4),
    ):
        clip = load(folder / name)
        assert torch.equal(clip.state_dict()["image.patch_embed.weight"], expected), name
        assert facts(clip) == ("gelu", 2, heads), name


def test_a_file_of_its_own_name_has_the_configuration_beside_it(tmp_path: Path, openai_state: State) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG}))
    save_file(openai_state, tmp_path / "best.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert facts(load(tmp_path / "best.safetensors")) == ("gelu", 2, 4)


def test_a_configuration_of_other_shapes_is_not_that_of_the_file(tmp_path: Path, openai_state: State) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG | {"embed_dim": 5}}))
    save_file(openai_state, tmp_path / "best.safetensors")
    with pytest.warns(UserWarning, match=r"assumed, as in OpenAI's models: QuickGELU, 1 heads \(image\)"):
        assert facts(load(tmp_path / "best.safetensors")) == ("quick_gelu", 1, 1)


def test_metadata_and_settings_in_the_file_tell(tmp_path: Path, openai_state: State) -> None:
    save_file(openai_state, tmp_path / "a.safetensors", metadata={"config": json.dumps({"model_cfg": MODEL_CFG})})
    torch.save({"state_dict": openai_state, "model_cfg": MODEL_CFG}, tmp_path / "b.pt")
    (tmp_path / "c.json").write_text(json.dumps(MODEL_CFG))
    torch.save(openai_state, tmp_path / "c.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.safetensors", "b.pt", "c.pt"):
            assert facts(load(tmp_path / name)) == ("gelu", 2, 4), name
    torch.save({"model": openai_state, "args": SimpleNamespace(quick_gelu=False, lr=0.1)}, tmp_path / "d.pt")
    with pytest.warns(UserWarning, match="does not tell its numbers of heads; assumed"):
        assert facts(load(tmp_path / "d.pt")) == ("gelu", 1, 1)


def test_what_is_set_is_not_assumed(openai_state: State) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert facts(load(openai_state, activation="gelu", heads=(2, 4))) == ("gelu", 2, 4)
        signed = {key: torch.tensor(16) for key in ("input_resolution", "context_length", "vocab_size")}
        assert facts(load(openai_state | signed)) == ("quick_gelu", 1, 1)
    with pytest.warns(UserWarning, match="tell its activation; assumed, as in OpenAI's models: QuickGELU; activation"):
        load(openai_state, heads=(2, 4))


def test_what_is_set_counts_more_than_a_configuration(huggingface_folder: Write) -> None:
    folder = huggingface_folder()
    assert facts(load(folder, activation="quick_gelu", heads=(4, 8))) == ("quick_gelu", 4, 8)
    assert model_hash(load(folder)) == model_hash(load(folder, activation="quick_gelu"))


@pytest.mark.parametrize("wrong", [{"activation": "relu"}, {"heads": (2,)}, {"heads": 2}, {"heads": (2, 0)}])
def test_a_wrong_setting_is_refused(wrong: dict[str, Any], openai_state: State) -> None:
    with pytest.raises(SettingError, match="expected"):
        load(openai_state, **wrong)


@pytest.mark.filterwarnings("ignore:.*assumed, as in")
def test_uneven_heads_are_refused(openai_state: State) -> None:
    with pytest.raises(CheckpointError, match="not a multiple of its 3 heads"):
        load(openai_state, heads=(3, 2))

"""What training wraps around the weights of a CLIP is removed, and the same model is found in each form."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from d4c.errors import CheckpointError
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import load

State = dict[str, Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:.*assumed, as in")


def renamed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def inside(state: State, part: str) -> State:
    """Names as after a part of the model was compiled or wrapped."""
    return {key.replace("visual.", f"visual.{part}.", 1): value for key, value in state.items()}


PREFIXES = ["module.", "_orig_mod.", "model.", "clip_model.", "module._orig_mod.model.clip.", "_forward_module.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_removed(prefix: str, openai_state: State) -> None:
    assert model_hash(load(renamed(openai_state, prefix))) == model_hash(load(openai_state))


@pytest.mark.parametrize("part", ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_around_parts_are_removed(part: str, openai_state: State) -> None:
    assert model_hash(load(inside(openai_state, part))) == model_hash(load(openai_state))


def test_an_averaged_model_is_one(openai_state: State, tmp_path: Path) -> None:
    holder = nn.Module()
    for key, value in openai_state.items():
        holder.register_buffer(key.replace(".", "/"), value)
    state = {key.replace("/", "."): value for key, value in AveragedModel(holder).state_dict().items()}
    assert "n_averaged" in state
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "swa.safetensors")
    with pytest.warns(UserWarning, match="dropped 'n_averaged'"):
        assert model_hash(load(tmp_path / "swa.safetensors")) == model_hash(load(openai_state))


BESIDE: dict[str, Any] = {
    "epoch": 3,
    "best": np.float64(0.5),
    "history": np.arange(3),
    "args": argparse.Namespace(lr=0.1, output=Path("runs")),
    "config": SimpleNamespace(model="ViT-B-32"),
    "counts": defaultdict(list, a=[1]),
    "device": torch.device("cpu"),
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "state_dict_ema"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_model_is_found_beside_what_training_needs(
    key: str, protocol: int, openai_state: State, tmp_path: Path
) -> None:
    torch.save(
        BESIDE | {key: OrderedDict(renamed(openai_state, "module."))}, tmp_path / "x.pt", pickle_protocol=protocol
    )
    assert model_hash(load(tmp_path / "x.pt")) == model_hash(load(openai_state))


def test_nested_dictionaries_may_be_passed(openai_state: State) -> None:
    assert model_hash(load({"epoch": 1, "model": openai_state})) == model_hash(load(openai_state))  # type: ignore[dict-item]


def test_of_weights_and_their_average_the_average_is_taken(openai_state: State, tmp_path: Path) -> None:
    average = {key: value * 0.5 for key, value in openai_state.items()}
    for name, content in {
        "entries": {"model": openai_state, "model_ema": average},
        "prefixes": {"state_dict": renamed(openai_state, "model.") | renamed(average, "ema_model.")},
        "bare": openai_state | renamed(average, "ema."),
    }.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.warns(UserWarning, match="moving average"):
            assert model_hash(load(tmp_path / f"{name}.pt")) == model_hash(load(average))


def test_one_state_dict_under_two_names_is_one(openai_state: State, tmp_path: Path) -> None:
    torch.save({"model": openai_state, "teacher": openai_state}, tmp_path / "x.pt")
    assert model_hash(load(tmp_path / "x.pt")) == model_hash(load(openai_state))


def test_several_models_are_refused_by_name(openai_state: State) -> None:
    with pytest.raises(CheckpointError, match=r"holds 2 CLIPs, in 'student', in 'teacher', expected one"):
        load(renamed(openai_state, "student.") | renamed(openai_state, "teacher."))


def test_two_weights_of_one_name_are_refused(openai_state: State) -> None:
    with pytest.raises(CheckpointError, match=r"holds 'visual.proj' twice"):
        load(openai_state | {"module.visual.proj": torch.zeros(1)})


@pytest.mark.parametrize("name", ["classifier.weight", "head.bias", "classification_head.weight", "fc1.bias", "loss.t"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_classifier_heads_are_dropped_by_name(name: str, prefix: str, openai_state: State) -> None:
    state = renamed(openai_state, prefix) | {name: torch.zeros(3)}
    with pytest.warns(UserWarning, match=f"dropped '{name}', which no embedding depends on"):
        assert model_hash(load(state)) == model_hash(load(openai_state))


def test_a_logit_bias_is_that_of_a_sigmoid(openai_state: State) -> None:
    clip = load(openai_state | {"logit_bias": torch.tensor(-7.0)})
    assert (clip.config.sigmoid, clip.logit_bias) == (True, -7)
    assert (load(openai_state).config.sigmoid, load(openai_state).logit_bias) == (False, None)


@pytest.mark.parametrize("name", ["adapter.fc.weight", "prompt_learner.ctx", "visual.head.weight"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_changes_embeddings_is_refused_by_name(name: str, prefix: str, openai_state: State) -> None:
    with pytest.raises(CheckpointError, match=f"holds the weight '{name}', which no supported CLIP has"):
        load(renamed(openai_state, prefix) | {name: torch.zeros(3)})

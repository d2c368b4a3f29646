"""What a user may give as prompts, and the lists of the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4c.calibration.prompts import (
    CALIBRATION_TEMPLATES,
    NOUNS,
    check_length,
    generic_prompts,
    prompt_features,
    resolve_prompts,
)
from d4c.errors import DataError
from d4c.models.clip import CLIP
from d4c.models.inputs.tokenizer import tokenizer


def test_there_are_180_distinct_nouns_in_lower_case() -> None:
    assert len(set(NOUNS)) == len(NOUNS) == 180
    assert all(noun == " ".join(noun.lower().split()) for noun in NOUNS)


def test_nouns_are_words_that_clip_knows_whole() -> None:
    """Each noun takes few tokens, so it stands in the vocabulary that CLIP was trained with."""
    assert max(len(tokenizer().encode(noun).ids) for noun in NOUNS) <= 4


@pytest.mark.parametrize(
    ("entry", "prompt"),
    [
        ("cat", "a photo of a cat."),
        ("owl", "a photo of an owl."),
        (" tabby cat ", "a photo of a tabby cat."),
        ("lily of the valley", "a photo of a lily of the valley."),
        ("A drawing of a cat", "A drawing of a cat"),
        ("the sea", "the sea"),
        ("two dogs.", "two dogs."),
    ],
)
def test_names_are_put_into_the_template_and_prompts_stay(entry: str, prompt: str) -> None:
    assert resolve_prompts([entry]) == (prompt,)


def test_a_list_and_a_text_file_of_it_are_the_same(tmp_path: Path) -> None:
    entries = ["cat", "", "an old car.", "cat"]
    (tmp_path / "p.txt").write_text("\n".join(entries))
    assert resolve_prompts(tmp_path / "p.txt") == resolve_prompts(entries) == ("a photo of a cat.", "an old car.")


def test_resolving_twice_changes_nothing() -> None:
    assert resolve_prompts(resolve_prompts(None)) == resolve_prompts(None)


@pytest.mark.parametrize("slot", ["{}", "{c}"])
def test_json_gives_all_combinations(tmp_path: Path, slot: str) -> None:
    data = {"classnames": ["cat", "owl"], "templates": [f"a {slot}", f"my {slot}."]}
    (tmp_path / "p.json").write_text(json.dumps(data))
    assert resolve_prompts(str(tmp_path / "p.json")) == ("a cat", "my cat.", "an owl", "my owl.")


BAD_JSON = [
    "{",
    "[]",
    "{}",
    '{"classnames": "cat"}',
    '{"classnames": [1]}',
    '{"classnames": []}',
    '{"classnames": ["cat"], "templates": ["a photo"]}',
]


@pytest.mark.parametrize("content", BAD_JSON)
def test_bad_json_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataError) as caught:
        resolve_prompts(tmp_path / "p.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given_", [[], [""], [1], "/no/such/file.txt", Path("/"), "a\0b", "/dev/zero"], ids=repr)
def test_no_prompts_are_refused(given_: Any) -> None:
    with pytest.raises(DataError):
        resolve_prompts(given_)


def test_a_prompt_that_would_be_cut_is_refused(demo_vit: CLIP) -> None:
    room = demo_vit.config.text.context_length - 2
    check_length(demo_vit, ["cat " * room])
    with pytest.raises(DataError, match=f"has {room + 1} tokens, expected at most {room}"):
        check_length(demo_vit, ["cat", "cat " * (room + 1)])


def test_features_are_unit_and_do_not_depend_on_the_batch(demo_vit: CLIP) -> None:
    prompts = resolve_prompts(None)[:20]
    whole, parts = prompt_features(demo_vit, prompts), prompt_features(demo_vit, prompts, batch=7)
    assert (whole.norm(dim=-1) - 1).abs().max() < 1e-5
    assert (whole - parts).abs().max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2160), st.integers(0, 5))
def test_generic_prompts_are_distinct_and_even(count: int, seed: int) -> None:
    prompts = generic_prompts(count, seed)
    assert len(set(prompts)) == len(prompts) == count
    assert prompts == generic_prompts(count, seed)
    named = [sum(noun in prompt for prompt in prompts) for noun in ("skyscraper", "microscope", "xylophone")]
    assert {count // 180, -(-count // 180)} >= set(named[:2])
    assert named[2] == 0


def test_generic_prompts_have_an_end() -> None:
    assert len(generic_prompts(180 * len(CALIBRATION_TEMPLATES))) == 2160
    with pytest.raises(DataError, match="expected 1 to 2160"):
        generic_prompts(2161)

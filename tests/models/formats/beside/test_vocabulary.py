"""A tokenizer that a checkpoint brings is CLIP's, or it is refused by the name of its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from d4c.errors import CheckpointError
from d4c.models.formats.beside.vocabulary import clip_merges, clip_vocabulary, other_tokenizer
from d4c.models.formats.load import load
from d4c.models.formats.weights import read_json_object

Write = Callable[..., Path]


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": clip_vocabulary(), "merges": clip_merges()}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    added = [{"id": 49406, "content": "<|startoftext|>"}, {"id": 49407, "content": "<|endoftext|>"}]
    return {"model": model, "normalizer": normalizer, "added_tokens": added} | changes


def test_clips_own_tokenizer_is_accepted(huggingface_folder: Write) -> None:
    folder = huggingface_folder(tokenizer=tokenizer_json(), tokenizer_config={"do_lower_case": True})
    load(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(clip_vocabulary()))
    merges = "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in clip_merges())])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    load(folder)


def test_transformers_tokenizer_is_accepted(huggingface_folder: Write) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.CLIPTokenizer(vocab=clip_vocabulary(), merges=clip_merges())
    folder = huggingface_folder()
    tokenizer.save_pretrained(folder)
    load(folder)


SWAPPED = {**clip_vocabulary(), "a": 1, '"': 64}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "few words": ({"vocab": {"a": 0}}, "a vocabulary of its own, of 1 tokens in vocab.json"),
    "no model": ({"tokenizer": {}}, "tokenizer.json is not a tokenizer"),
    "cased by its settings": ({"tokenizer_config": {"do_lower_case": False}}, "do_lower_case = False"),
    "vocabulary of the tower": ({"text": {"vocab_size": 60000}}, "a vocabulary of 60000 tokens, expected the 49408"),
    "small vocabulary": ({"text": {"vocab_size": 3000}}, "49407, beyond the vocabulary of 3000"),
    "end of text": ({"text": {"eos_token_id": 5}}, "ends prompts with the token 5, expected 49407"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_tokenizer_is_refused_by_name(case: str, huggingface_folder: Write) -> None:
    files, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        load(huggingface_folder(**files))
    assert str(caught.value).endswith(".")


DIFFERENT: dict[str, dict[str, Any]] = {
    "other ids": tokenizer_json(model={"vocab": SWAPPED, "merges": clip_merges()}),
    "other merges": tokenizer_json(model={"vocab": clip_vocabulary(), "merges": clip_merges()[::-1]}),
    "cased": tokenizer_json(normalizer={"type": "NFC"}),
    "added": tokenizer_json(added_tokens=[{"id": 49408, "content": "<sks>"}]),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_tokenizer_that_is_not_clips_is_told(case: str, huggingface_folder: Write) -> None:
    told = other_tokenizer(huggingface_folder(tokenizer=DIFFERENT[case]), read_json_object)
    assert told is not None
    assert told.endswith("in tokenizer.json")


def test_a_tokenizer_of_its_own_is_used(huggingface_folder: Write, siglip_tokenizer_json: str) -> None:
    files = {"tokenizer": json.loads(siglip_tokenizer_json), "tokenizer_config": {"pad_token": "</s>"}}
    folder = huggingface_folder(text={"eos_token_id": 1}, **files)
    clip = load(folder)
    own = tokenizers.Tokenizer.from_str(siglip_tokenizer_json)
    ids = own.encode("a photo of a cat").ids
    tokens = clip.tokenize(" a photo  of a cat ")
    assert tokens[0].tolist() == [*ids, *[1] * (77 - len(ids))]
    clip.text.fold_constants(tokens)
    assert clip.text.begin_id is None  # its prompts begin with any token
    assert clip.encode_text(tokens).equal(clip.encode_text(tokens[:, : len(ids)]))


def test_ids_beyond_the_token_table_are_refused(huggingface_folder: Write, siglip_tokenizer_json: str) -> None:
    data = json.loads(siglip_tokenizer_json)
    data["added_tokens"] += [{**data["added_tokens"][0], "id": 49500, "content": "<far>"}]
    data["model"]["vocab"] += [[f"{i}", -20.0] for i in range(100, 49600)]
    folder = huggingface_folder(tokenizer=data, tokenizer_config={"pad_token": "</s>"})
    with pytest.raises(CheckpointError, match="beyond the token table of 49408 rows"):
        load(folder)


def test_another_kind_of_vocabulary_is_refused(huggingface_folder: Write) -> None:
    folder = huggingface_folder()
    (folder / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(CheckpointError, match=r"a vocabulary of another kind in vocab\.txt"):
        load(folder)

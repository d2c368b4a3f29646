"""A tokenizer.json that a checkpoint brings is refused in a sentence if the library that executes it gives up."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models

from d4c.errors import CheckpointError
from d4c.models.inputs.prompt_tokenizers import parse_tokenizer


def words(**changes: object) -> str:
    """A tokenizer of two words, with other parts."""
    sound = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")).to_str()
    return json.dumps(json.loads(sound) | changes)


@pytest.mark.parametrize(
    "text",
    [
        words(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[Q]", "type_id": 0}}]}),
        words(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[Q]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {},
            }
        ),
        words(model={"type": "Unigram", "vocab": []}),
        "[" * 1000,
    ],
    ids=["half a template", "a template for a token that is not there", "no words", "brackets"],
)
def test_a_damaged_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        parse_tokenizer(text, "model", CheckpointError)

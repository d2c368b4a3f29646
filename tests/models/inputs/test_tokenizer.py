"""Token ids are those of open_clip's tokenizer, which is OpenAI's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d4c.errors import DataError
from d4c.models.inputs.tokenizer import END, START, VOCAB_SIZE, clean, token_ids, tokenize, tokenizer

PROMPTS = {
    "plain": "a photo of a cat.",
    "empty": "",
    "spaces": "  a   photo\t of\r\n\n a\u00a0cat  ",
    "contractions": "Don't stop, it's what we're told; I'LL've I'd I'm",
    "accents": "café CAFÉ cafe\u0301 naïve Ünïcödé İstanbul STRASSE ß",
    "scripts": "日本語 テキスト 한국어 العربية हिन्दी ελληνικά",
    "emoji": "😀👩‍👩‍👧 🇩🇪 ❤️",
    "entities": "&amp;lt;b&amp;gt; &eacute; &quot;x&quot; &#39; a &lt; b",
    "digits": "123 4567 3.14159 ½ ² Ⅷ ①",
    "one long word": "a" * 500,
    "long": "word " * 200,
    "quotes and widths": "“curly” ‘q’ ﬁsh ﬂ ﬅ ｆｕｌｌ　ｗｉｄｅ",
    "controls": "a\x00b \x1b[31mred\x1b[0m \ufeffc y\u2028z",
    "punctuation": "x_y__z--!?<>#@ ...",
}


@pytest.fixture(scope="module")
def reference() -> Any:
    return pytest.importorskip("open_clip").SimpleTokenizer()


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("context_length", [77, 16])
@pytest.mark.filterwarnings("ignore:A prompt is longer")
def test_ids_are_open_clips(prompt: str, context_length: int, reference: Any) -> None:
    assert torch.equal(tokenize(prompt, context_length), reference(prompt, context_length))


@settings(deadline=None, max_examples=200)
@given(prompt=st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Cc", "Cs"]), max_size=60).map(clean))
def test_ids_of_clean_latin_text_are_open_clips(prompt: str, reference: Any) -> None:
    assert tokenizer().encode(prompt).ids == [
        piece
        for word in reference.pat.findall(prompt)
        for piece in (
            reference.encoder[p]
            for p in reference.bpe("".join(reference.byte_encoder[b] for b in word.encode())).split(" ")
        )
    ]


@pytest.mark.filterwarnings("ignore:A prompt is longer")
@given(
    # A prompt that spells the end out ends there.
    prompts=st.lists(st.text(max_size=120).filter(lambda text: END not in clean(text)), max_size=4),
    context_length=st.integers(2, 80),
)
def test_rows_start_end_and_are_padded(prompts: list[str], context_length: int) -> None:
    ids = token_ids(prompts, context_length)
    assert ids.shape == (len(prompts), context_length)
    for row in ids:
        end = int((row == VOCAB_SIZE - 1).argmax())
        assert row[0] == VOCAB_SIZE - 2
        assert row[end] == VOCAB_SIZE - 1
        assert not row[end + 1 :].any()


@given(prompts=st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_a_batch_is_its_prompts_one_by_one(prompts: list[str]) -> None:
    assert torch.equal(tokenize(prompts), torch.cat([tokenize(prompt) for prompt in prompts]))


def test_special_tokens_are_spelled_as_openai_does() -> None:
    assert token_ids(f"{START} a {END}")[0, :6].tolist() == [49406, 49406, 320, 49407, 49407, 0]


def test_a_prompt_that_is_cut_is_a_warning_that_says_where() -> None:
    with pytest.warns(
        UserWarning, match=r"A prompt is longer than 75 tokens and is cut after '\.\.\..* cat cat tree'\.$"
    ):
        ids = token_ids("cat " * 74 + "tree dog")
    assert ids[0, 75] == tokenizer().encode("tree").ids[0]
    with pytest.warns(UserWarning, match="and so are 2 others"):
        token_ids(["word " * 99] * 3)


@pytest.mark.filterwarnings("error")
def test_a_prompt_that_fits_exactly_is_no_warning() -> None:
    assert token_ids("word " * 75)[0, 76] == VOCAB_SIZE - 1


@pytest.mark.parametrize(("text", "cleaned"), [("caf\udce9", "caf\ufffd"), ("\ud83d\ude00 x", "\U0001f600 x")])
def test_halves_of_surrogate_pairs_are_joined_or_replaced(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert torch.equal(tokenize(text), tokenize(cleaned))


def test_no_prompts_give_no_rows() -> None:
    assert tokenize([]).shape == (0, 77)
    assert tokenize([]).dtype == torch.int64


def test_what_is_not_a_string_is_refused() -> None:
    with pytest.raises(DataError, match="A prompt is of type int, expected str"):
        tokenize(["cat", 3])  # type: ignore[list-item]

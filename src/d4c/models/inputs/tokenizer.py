"""Turns prompts into token ids with CLIP's byte-pair encoding; the merges are OpenAI's (`models/demo/licenses`).

Only `tokenize` needs torch, so that a runtime without torch computes the same ids.
"""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps

from d4c.errors import DataError, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
"""As OpenAI and Hugging Face call them; open_clip says <start_of_text>."""
VOCAB_SIZE = 49408
SHOWN = 40
"""Characters of a prompt that a warning quotes."""
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# Besides HTML entities, white space and case, CLIP's own cleaning changes these in well-formed text: it drops terminal
# escapes and control characters, splits Latin ligatures, and makes wide characters narrow and curly quotes straight.
_SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
LIGATURES = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (*range(0xFB00, 0xFB07), 0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4))
} | {0xFB05: "\u017ft"}
FIXES: dict[int, str | None] = {
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))},
    **dict.fromkeys((0x02BC, *range(0x2018, 0x201C)), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    **dict.fromkeys((0x85, 0x2028, 0x2029), "\n"),
    **dict.fromkeys(
        (*range(9), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD))
    ),
}


def byte_alphabet() -> list[str]:
    """Return the 256 printable characters that stand for bytes, in the order of CLIP's first 256 ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """Return CLIP's tokenizer, which neither cleans text nor adds start and end."""
    return new_tokenizer()


def new_tokenizer() -> Tokenizer:
    """Return what `tokenizer` does, to be changed."""
    packed = (files("d4c.models.inputs") / "clip-bpe-merges.txt.gz").read_bytes()
    merges = [tuple(line.split(" ")) for line in gzip.decompress(packed).decode().splitlines()]
    letters = byte_alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocab = {word: i for i, word in enumerate(words)}
    model = BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>")  # type: ignore[arg-type]
    byte_pair = Tokenizer(model)
    byte_pair.pre_tokenizer = Steps(
        [Split(Regex(_WORDS), "removed", invert=True), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    byte_pair.add_special_tokens([AddedToken(START, normalized=False), AddedToken(END, normalized=False)])
    return byte_pair


def valid(text: str) -> str:
    """Return text with U+FFFD in place of each half of a surrogate pair, which no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text


def clean(text: str) -> str:
    """Clean text as for the training of CLIP: lower case, straight quotes, single spaces, no HTML entities.

    Text that was decoded with a wrong encoding ("donâ€™t") is not repaired; CLIP's authors used ftfy for that. Half a
    surrogate pair, as in a file's name that is not UTF-8, becomes U+FFFD.
    """
    text = ESCAPE.sub("", html.unescape(valid(text))).translate(LIGATURES).translate(FIXES)
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return " ".join(text.split()).lower()


def token_ids(texts: str | Sequence[str], context_length: int = 77, pad_id: int = 0) -> NDArray[np.int64]:
    """Turn prompts into rows of token ids: start, words, end, padding.

    Args:
        texts: One prompt or N of them.
        context_length: Length L of a row; the words of a longer prompt are truncated, with a warning that says where.
        pad_id: The token that fills rows.

    Returns:
        int64 [N, L].

    Raises:
        DataError: A prompt is not a string.
    """
    prompts = as_prompts(texts)
    rows = np.full((len(prompts), context_length), pad_id, np.int64)
    cut: list[str] = []
    cleaned = [clean(prompt) for prompt in prompts]
    for row, text, encoding in zip(rows, cleaned, tokenizer().encode_batch(cleaned), strict=True):
        ids = [VOCAB_SIZE - 2, *encoding.ids[: context_length - 2], VOCAB_SIZE - 1]
        row[: len(ids)] = ids
        if len(encoding.ids) > context_length - 2:
            cut.append(text[: encoding.offsets[context_length - 3][1]] if context_length > 2 else "")
    if cut:
        others = f", and so are {len(cut) - 1} others" if len(cut) > 1 else ""
        warn(f"A prompt is longer than {context_length - 2} tokens and is cut after {_ending(cut[0])}{others}.")
    return rows


def as_prompts(texts: str | Sequence[str]) -> list[str]:
    """Return one prompt or several as a list; raises DataError for anything but strings."""
    prompts = [texts] if isinstance(texts, str) else list(texts)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise DataError(f"A prompt is of type {type(prompt).__name__}, expected str; pass a list of strings.")
    return prompts


def _ending(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"...{text[-SHOWN:]}")


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """Return the result of `token_ids` as a tensor."""
    import torch

    return torch.from_numpy(token_ids(texts, context_length))

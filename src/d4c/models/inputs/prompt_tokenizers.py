"""The tokenizers that a model may have: CLIP's, or one that its checkpoint brings as a tokenizer.json.

None of them needs torch, so that a runtime without torch computes the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tokenizers import Tokenizer

from d4c.errors import D4CError, reason_of, warn
from d4c.models.inputs.tokenizer import SHOWN, as_prompts, clean, token_ids, tokenizer, valid
from d4c.models.inputs.tokenizer_files import FILES, save_tokenizer
from d4c.reading.json_file import read_json
from d4c.reading.schema import Record, check
from d4c.storage.files import read_text, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PromptTokenizer(Protocol):
    """Turns prompts into rows of token ids of one length."""

    def token_ids(self, texts: str | Sequence[str]) -> NDArray[np.int64]:
        """Return rows [N, L]; raises DataError for prompts that are not strings, and warns of prompts that are cut."""

    def word_counts(self, prompts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each prompt without what begins and ends it."""

    @property
    def most_words(self) -> int:
        """The largest number of such tokens that is not cut."""

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into a folder."""


class ClipTokenizer:
    """CLIP's byte-pair encoding; see `d4c.models.inputs.tokenizer`.

    Args:
        context_length: Length L of a row.
        pad_id: The token that rows are filled with; it counts where the states of all positions are read.
    """

    def __init__(self, context_length: int, pad_id: int = 0) -> None:
        self.context_length, self.pad_id = context_length, pad_id

    def token_ids(self, texts: str | Sequence[str]) -> NDArray[np.int64]:
        return token_ids(texts, self.context_length, self.pad_id)

    def word_counts(self, prompts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer().encode_batch([clean(prompt) for prompt in prompts])]

    @property
    def most_words(self) -> int:
        return self.context_length - 2

    def save(self, folder: Path) -> None:
        save_tokenizer(folder, self.context_length, self.pad_id)


class OwnTokenizer:
    """A tokenizer that a checkpoint brings, executed by the `tokenizers` library.

    Its tokenizer.json says everything: cleaning, vocabulary, what begins and ends a prompt, truncation and padding to
    the length of a row. It is data that cannot be changed, so that copies of a model share it.

    Args:
        text: The content of tokenizer.json.
        settings: The content of tokenizer_config.json, which other libraries need.
        source: Names the model in error messages.
        error: Class of the exceptions to raise.
    """

    def __init__(self, text: str, settings: dict[str, Any], source: str, error: type[D4CError]) -> None:
        self.text, self.settings = text, settings
        self._tokenizer = parse_tokenizer(text, source, error)
        padding, truncation = self._tokenizer.padding, self._tokenizer.truncation
        if padding is None or truncation is None or padding.get("length") != truncation.get("max_length"):
            raise error(
                f"{source}: tokenizer.json does not pad and cut prompts to one length; use the file that d4c wrote."
            )
        self.context_length = int(truncation["max_length"])

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnTokenizer:
        return self

    @cached_property
    def largest_id(self) -> int:
        """The largest id that a prompt may have."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def check(self, context_length: int, vocab_size: int, source: str, error: type[D4CError]) -> None:
        """Raise an error of class `error` if a text tower of such sizes cannot read what this tokenizer writes."""
        if self.context_length != context_length:
            raise error(
                f"{source}: its tokenizer makes rows of {self.context_length} tokens, expected the {context_length} of "
                "its text tower; use files that belong together."
            )
        if self.largest_id >= vocab_size:
            raise error(
                f"{source}: its tokenizer has the id {self.largest_id}, beyond the token table of {vocab_size} rows; "
                "use files that belong together."
            )

    def token_ids(self, texts: str | Sequence[str]) -> NDArray[np.int64]:
        prompts = as_prompts(texts)
        rows = self._tokenizer.encode_batch([valid(prompt) for prompt in prompts])
        cut = [prompt for prompt, row in zip(prompts, rows, strict=True) if row.overflowing]
        if cut:
            shown = repr(cut[0] if len(cut[0]) <= SHOWN else f"{cut[0][:SHOWN]}...")
            others = f", and so are {len(cut) - 1} others" if len(cut) > 1 else ""
            warn(f"The prompt {shown} is longer than {self.most_words} tokens and is cut{others}.")
        return np.array([row.ids for row in rows], np.int64).reshape(len(prompts), self.context_length)

    def word_counts(self, prompts: Sequence[str]) -> list[int]:
        rows = self._tokenizer.encode_batch([valid(prompt) for prompt in prompts], add_special_tokens=False)
        return [sum(sum(part.attention_mask) for part in (row, *row.overflowing)) for row in rows]

    @property
    def most_words(self) -> int:
        return self.context_length - self._tokenizer.num_special_tokens_to_add(False)

    def save(self, folder: Path) -> None:
        (folder / FILES[0]).write_text(self.text, encoding="utf-8")
        write_json(folder / FILES[1], self.settings)


def read_own_tokenizer(folder: Path, context_length: int, vocab_size: int, error: type[D4CError]) -> OwnTokenizer:
    """Read the tokenizer that `OwnTokenizer.save` wrote into a folder.

    Args:
        folder: Where it was written.
        context_length: Length of the rows that the text tower reads.
        vocab_size: Number of ids that it has.
        error: Class of the exceptions to raise.

    Raises:
        D4CError: Of class `error`, if a file is missing or damaged or belongs to another text tower.
    """
    file = folder / FILES[0]
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{file} cannot be read ({reason_of(problem)}); write the folder again.") from None
    settings = read_json(folder / FILES[1], error, "write the folder again")
    check(settings, Record(), str(folder / FILES[1]), error, "write the folder again")
    tokenizer = OwnTokenizer(text, settings, str(folder), error)
    tokenizer.check(context_length, vocab_size, str(folder), error)
    return tokenizer


def parse_tokenizer(text: str, source: str, error: type[D4CError]) -> Tokenizer:
    """Parse the content of a tokenizer.json; raises an error of class `error` for anything else."""
    reason = ""
    try:
        whole = Tokenizer.from_str(text)
        whole.encode("a photo")  # what is missing from templates shows here
        return whole
    except Exception as problem:
        reason = reason_of(problem)
    except BaseException as panic:  # of the library, which is written in Rust
        if type(panic).__name__ != "PanicException":
            raise
        reason = str(panic)
    raise error(f"{source}: tokenizer.json is not a tokenizer ({reason[:200]}); use an undamaged file.")

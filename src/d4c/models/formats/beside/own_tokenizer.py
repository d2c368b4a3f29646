"""Reads the tokenizer that a checkpoint brings as a tokenizer.json, and completes it to one that needs nothing else."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, normalizers, processors

from d4c.errors import CheckpointError, reason_of
from d4c.models.formats.weights import read_json_object
from d4c.models.inputs.prompt_tokenizers import OwnTokenizer, parse_tokenizer, read_own_tokenizer
from d4c.models.inputs.tokenizer_files import FILES
from d4c.models.tower_config import TextConfig
from d4c.reading.bounded import read_up_to

LARGEST = 1 << 28
"""Bytes of a tokenizer.json; that of 900,000 words has about 50 million."""
Cleaning = Literal["canonical", "lower", "plain", "done"]
"""What is done to a prompt before tokenizer.json is: lower case without punctuation, lower case, single spaces, or
nothing, if d4c has completed the file."""

_LOWER_ONLY = re.compile(r"(Gemma|Siglip2).*")
"""Classes of tokenizers of SigLIP 2, which was trained with punctuation."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class TokenizerFiles:
    """Where a tokenizer is.

    Attributes:
        folder: Folder with tokenizer.json and tokenizer_config.json.
        cleaning: What is done to prompts before.
        without_end: Whether the token with the id 0 takes the place of what ends a prompt, as open_clip's
            `strip_sep_token` does.
    """

    folder: Path
    cleaning: Cleaning
    without_end: bool = False

    def read(self, text: TextConfig, source: str) -> OwnTokenizer | None:
        """Read the tokenizer for a text tower; None if there is no tokenizer.json.

        Raises:
            CheckpointError: The files are damaged or do not say which token fills rows.
        """
        file, settings_file = (self.folder / name for name in FILES)
        if not file.is_file():
            return None
        if self.cleaning == "done":
            return read_own_tokenizer(self.folder, text.context_length, text.vocab_size, CheckpointError)
        try:
            with file.open("rb") as stream:
                content = read_up_to(stream, LARGEST).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file} cannot be read ({reason_of(error)}); download it again.") from None
        if len(content) > LARGEST:
            raise CheckpointError(f"{file} has more than {LARGEST} bytes, expected a tokenizer; download it again.")
        settings = read_json_object(settings_file) if settings_file.is_file() else {}
        whole = parse_tokenizer(content, source, CheckpointError)
        if self.without_end:
            _replace_end(whole, source)
        _pad_and_cut(whole, settings, text.context_length, source)
        steps = _cleaning_steps(self.cleaning)
        whole.normalizer = normalizers.Sequence([*steps, *([whole.normalizer] if whole.normalizer else [])])
        kept = {name: _content(settings[name]) for name in _SPECIAL if settings.get(name)}
        complete = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **kept,
            "model_max_length": text.context_length,
            "model_input_names": ["input_ids"],
            "padding_side": whole.padding["direction"] if whole.padding else "right",
        }
        return OwnTokenizer(whole.to_str(), complete, source, CheckpointError)


def siglip_cleaning(folder: Path) -> Cleaning:
    """Return how transformers cleans the prompts of the SigLIP or SigLIP 2 in a folder."""
    file = folder / FILES[1]
    kind = read_json_object(file).get("tokenizer_class") if file.is_file() else None
    return "lower" if isinstance(kind, str) and _LOWER_ONLY.fullmatch(kind) else "canonical"


def _replace_end(whole: Tokenizer, source: str) -> None:
    """Let BERT's token that begins a prompt begin it, and the token with the id 0 end it."""
    begin, end = "[CLS]", whole.id_to_token(0)
    begin_id = whole.token_to_id(begin)
    if begin_id is None or end is None:
        raise CheckpointError(
            f"{source}: its tokenizer has no {begin} or no token with the id 0, which strip_sep_token needs; "
            "use the tokenizer that its configuration names."
        )
    special = [(begin, begin_id), (end, 0)]
    whole.post_processor = processors.TemplateProcessing(f"{begin} $A {end}", None, special)


def _pad_and_cut(whole: Tokenizer, settings: dict[str, Any], length: int, source: str) -> None:
    """Make rows of one length, filled with the token that the files name."""
    earlier = whole.padding or {}
    token = _content(settings.get("pad_token")) or earlier.get("pad_token")
    pad_id = whole.token_to_id(token) if isinstance(token, str) else None
    if pad_id is None:
        raise CheckpointError(
            f"{source}: its tokenizer does not say which token fills rows, expected a pad_token in "
            f"{FILES[1]}; add it there."
        )
    side = str(settings.get("padding_side") or earlier.get("direction") or "right").lower()
    if side not in ("left", "right"):
        raise CheckpointError(f"{source}: padding_side is {side!r}, expected 'left' or 'right'; correct {FILES[1]}.")
    whole.enable_padding(direction=side, pad_id=pad_id, pad_token=str(token), length=length)
    whole.enable_truncation(length)


def _cleaning_steps(cleaning: Cleaning) -> list[normalizers.Normalizer]:
    """The steps of a cleaning; to repeat them changes nothing."""
    spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if cleaning == "plain":
        return spaces
    if cleaning == "lower":
        return [normalizers.Lowercase(), *spaces]
    punctuation = Regex(f"[{re.escape(string.punctuation)}]")
    return [normalizers.Lowercase(), normalizers.Replace(punctuation, ""), *spaces]


def _content(token: Any) -> Any:
    """The text of a token, which files of transformers may hold in a table."""
    return token.get("content") if isinstance(token, dict) else token

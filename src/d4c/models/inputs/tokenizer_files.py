"""Writes CLIP's tokenizer as files that other libraries read: tokenizers, transformers, transformers.js.

Read by `tokenizers`, tokenizer.json gives the ids of `token_ids`, zeros included, except for HTML entities, which no
normalizer of the library resolves. transformers pads with end of text instead of 0, as for OpenAI's own models; where
the embedding alone is read, nothing after the first end of text counts.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.normalizers import NFC, Lowercase, Normalizer, Replace, Sequence, Strip
from tokenizers.processors import RobertaProcessing

from d4c.models.inputs.tokenizer import END, ESCAPE, FIXES, LIGATURES, START, VOCAB_SIZE, new_tokenizer
from d4c.storage.files import write_json

FILES = ("tokenizer.json", "tokenizer_config.json")


def save_tokenizer(folder: Path, context_length: int, pad_id: int = 0) -> None:
    """Write the tokenizer into a folder.

    Args:
        folder: Where to write `FILES`.
        context_length: Length of a row of ids.
        pad_id: The token that fills rows.
    """
    complete_tokenizer(context_length, pad_id).save(str(folder / FILES[0]))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "model_max_length": context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    write_json(folder / FILES[1], config)


def complete_tokenizer(context_length: int, pad_id: int = 0) -> Tokenizer:
    """Return CLIP's tokenizer with what is around words: normalizer, begin and end, truncation, padding, decoder."""
    whole = new_tokenizer()
    whole.normalizer = _normalizer()
    whole.post_processor = RobertaProcessing(
        (END, VOCAB_SIZE - 1), (START, VOCAB_SIZE - 2), trim_offsets=False, add_prefix_space=False
    )
    whole.decoder = ByteLevel()
    whole.enable_truncation(context_length)
    # Only the id counts here. Its own token, "!", must not be named: transformers would no longer split it off words.
    whole.enable_padding(pad_id=pad_id, pad_token=END, length=context_length)
    return whole


def _normalizer() -> Normalizer:
    """What `clean` does, but for HTML entities."""
    by_replacement: dict[str, list[int]] = defaultdict(list)
    for code, replacement in (LIGATURES | FIXES).items():
        by_replacement[replacement or ""].append(code)
    steps = [Replace(Regex(ESCAPE.pattern), "")]
    for replacement, codes in by_replacement.items():
        steps.append(Replace(Regex("[" + "".join(f"\\x{{{code:X}}}" for code in codes) + "]"), replacement))
    return Sequence([*steps, NFC(), Replace(Regex(r"\s+"), " "), Strip(), Lowercase()])

"""tokenizers and transformers read an export's tokenizer and preprocessing and compute the same ids and pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.models.inputs.tokenizer import END, START, VOCAB_SIZE, token_ids
from d4c.runtime.runtime_clip import RuntimeCLIP

transformers = pytest.importorskip("transformers")

PLAIN = {
    "plain": "a photo of a cat.",
    "empty": "",
    "spaces": "  a   photo\t of\r\n\n a\u00a0cat  ",
    "contractions": "Don't stop! It's what we're told; I'LL've",
    "accents": "café CAFÉ cafe\u0301 STRASSE ß",
    "scripts": "日本語 한국어 हिन्दी",
    "emoji": "😀👩‍👩‍👧",
    "digits": "123 ½ ² Ⅷ",
    "punctuation": "x_y__z--!?<>#@ ... ! !!",
    "special tokens": f"{START} a",
}
CLEANED = {
    "quotes and widths": "“curly” ‘q’ ﬁsh ﬂ ﬅ ｆｕｌｌ　ｗｉｄｅ",
    "controls": "a\x00b \x1b[31mred\x1b[0m \ufeffc y\u2028z",
}
LONG = {"long": "word " * 200, "one long word": "a" * 500}
PROMPTS = PLAIN | CLEANED | LONG


@pytest.fixture(scope="module")
def tokenizer(exported: Path) -> Tokenizer:
    return Tokenizer.from_file(str(exported / "tokenizer.json"))


@pytest.mark.filterwarnings("ignore:A prompt is longer")
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_tokenizers_gives_the_same_rows(prompt: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(prompt).ids == token_ids(prompt)[0].tolist()


def assert_same(ids: list[int], prompt: str) -> None:
    """Up to the padding, which is end of text in transformers and 0 in ours."""
    row = token_ids(prompt)[0]
    end = int((row == VOCAB_SIZE - 1).argmax())
    assert ids[: end + 1] == row[: end + 1].tolist()
    assert ids[end + 1 :] == [VOCAB_SIZE - 1] * (76 - end)


READERS: dict[str, tuple[Any, dict[str, str]]] = {
    "CLIPTokenizerFast": (lambda folder: transformers.CLIPTokenizerFast.from_pretrained(folder), PLAIN | LONG),
    "PreTrainedTokenizerFast": (lambda folder: transformers.PreTrainedTokenizerFast.from_pretrained(folder), PROMPTS),
    "AutoTokenizer": (lambda folder: transformers.AutoTokenizer.from_pretrained(folder), PROMPTS),
}


@pytest.mark.filterwarnings("ignore:A prompt is longer")
@pytest.mark.parametrize("reader", READERS)
def test_transformers_gives_the_same_ids(reader: str, exported: Path) -> None:
    read, prompts = READERS[reader]
    tokenizer = read(exported)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == (START, END, 77)
    for prompt in prompts.values():
        assert_same(tokenizer(prompt, padding="max_length", truncation=True)["input_ids"], prompt)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA"])
@pytest.mark.parametrize(("backend", "step"), [("pil", 0.0), ("torchvision", 1.0)])
def test_transformers_gives_the_same_pixels(
    mode: str, backend: str, step: float, exported: Path, model: RuntimeCLIP
) -> None:
    """Exactly with Pillow; torchvision resizes to within one of 255 steps."""
    processor = transformers.AutoImageProcessor.from_pretrained(exported, backend=backend)
    emoji = demo_dataset().picture(3).resize((120, 96))
    picture = emoji if mode == "RGBA" else emoji.convert("RGB" if mode != "LA" else "LA").convert(mode)
    theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
    bound = step / 255 / min(model.exported.std) + 1e-5
    assert np.abs(theirs - model.preprocess(picture)).max() <= (bound if step else 0)


def test_an_odd_rest_is_cut_where_openai_cuts_it(exported: Path, model: RuntimeCLIP) -> None:
    """Of 3 columns too many, transformers leaves 1 out on the left, and OpenAI's code and ours 2."""
    picture = Image.fromarray(np.arange(67 * 64 * 3, dtype=np.uint8).reshape(64, 67, 3))
    assert np.array_equal(model.preprocess(picture), model.preprocess(picture.crop((2, 0, 66, 64))))

"""Prompt templates, and how a class name is put into one."""

from __future__ import annotations

import re
import unicodedata

from d4c.errors import DataError

PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a {}",
    "a good photo of a {}.",
    "itap of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
)
EMOJI_TEMPLATES = ("an emoji of a {}.", "a drawing of a {}.", "a {} icon", "a cartoon {}.")

_SPOKEN_WITH_CONSONANT = (
    *("eu", "ewe", "once", "one", "ouija", "ubi", "ufo", "uk", "ura", "ure", "uri", "uro", "uru", "usa", "usb", "use"),
    *("usu", "ute", "uti", "uto", "uv"),
    *("unib", "unic", "unidir", "unif", "unig", "unil", "union", "unip", "uniq", "unis", "unit", "univ"),
)
"""How words begin that are written with a vowel and spoken with a consonant: a unicorn, a one-way street."""
_SILENT_H = ("heir", "herbal", "honest", "honor", "honour", "hour")
_WORDS_SPOKEN_WITH_VOWEL = (
    *("herb", "herbs", "fbi", "hd", "hdmi", "hiv", "html", "lcd", "led", "mp", "mri", "nba", "nfl", "nhl", "rpg", "rv"),
    *("sms", "sos", "ssd", "suv", "xml"),
)
"""Words that are written with a consonant and spoken with a vowel, most of them letter by letter: an MP3 player."""
_LETTERS_SPOKEN_WITH_VOWEL = "aefhilmnorsx"
_NUMBER_SPOKEN_WITH_VOWEL = re.compile(r"8|1[18](,?\d{3})*(?!\d)")


def fill_template(template: str, name: str) -> str:
    """Replace "{}" in a template with a name; an "a" before it becomes "an" if the name begins with a vowel sound."""
    if takes_an(name):
        template = re.sub(r"\b([aA])(?= \{\})", r"\1n", template)
    return template.replace("{}", name)


def check_template(template: str) -> None:
    """Raise DataError for a template that has no place for a name."""
    if "{}" not in template:
        raise DataError(
            f"The template {template!r} has no {{}} where the name goes; write it like 'a photo of a {{}}.'."
        )


def takes_an(name: str) -> bool:
    """Whether "an" goes before a name in American English, by the sound of its beginning as far as spelling tells."""
    letters = (letter for letter in unicodedata.normalize("NFD", name.lower()) if not unicodedata.combining(letter))
    plain = re.sub(r"^[\W_]+", "", "".join(letters))
    words = re.match(r"[a-z]+", plain)
    if words is None:
        return _NUMBER_SPOKEN_WITH_VOWEL.match(plain) is not None
    word = words[0]
    if len(word) == 1:
        return word in _LETTERS_SPOKEN_WITH_VOWEL
    if word in _WORDS_SPOKEN_WITH_VOWEL or word.startswith(_SILENT_H):
        return True
    return word[0] in "aeiou" and not word.startswith(_SPOKEN_WITH_CONSONANT)

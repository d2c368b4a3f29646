"""What is true of the training pictures in words, and a vocabulary for it: `captions.json` and `tokenizer.json`.

    python -m benchmarks.siglip.captions --data DIR --emoji DIR --wordnet data.noun --out DIR

A class of photographs has its names in WordNet and, with falling weight, what its hypernyms are called; an emoji has
its name and keywords in Unicode's CLDR. The vocabulary is a Unigram model of these concepts under the templates, with
lower-case words without punctuation, as SigLIP reads prompts.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from benchmarks.common.arguments import argument_parser
from d4c.storage.files import write_json
from d4c.templates import EMOJI_TEMPLATES, PHOTO_TEMPLATES, fill_template

PHOTO = (*PHOTO_TEMPLATES, "{}", "a bad photo of a {}.", "an image of a {}.")
DRAWING = (*EMOJI_TEMPLATES, "{}", "a picture of a {}.")
"""Templates of captions in training."""
CIFAR = {
    "airplane": ("plane", "aircraft", "vehicle", "jet"),
    "automobile": ("car", "motor vehicle", "vehicle", "auto"),
    "bird": ("animal",),
    "cat": ("feline", "mammal", "animal", "carnivore"),
    "deer": ("ungulate", "mammal", "animal"),
    "dog": ("canine", "mammal", "animal", "carnivore"),
    "frog": ("amphibian", "animal"),
    "horse": ("equine", "ungulate", "mammal", "animal"),
    "ship": ("vessel", "craft", "vehicle", "boat"),
    "truck": ("motor vehicle", "vehicle", "lorry"),
}
"""Other words for CIFAR-10's classes."""
DEEPEST = 9
"""Hypernyms farther up than this are left out."""
EMPTY = {
    "entity",
    "physical entity",
    "abstraction",
    "whole",
    "object",
    "matter",
    "substance",
    "organism",
    "living thing",
    "instrumentality",
    "artifact",
    "unit",
    "psychological feature",
    "causal agent",
    "chordate",
    "vertebrate",
    "physical object",
    "thing",
    "being",
    "attribute",
    "relation",
    "group",
    "communication",
    "measure",
    "food product",
    "solid",
    "nutriment",
    "consumer goods",
    "commodity",
    "conveyance",
    "covering",
    "way",
    "passage",
    "part",
    "piece",
    "natural object",
    "location",
    "region",
    "area",
    "geological formation",
    "placental",
    "instrument",
    "device",
    "equipment",
}
"""Hypernyms that say nothing about a picture."""
VOCABULARY = 4096
PAD, UNKNOWN = "</s>", "<unk>"

Weights = dict[str, float]
"""How often each concept is a picture's own caption, relative to others of its class."""


class WordNet:
    """Nouns of WordNet 3.0 by their offsets, from the file `data.noun`."""

    def __init__(self, path: Path) -> None:
        self.names: dict[str, list[str]] = {}
        self.above: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if line.startswith("  "):  # the license
                continue
            words = line.split(" ")
            count = int(words[3], 16)
            pointers = 4 + 2 * count
            self.names[words[0]] = [clean(words[4 + 2 * i].replace("_", " ")) for i in range(count)]
            links = (words[pointers + 1 + 4 * i : pointers + 3 + 4 * i] for i in range(int(words[pointers])))
            self.above[words[0]] = [offset for kind, offset in links if kind in ("@", "@i")]

    def hypernyms(self, offset: str, depth: int = 0) -> Iterator[tuple[int, str]]:
        for higher in self.above[offset] if depth <= DEEPEST else ():
            yield depth, self.names[higher][0]
            yield from self.hypernyms(higher, depth + 1)

    def concepts(self, offset: str) -> Weights:
        names = self.names[offset]
        weights = {name: 0.25 / len(names) for name in names}
        weights[names[0]] += 0.4
        for depth, name in self.hypernyms(offset):
            if name not in EMPTY:
                weights[name] = weights.get(name, 0) + 0.14 * 0.75**depth
        return weights


def clean(text: str) -> str:
    return text.lower().replace("\u2019", "'")


def photo_classes(data: Path, wordnet: WordNet) -> dict[str, list[Weights]]:
    """The concepts of the classes of each file of photographs, in the order of their labels."""
    schema = pq.read_schema(data / "tiny-imagenet-train.parquet").metadata
    tiny = [wordnet.concepts(number[1:]) for number in json.loads(schema[b"class_ids"])]
    for weights, name in zip(tiny, json.loads(schema[b"classes"]), strict=True):
        weights[clean(name)] = weights.get(clean(name), 0) + 0.3
    names = json.loads(pq.read_schema(data / "cifar10-train.parquet").metadata[b"classes"])
    cifar = [{name: 0.5} | dict.fromkeys(CIFAR[name], 0.5 / len(CIFAR[name])) for name in names]
    return {"tiny-imagenet": tiny, "cifar10": cifar}


def emoji_classes(folder: Path) -> dict[str, Weights]:
    """The concepts of each emoji by its code."""
    classes: dict[str, Weights] = {}
    for file in sorted(folder.glob("train_*.parquet")):
        for row in pq.read_table(file, columns=["hexcode", "name", "keywords"]).to_pylist():
            if row["hexcode"] not in classes:
                keywords = [clean(word) for word in row["keywords"] or () if 2 < len(word) < 30][:10]
                weights = {clean(row["name"]): 0.5}
                for word in keywords:
                    weights[word] = weights.get(word, 0) + 0.35 / len(keywords)
                classes[row["hexcode"]] = weights
    return classes


def train_tokenizer(concepts: list[str]) -> Tokenizer:
    """A Unigram vocabulary of concepts under the templates, with what SigLIP's tokenizer does around it."""
    whole = Tokenizer(models.Unigram())
    punctuation = Regex("[" + "".join(f"\\{mark}" for mark in string.punctuation) + "]")
    steps = [normalizers.Lowercase(), normalizers.Replace(punctuation, ""), normalizers.Replace(Regex(r"\s+"), " ")]
    whole.normalizer = normalizers.Sequence([*steps, normalizers.Strip()])
    whole.pre_tokenizer = pre_tokenizers.Metaspace()
    whole.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", PAD, UNKNOWN], unk_token=UNKNOWN, show_progress=False
    )
    whole.train_from_iterator((fill_template(t, c) for c in concepts for t in (*PHOTO, *DRAWING)), trainer)
    whole.post_processor = processors.TemplateProcessing(f"$A {PAD}", None, [(PAD, whole.token_to_id(PAD))])
    return whole


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the photographs to train on")
    parser.add_argument("--emoji", type=Path, required=True, help="folder of train_*.parquet")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet/data.noun"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photos, emoji = photo_classes(args.data, WordNet(args.wordnet)), emoji_classes(args.emoji)
    concepts = sorted({name for weights in (*photos["tiny-imagenet"], *photos["cifar10"]) for name in weights})
    concepts += sorted({name for weights in emoji.values() for name in weights} - set(concepts))
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "captions.json", {"concepts": concepts, "photos": photos, "emoji": emoji})
    tokenizer = train_tokenizer(concepts)
    tokenizer.save(str(args.out / "tokenizer.json"))
    print(f"{len(concepts)} concepts, {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()

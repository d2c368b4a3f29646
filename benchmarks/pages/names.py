"""Tables of what commands take: datasets, methods, and configurations of open_clip."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.pages.results import markdown, plain, read_result


def datasets() -> str:
    """What `--dataset` takes."""
    from d4c.evaluation.load_dataset import READERS

    return markdown(["spec", "what it reads"], [[f"`{r.form}`", plain(r.summary)] for r in READERS.values()])


def methods() -> str:
    """What `--method` takes."""
    from d4c.synthesis.methods.table import METHODS

    return markdown(["method", "what it makes"], [[f"`{m.name}`", plain(m.summary)] for m in METHODS.values()])


FAMILIES = {
    "OpenAI's ResNets": r"RN\d.*",
    "CLIPA": r".*CLIPA.*",
    "SigLIP": r"ViT-.*-SigLIP(-.*)?",
    "SigLIP 2": r"ViT-.*-SigLIP2(-.*)?",
    "MetaCLIP 2": r".*-worldwide.*",
    "ViTs of OpenAI, LAION and DataComp": r"ViT-.*",
    "MobileCLIP": r"MobileCLIP.*",
    "Perception Encoder": r"PE-Core.*",
    "EVA": r"EVA.*",
    "ViTamin": r"ViTamin.*",
    "ConvNeXt": r"convnext.*",
    "CoCa": r"coca.*",
    "text towers of Hugging Face": r"(xlm-)?roberta.*|mt5.*|nllb.*",
    "others": r".*",
}
"""Patterns of the names that open_clip gives to its configurations; the first that matches counts."""


def zoo() -> str:
    """Which configurations of open_clip load, by family."""
    families: dict[str, list[dict[str, Any]]] = {label: [] for label in FAMILIES}
    for row in read_result("zoo", "zoo")["rows"]:
        families[next(label for label, names in FAMILIES.items() if re.fullmatch(names, row["name"]))].append(row)
    rows = []
    for label, members in families.items():
        refused = [row for row in members if row["refusal"]]
        reasons = "; ".join(dict.fromkeys(map(_obstacle, refused)))
        rows.append([label, f"{len(members) - len(refused)} of {len(members)}", reasons])
    return markdown(["family", "loads", "in the way"], rows)


def _obstacle(row: dict[str, Any]) -> str:
    """What keeps a configuration from being loaded, in a few words."""
    if row["decoder"]:
        return "a decoder and its pooling"
    if row["text"]:
        return "the text tower"
    if row["image"]:
        return "the image tower of timm"
    setting = re.search(r" has (\w+) = ", row["refusal"])
    return f"`{setting[1]}`" if setting else str(row["refusal"])

"""Finds the weights of a CLIP among all that a training loop saved, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, TypeVar

from d4c.errors import CheckpointError, warn

WEIGHT = TypeVar("WEIGHT")


class Choice(Protocol):
    """Takes the weights of one model from groups of weights; the second argument names the file in messages."""

    def __call__(self, groups: Mapping[str, Mapping[str, WEIGHT]], source: str, /) -> dict[str, WEIGHT]: ...


WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that parallel training and `torch.compile` insert, at the beginning or in the middle."""

ANCHORS = (
    "visual.conv1.weight",
    "vision_model.embeddings.patch_embedding.weight",
    "visual.trunk.patch_embed.proj.weight",
)
"""A weight that every supported CLIP has once, in the names of OpenAI, of Hugging Face, and of timm in open_clip."""

AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|shadow)(?=[._]|$)")
"""What marks a moving average of the weights in the name of a wrapper or of an entry."""

DROPPED = re.compile(
    r"(^|_)(classifier|classification|cls|heads?|fc|probe|linear|criterion|loss|losses|metrics?|acc|accuracy|n_averaged|"
    r"initted|step)(_|\d|$)"
)
"""First parts of names that take no part in the embeddings: classifier heads, losses, metrics and counters."""


def bare(name: str) -> str:
    """Return the name of a weight without the parts that training inserts."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def prefixes(names: Mapping[str, object]) -> list[str]:
    """Return what stands before the names of each CLIP among bare names: "" or words that end in a dot."""
    return [
        name.removesuffix(anchor)
        for anchor in ANCHORS
        for name in names
        if name == anchor or name.endswith(f".{anchor}")
    ]


def select(groups: Mapping[str, Mapping[str, WEIGHT]], source: str) -> dict[str, WEIGHT]:
    """Return the weights of the one CLIP in a checkpoint, by their plain names.

    Wrappers around names are removed. Classifier heads and the like are dropped, of which a warning tells. If the file
    holds a moving average beside the weights that it follows, the average is taken, of which a warning tells, too.

    Args:
        groups: Weights by name, in groups by their path in the file.
        source: Names the file in messages.

    Returns:
        The weights of the CLIP; of a file without any, the largest group.

    Raises:
        CheckpointError: There are several CLIPs, or two names become one without their wrappers.
    """
    plain = {path: _without_wrappers(weights, source) for path, weights in groups.items()}
    choices = {f"{path}{prefix}": (path, prefix) for path, weights in plain.items() for prefix in prefixes(weights)}
    if not choices:
        return max(plain.values(), key=lambda weights: len(weights), default={})
    path, prefix = choices[_choice(list(choices), source)]
    others = [chosen[1] for chosen in choices.values() if chosen[0] == path and chosen[1] != prefix]
    inside, dropped = {}, []
    for name, weight in plain[path].items():
        kept = name.removeprefix(prefix)
        if prefix and kept == name and any(name.startswith(other) for other in others):
            continue
        if DROPPED.search(kept.partition(".")[0]):
            dropped.append(name)
        else:
            inside[kept] = weight
    if dropped:
        warn(f"{source}: dropped {_listed(dropped)}, which no embedding depends on.")
    return inside


def every(groups: Mapping[str, Mapping[str, WEIGHT]], source: str) -> dict[str, WEIGHT]:
    """Return all weights, as they are called, of a file that holds only some of a model's."""
    return {name: weight for weights in groups.values() for name, weight in weights.items()}


def _without_wrappers(weights: Mapping[str, WEIGHT], source: str) -> dict[str, WEIGHT]:
    plain: dict[str, WEIGHT] = {}
    for name, weight in weights.items():
        if bare(name) in plain:
            raise CheckpointError(
                f"{source} holds {bare(name)!r} twice, with and without a wrapper, expected one model; save it alone."
            )
        plain[bare(name)] = weight
    return plain


def _choice(labels: list[str], source: str) -> str:
    """Return the one model to take of those with these labels."""
    averaged = [label for label in labels if AVERAGED.search(label)]
    if len(labels) == 1:
        return labels[0]
    if len(labels) == 2 and len(averaged) == 1:
        (followed,) = set(labels) - set(averaged)
        warn(
            f"{source} holds weights {_called(followed)} and their moving average {_called(averaged[0])}; the average "
            "is taken, and the state dict of the others may be passed instead.",
        )
        return averaged[0]
    raise CheckpointError(
        f"{source} holds {len(labels)} CLIPs, {', '.join(_called(label) for label in labels)}, expected one; "
        "pass the state dict of one of them."
    )


def _called(label: str) -> str:
    return f"in {label.rstrip('.')!r}" if label else "without a prefix"


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

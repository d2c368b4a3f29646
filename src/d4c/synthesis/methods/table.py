"""The table of methods, with everything that differs between them in one row each.

To add a method, write one file here with its function and one row in `METHODS`. Nothing else in the package compares
names of methods. The table needs no PyTorch, so that settings are checked and help is printed without it; the functions
of a row are imported when they are first called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Needs:
    """What a method needs from the loop around it; the default is nothing."""

    prompts: bool = False
    """Each image has a target prompt."""
    boxes: bool = False
    """Each image has a foreground box, and the background around it is drawn noise at each step."""
    perturbation: bool = False
    """Images are perturbed at each step before the tower sees them."""
    moves: bool = False
    """Images are shifted and mirrored at each step."""
    real_colors: bool = False
    """Images are clipped to valid colors after each step."""
    whole_set: bool = False
    """The losses of all images depend on one another, not only those of one group."""
    inner_layers: bool = False
    """The method looks at layers inside the tower, which therefore keeps its parts and is not compiled."""


def _serves_every_tower(_clip: Any) -> None:
    """The check of a method that asks nothing of the image tower."""


@dataclass(frozen=True)
class Method:
    """One way to make images, which either optimizes them (`losses`) or paints them directly (`paint`).

    Args:
        name: Name for `synthesize` and the command line.
        summary: One line for help and documentation.
        losses: `losses(clip, config, setup, images, draws)` returns the loss of each image [N], from images
            [N, 3, S, S] in normalized pixel space, a `SynthesisConfig`, a `Setup` and the `Draws` of the step.
        paint: `paint(clip, images, generator)` returns that many images [N, 3, S, S] in normalized pixel space.
        needs: Returns what the method needs under a `SynthesisConfig`.
        alone: Settings that take the place of its own for an image tower alone, which has no prompts.
        check: `check(clip)` raises SettingError for an image tower that the method cannot serve.
    """

    name: str
    summary: str
    losses: Callable[..., Any] | None = None
    paint: Callable[..., Any] | None = None
    needs: Callable[[Any], Needs] = lambda _config: Needs()
    alone: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], object] = _serves_every_tower


def late(module: str, function: str) -> Callable[..., Any]:
    """Return a function that imports its module at the first call."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module), function)(*args)

    return call


def _contrastive(name: str, summary: str, *, boxes: bool, perturbation: bool) -> Method:
    needs = Needs(prompts=True, boxes=boxes, perturbation=perturbation)
    losses = late("d4c.synthesis.methods.contrastive", "contrastive_losses")
    return Method(name, summary, losses, needs=lambda _config: needs)


def _bns_needs(config: Any) -> Needs:
    return Needs(whole_set=config.statistics == "set", inner_layers=True)


def _pse_needs(config: Any) -> Needs:
    psaq = config.pse_form != "published"
    return Needs(prompts=config.pse_form == "psaq", moves=psaq, real_colors=psaq, inner_layers=True)


BNS, PSE, PAINTED = (f"d4c.synthesis.methods.{module}" for module in ("bns", "pse", "painted"))

ROWS = (
    _contrastive("d4c", "the published method: a prompt, a box and perturbations", boxes=True, perturbation=True),
    _contrastive("pgsi", "d4c with prompts alone", boxes=False, perturbation=False),
    _contrastive("pgsi+scg", "d4c without perturbations", boxes=True, perturbation=False),
    _contrastive("pgsi+pae", "d4c without boxes", boxes=False, perturbation=True),
    Method(
        "bns",
        "statistics of BatchNorm, for ResNets only",
        late(BNS, "statistics_losses"),
        needs=_bns_needs,
        check=late(BNS, "batch_norms"),
    ),
    Method(
        "pse",
        "entropy of patch similarity, for vision transformers only",
        late(PSE, "similarity_losses"),
        needs=_pse_needs,
        alone={"pse_form": "psaq-alone"},
        check=late(PSE, "attentions"),
    ),
    Method("noise", "Gaussian noise", paint=late(PAINTED, "noise")),
    Method("pink", "noise of amplitude 1/f", paint=late(PAINTED, "pink")),
    Method("leaves", "dead leaves: overlapping discs and rectangles", paint=late(PAINTED, "leaves")),
)

METHODS: dict[str, Method] = {row.name: row for row in ROWS}
"""Every method by its name."""

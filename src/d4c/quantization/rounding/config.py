"""How rounding and activation scales are learned: the settings of one unit's optimization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Importance = Literal["none", "embedding", "zeroshot"]


@dataclass(frozen=True)
class ReconstructionConfig:
    """How each unit is optimized; the defaults are those of the deployable track.

    With `annealing="published"` the loss sums squared errors over dimension 1, averages the rest and adds
    `rounding_weight` times the sum of the rounding regularizer, which leaves many weights undecided unless there are
    thousands of steps. With `annealing="temperature"` it is the mean squared error alone: a temperature that grows to
    `TEMPERATURE` decides every weight, while what is still soft makes up for it; and a unit stays as it was if
    learning did not lower its error.
    With an `importance` other than "none" the tokens of an image count as `token_importance` says: by what they do to
    the embedding, or to the zero-shot distribution.
    With `closed_form_start`, GPTQ finds the weights that learned rounding starts from.
    Learning rates of activation scales are relative to the scale, or absolute with `absolute_scales`.
    """

    closed_form_start: bool = True
    iterations: int = 500
    batch_size: int = 32
    rounding_lr: float = 1e-2
    image_scale_lr: float = 1e-3
    text_scale_lr: float = 1e-3
    absolute_scales: bool = False
    rounding_weight: float = 0.01
    warmup: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    drop: float = 0.5
    annealing: Literal["published", "temperature"] = "temperature"
    importance: Importance = "none"

    def shortened(self, iterations: int) -> ReconstructionConfig:
        """The same schedule in another number of steps, with learning rates by the root of the ratio.

        A rounding variable has to travel the same way in fewer steps; Adam's noise grows with the root.
        """
        ratio = (self.iterations / iterations) ** 0.5
        return replace(
            self,
            iterations=iterations,
            rounding_lr=self.rounding_lr * ratio,
            image_scale_lr=self.image_scale_lr * ratio,
            text_scale_lr=self.text_scale_lr * ratio,
        )


PAPER = ReconstructionConfig(
    closed_form_start=False,
    iterations=20000,
    rounding_lr=1e-3,
    image_scale_lr=4e-5,
    text_scale_lr=4e-6,
    absolute_scales=True,
    drop=0.0,
    annealing="published",
)

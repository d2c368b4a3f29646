"""Adam over the images as the published code uses it: groups take turns, and coast in between."""

from __future__ import annotations

import torch
from torch import Tensor


class CoastingAdam:
    """One Adam over all images that steps once a group, each time with a zero gradient for the other groups.

    In iteration i, group g of G takes its real step as step number t = i G + g + 1 of the shared Adam, then coasts on
    its momentum for G - 1 steps until its next turn: m shrinks by beta1 and v by beta2 each time, which with 8 groups
    moves an image about 2.8 times as far as one step an iteration would. Before its first turn a group has no
    momentum and stands still, though the step count runs. Images meet only inside their group, so evaluating all
    groups at once, each at its own phase, is exact: `step` applies every group's real step and the coasting up to
    its next turn element by element. At the end all groups stop at the same shared step.

    With one group this is plain Adam (Kingma and Ba 2015) with the usual constants.
    """

    def __init__(self, images: Tensor, group: Tensor, iterations: int, lr: float) -> None:
        """`images` [N, ...] is updated in place; `group` int64 [N] holds each image's group, 0 to G - 1."""
        self.images, self.group, self.lr = images, group.to("cpu", torch.float64), lr
        self.groups = int(group.max()) + 1
        self.total = iterations * self.groups
        self.beta1, self.beta2, self.eps = 0.9, 0.999, 1e-8
        self.m = torch.zeros_like(images)
        self.v = torch.zeros_like(images)
        self.iteration = 0

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Take the real step of every image along its gradient [N, ...], then its coasting steps."""
        self.m.lerp_(gradient, 1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = self.v.sqrt()
        rates, shrinks = self.factors()
        for rate, shrink in zip(rates, shrinks, strict=True):
            self.images.addcdiv_(self.m * rate, root * shrink + self.eps, value=-1)
        self.m.mul_(self.beta1 ** (self.groups - 1))
        self.v.mul_(self.beta2 ** (self.groups - 1))
        self.iteration += 1

    def factors(self) -> tuple[Tensor, Tensor]:
        """Per step from an image's real one to its last idle one, and per image, both [G, N, 1, ...].

        Adam moves by lr m' / (1 - beta1^t) / (sqrt(v' / (1 - beta2^t)) + eps) where, k steps behind the real one,
        m' = beta1^k m and v' = beta2^k v: the first result is the factor of m, the second that of sqrt(v).
        """
        idle = torch.arange(self.groups, dtype=torch.float64)[:, None]
        t = self.iteration * self.groups + self.group + 1 + idle
        rate = self.lr * self.beta1**idle / (1 - self.beta1**t) * (t <= self.total)
        shrink = (self.beta2**idle / (1 - self.beta2**t)).sqrt()
        both = torch.stack([rate, shrink]).to(self.images.dtype).to(self.images.device, non_blocking=True)
        shaped = both.view(2, *t.shape, *[1] * (self.images.dim() - 1))
        return shaped[0], shaped[1]

"""`CoastingAdam`: Adam over the images as the published code uses it; groups take turns and coast in between."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.compiled import fused


class CoastingAdam:
    """One Adam over all images that steps once per group, each time with a zero gradient for the other groups.

    In iteration i, group g of G takes its real step as step number t = i G + g + 1 of the shared Adam, then coasts on
    its momentum for G - 1 steps until its next turn: m shrinks by beta1 and v by beta2 each time. So the more groups
    there are, the further an iteration moves an image. Before its first turn a group has no momentum and does not move,
    although the steps count. Images interact only inside their group, so evaluating all groups at once, each at its own
    phase, is exact: `step` applies every group's real step and the coasting up to its next turn element by element.
    At the end all groups stop at the same shared step.

    With one group this is plain Adam (Kingma and Ba 2015) with the usual constants. The step count is a tensor on the
    device, so that a step can be captured as a graph.

    Args:
        images: Images [N, ...], updated in place.
        group: Group of each image, int64 [N], 0 to `groups` - 1.
        groups: Number of groups G.
        iterations: Number of iterations.
        lr: Learning rate.
    """

    def __init__(self, images: Tensor, group: Tensor, groups: int, iterations: int, lr: float) -> None:
        self.images, self.group, self.groups, self.lr = images, group, groups, lr
        self.shared_steps = iterations * groups
        self.beta1, self.beta2, self.eps = 0.9, 0.999, 1e-8
        self.m = torch.zeros_like(images)
        self.v = torch.zeros_like(images)
        self.iteration = torch.zeros((), dtype=torch.int64, device=images.device)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Take the real step of every image along its gradient [N, ...], then its coasting steps."""
        rates, eps = self.factors()
        betas = self.beta1, self.beta2
        coast(self.images, self.m, self.v, gradient, rates, eps, betas)
        self.iteration += 1

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factor of m and the summand of sqrt(v) in each of the G steps of an iteration.

        Adam moves by lr m' / (1 - beta1^t) / (sqrt(v' / (1 - beta2^t)) + eps) where, k steps after the real one,
        m' = beta1^k m and v' = beta2^k v. Divided by the factor of sqrt(v) this is rate m / (sqrt(v) + eps').

        Returns:
            rate and eps', [G, N, 1, ...] each.
        """
        idle = torch.arange(self.groups, dtype=torch.float64, device=self.group.device)[:, None]
        t = self.iteration * self.groups + self.group + 1 + idle
        shrink = (self.beta2**idle / (1 - self.beta2**t)).sqrt()
        rate = self.lr * self.beta1**idle / (1 - self.beta1**t) / shrink * (t <= self.shared_steps)
        shape = (*t.shape, *[1] * (self.images.dim() - 1))
        rates, eps = (factor.to(self.images.dtype).view(shape) for factor in (rate, self.eps / shrink))
        return rates, eps


@fused
def coast(
    images: Tensor, m: Tensor, v: Tensor, gradient: Tensor, rates: Tensor, eps: Tensor, betas: tuple[float, float]
) -> None:
    """Update images and moments in place: one real step and G - 1 idle ones.

    Args:
        images: Images [N, ...].
        m: First moment, of the shape of the images.
        v: Second moment, of the shape of the images.
        gradient: Gradient, of the shape of the images.
        rates: Factors of m in each step [G, N, 1, ...].
        eps: Summands of sqrt(v) in each step [G, N, 1, ...].
        betas: Decay of m and v per step.
    """
    beta1, beta2 = betas
    m.lerp_(gradient, 1 - beta1)
    v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = v.sqrt()
    moved = torch.zeros_like(root)
    for k in range(len(rates)):
        moved = moved + rates[k] / (root + eps[k])
    images.addcmul_(m, moved, value=-1)
    m.mul_(beta1 ** (len(rates) - 1))
    v.mul_(beta2 ** (len(rates) - 1))

"""Optimizes images: one step for all of them, and the loop around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Generator, Tensor

from d4c.compiled import Repeated, lacks_memory
from d4c.errors import SettingError, warn
from d4c.models.clip import CLIP
from d4c.progress import Interval
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.methods.table import METHODS
from d4c.synthesis.optimizer import CoastingAdam
from d4c.synthesis.setup import Setup
from d4c.synthesis.views import Draws, draw_step

LOOK_EVERY = 0.5
"""Seconds between two looks at the loss; each waits for the GPU, which otherwise computes while the host prepares."""


class Loop:
    """The state of an optimization: `images` change in place, `history` holds the mean loss of each iteration.

    Random numbers are drawn for all N images, so that the number of processes changes no image. Nothing in a step waits
    for the device or depends on the host, so that it can be captured and replayed.

    Args:
        clip: The model.
        config: The settings.
        setup: Targets, groups and boxes of all N images.
        start: Start images [N, 3, S, S] in normalized pixel space.
        generator: Source of the random numbers of all steps.
        rows: The images that this process makes, in whole groups.
    """

    def __init__(
        self,
        clip: CLIP,
        config: SynthesisConfig,
        setup: Setup,
        start: Tensor,
        generator: Generator,
        rows: slice = slice(None),
    ) -> None:
        self.clip, self.config, self.setup, self.generator, self.rows = clip, config, setup[rows], generator, rows
        self.images = start[rows].clone()
        shared = config.optimizer == "shared"
        groups = -(-config.images // config.inseparable) if shared else 1
        group = self.setup.group if shared else torch.zeros_like(self.setup.group)
        self.adam = CoastingAdam(self.images, group, groups, config.iterations, config.lr)
        self.history = torch.zeros(config.iterations, device=start.device)
        self.done = 0
        ends = (torch.zeros(3, 1, 1, device=start.device), torch.ones(3, 1, 1, device=start.device))
        self.black, self.white = (clip.normalize(end) for end in ends)
        self.repeat = Repeated(start.device, [generator])

    def step(self) -> None:
        """Do one iteration for all images, on the device only."""
        draws = draw_step(self.config.images, self.clip.image_size, self.config, self.generator)[self.rows]
        losses, gradient = evaluate_step(self.clip, self.config, self.setup, self.images, draws)
        self.history.index_copy_(0, self.adam.iteration[None], losses.mean()[None])
        self.adam.step(gradient)
        if self.config.needs.real_colors:
            self.images.clamp_(self.black, self.white)

    def run(self, watch: Callable[[], None] | None = None) -> None:
        """Do all remaining iterations.

        Args:
            watch: Called about twice per second and after the last iteration.

        Raises:
            SettingError: The loss is not finite.
        """
        last, looks = self.config.iterations, Interval(LOOK_EVERY)
        while self.done < last:
            self.advance()
            self.done += 1
            if looks.passed() or self.done == last:
                self.check_losses()
                if watch is not None:
                    watch()

    def check_losses(self) -> None:
        """Raise SettingError for a loss that is not finite."""
        if not bool(self.history[: self.done].isfinite().all()):
            raise SettingError(
                f"The synthesis loss is not a finite number within {self.done} iterations; lower lr (now "
                f"{self.config.lr}) or check the model."
            )

    def state(self) -> dict[str, Tensor]:
        """Return everything that the rest of the loop depends on, as tensors on the CPU."""
        tensors = {"images": self.images, "m": self.adam.m, "v": self.adam.v, "history": self.history}
        state = {name: tensor.cpu() for name, tensor in tensors.items()}
        return {**state, "generator": self.generator.get_state(), "done": torch.tensor(self.done)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a result of `state`, in place."""
        for name, tensor in (("images", self.images), ("m", self.adam.m), ("v", self.adam.v)):
            tensor.copy_(state[name])
        self.history.copy_(state["history"])
        self.generator.set_state(state["generator"])
        self.done = int(state["done"])
        self.adam.iteration.fill_(self.done)

    def advance(self) -> None:
        """Do one iteration; if the device's memory is too small, with half as many images at once."""
        while True:
            random_state = self.generator.get_state()
            try:
                return self.repeat(self.step)
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
                size = self.config.batch or len(self.images)
                groups = -(-size // self.config.group_size)
                if groups == 1 or self.config.inseparable > self.config.group_size:
                    raise too_large(self.config, size) from None
                self.config = replace(self.config, batch=-(-groups // 2) * self.config.group_size)
            warn(f"The device has not enough memory for {size} images at once; continuing with {self.config.batch}.")
            torch.cuda.empty_cache()
            self.generator.set_state(random_state)
            self.repeat = Repeated(self.images.device, [self.generator])


def too_large(config: SynthesisConfig, size: int) -> SettingError:
    """Return the error for images that belong together but do not fit into the device's memory."""
    advice = f"set group_size to less than {config.group_size}"
    if config.inseparable > config.group_size:
        advice = f'set statistics to "batch" and batch to a multiple of {config.group_size}'
    return SettingError(f"The device has not enough memory for {size} images at once; {advice}.")


def chunks(n: int, config: SynthesisConfig) -> Iterator[slice]:
    """Yield the ranges of images that go through the tower together: whole groups, so that negatives stay together."""
    size = config.batch or n
    for begin in range(0, n, size):
        yield slice(begin, begin + size)


def evaluate_step(
    clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Compute losses and gradients of one step.

    Args:
        clip: The model.
        config: The settings.
        setup: Targets, groups and boxes of N images.
        images: Images [N, 3, S, S] in normalized pixel space.
        draws: Random numbers of the step.

    Returns:
        Loss of each image [N], and the gradient of the sum over groups of each group's mean loss [N, 3, S, S].
    """
    losses: list[Tensor] = []
    gradients: list[Tensor] = []
    for rows in chunks(len(images), config):
        part = images[rows].detach().requires_grad_()
        loss = image_losses(clip, config, setup[rows], part, draws[rows])
        gradients += torch.autograd.grad((loss * setup.weight[rows]).sum(), part)
        losses.append(loss.detach())
    return torch.cat(losses), torch.cat(gradients)


def image_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """Return the losses of the method for each image [N]."""
    method = METHODS[config.method]
    assert method.losses is not None, "methods that paint have no losses"
    losses: Tensor = method.losses(clip, config, setup, images, draws)
    return losses

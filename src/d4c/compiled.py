"""Running a step thousands of times on a GPU: kernels fused, and not launched one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib.util import find_spec
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

EAGER = 3
"""Steps before a step is captured: libraries choose their kernels and workspaces in them."""


class Repeated:
    """Calls `step`; on a GPU, from the fourth call on, as a captured CUDA graph.

    The small kernels of a step take less time than their launches. A step that is captured must not wait for the
    device nor depend on anything that changes on the host; `generators` are the random generators that it uses beside
    the default one.
    """

    def __init__(
        self, step: Callable[[], None], device: torch.device, generators: Sequence[torch.Generator] = ()
    ) -> None:
        self.step, self.device, self.generators = step, device, generators
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.device.type != "cuda":
            self.step()
        elif self.calls < EAGER:
            self._warm()
        else:
            if self.graph is None:
                self.graph = self._capture()
            self.graph.replay()
        self.calls += 1

    def _warm(self) -> None:
        current = torch.cuda.current_stream(self.device)
        side = torch.cuda.Stream(self.device)  # autograd remembers the stream, which must not be the default one
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self.step()
        current.wait_stream(side)

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self.step()
        return graph


def fused(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function of tensors that is compiled when its first argument is on a GPU and Triton is installed.

    One fused kernel reads and writes its images once where many small ones do so again and again.
    """

    @cache
    def compiled() -> Callable[..., Result]:
        return torch.compile(function, dynamic=False, options=compiler_options())

    @wraps(function)
    def call(first: torch.Tensor, *rest: Any) -> Result:
        return (compiled() if first.is_cuda and can_compile() else function)(first, *rest)

    return call


@cache
def can_compile() -> bool:
    """Whether PyTorch's compiler for GPUs is there."""
    return find_spec("triton") is not None


def compiler_options() -> dict[str, Any]:
    """What the compiler is told: to choose no kernel by a measurement, which could end otherwise in the next run.

    Kernels of the same sum of products differ in which product they round before they add, and the measured ones are
    kept on disk: a process alone cannot show the difference, two machines do.
    """
    import torch._inductor.config as inductor  # takes seconds to import

    options = {"triton.autotune_pointwise": False}
    if hasattr(inductor, "deterministic"):
        options["deterministic"] = True  # the same for reductions, not for kernels element by element
    return options


def compile_part(module: torch.nn.Module) -> None:
    """Compile a module in place; equal shapes share their kernels."""
    import torch._dynamo as dynamo  # takes seconds to import

    # Every shape is compiled once, and one process may see many models; the default gives up after eight.
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, 256)
    module.compile(dynamic=False, options=compiler_options())

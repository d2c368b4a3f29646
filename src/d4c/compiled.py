"""Runs a step thousands of times on a GPU, with fused kernels that are not launched one by one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from importlib.util import find_spec
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

EAGER_CALLS = 3
"""Calls before a step is captured, in which libraries choose their kernels and allocate their workspaces."""


class Repeated:
    """Repeats one step; on a GPU, the fourth call captures it as a CUDA graph, which is replayed from then on.

    The small kernels of a step take less time than their launches. A captured step must not wait for the device or
    depend on anything that changes on the host.

    The step comes with each call and is not kept: most are methods of what holds the graph, and a circle would keep
    the graph's memory, which is that of all activations, until Python collects garbage.

    Args:
        device: Where the step computes.
        generators: The random generators that the step uses besides the default one.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
        self.device, self.generators = device, generators
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[[], None]) -> None:
        """Do the step, which is the same in every call."""
        if self.device.type != "cuda":
            step()
        else:
            with torch.cuda.device(self.device):
                self._call_on_gpu(step)
        self.calls += 1

    def _call_on_gpu(self, step: Callable[[], None]) -> None:
        if self.calls < EAGER_CALLS:
            self._warm(step)
            return
        if self.graph is None:
            self.graph = self._capture(step)
        self.graph.replay()

    def _warm(self, step: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self.device)
        side = torch.cuda.Stream(self.device)  # autograd keeps this stream; the default one breaks a capture
        side.wait_stream(current)
        with torch.cuda.stream(side):
            step()
        current.wait_stream(side)

    def _capture(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # PyTorch's own stream for captures is of the GPU that was the current one at the first capture.
        stream = torch.cuda.Stream(self.device)
        capture = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
        # A capture that fails leaves its stream the current one; the outer context does not.
        with _no_garbage_collection(), torch.cuda.stream(stream), capture:
            step()
        return graph


def lacks_memory(error: BaseException | None) -> bool:
    """Whether a GPU ran out of memory; capturing a graph hides that beneath an error of its own."""
    while error is not None and not isinstance(error, torch.cuda.OutOfMemoryError):
        error = error.__context__
    return error is not None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep graphs that nobody uses from being freed meanwhile, which no capture survives.

    A graph waits for a collection where it belongs to a circle, as those of a caller may.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def on_its_gpu(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function that launches kernels, so that they run where its first argument is.

    Triton launches on the current GPU, which need not be the one that holds a model.
    """

    @wraps(function)
    def call(first: torch.Tensor, *rest: Any, **named: Any) -> Result:
        with torch.cuda.device_of(first):
            return function(first, *rest, **named)

    return call


def fused(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function of tensors to be compiled where its first argument is on a GPU and Triton is installed.

    One fused kernel reads and writes its images once; many small kernels do so again and again.
    """

    @cache
    def compiled() -> Callable[..., Result]:
        _allow_many_shapes()
        return torch.compile(function, dynamic=False, options=compiler_options())

    @wraps(function)
    def call(first: torch.Tensor, *rest: Any) -> Result:
        return (compiled() if first.is_cuda and can_compile() else function)(first, *rest)

    return call


@cache
def can_compile() -> bool:
    """Whether PyTorch can compile for GPUs, which needs Triton."""
    return find_spec("triton") is not None


def compiler_options() -> dict[str, Any]:
    """Return options that keep the compiler from choosing kernels by measuring them, which can differ between runs.

    Kernels for the same sum of products differ in which product they round before the addition. The choice is cached on
    disk, so the difference shows between two machines and not within one process.
    """
    import torch._inductor.config as inductor  # takes seconds to import

    options = {"triton.autotune_pointwise": False}
    if hasattr(inductor, "deterministic"):
        options["deterministic"] = True  # covers reductions, but no elementwise kernels
    return options


def compile_part(module: torch.nn.Module) -> None:
    """Compile a module in place; equal shapes share their kernels."""
    _allow_many_shapes()
    module.compile(dynamic=False, options=compiler_options())


def _allow_many_shapes() -> None:
    """Let every shape be compiled, since one process may load many models and make many sets of images.

    By default, PyTorch gives up after eight and no longer fuses, so that results would depend on what came earlier.
    """
    import torch._dynamo as dynamo  # takes seconds to import

    # PyTorch 2.4 has this name for the limit; later ones have it for what they call recompile_limit.
    dynamo.config.cache_size_limit = max(dynamo.config.cache_size_limit, 256)

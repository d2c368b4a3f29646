"""The options of the compiler."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d4c.compiled import EAGER_CALLS, Repeated, can_compile, compile_part, compiler_options


def polynomial(x: Tensor) -> Tensor:
    return x * x + x * 3 + 1


def test_the_compiler_knows_its_options() -> None:
    torch.compile(polynomial, options=compiler_options())  # an unknown one raises


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_capture_outlives_graphs_that_nobody_uses_and_other_threads() -> None:
    """Python frees a captured step that is dropped at any moment, also while the next one is captured."""
    device = torch.device("cuda")

    class Counter:
        def __init__(self) -> None:
            self.steps = torch.zeros((), device=device)
            self.repeat = Repeated(device)
            self.circle = self  # so that it waits for a collection

        def step(self) -> None:
            self.steps += len([[i] for i in range(2000)]) / 2000  # containers enough for a collection

    gc.collect()
    for _ in range(20):
        counter = Counter()
        thread = threading.Thread(target=lambda: torch.ones(2**20, device=device).sum().item())
        thread.start()
        for _ in range(EAGER_CALLS + 3):
            counter.repeat(counter.step)
        thread.join()
        assert counter.steps.item() == EAGER_CALLS + 3
    assert gc.isenabled()


def test_compiled_parts_raise_the_limit_of_shapes() -> None:
    import torch._dynamo.config as dynamo

    with dynamo.patch(recompile_limit=8):  # monkeypatch would delete the setting afterward
        compile_part(torch.nn.Linear(2, 2))
        assert dynamo.recompile_limit >= 256


@pytest.mark.skipif(not (torch.cuda.is_available() and can_compile()), reason="needs a GPU")
def test_no_kernel_is_chosen_by_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(folder: Path, options: dict[str, Any]) -> list[Path]:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        torch._dynamo.reset()
        torch.compile(polynomial, dynamic=False, options=options)(torch.rand(2**20, device="cuda"))
        return list(folder.rglob("*.best_config"))

    assert measured(tmp_path / "left alone", {})  # else the next line would prove nothing
    assert not measured(tmp_path / "told", compiler_options())

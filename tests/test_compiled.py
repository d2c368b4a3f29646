"""The options of the compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d4c.compiled import can_compile, compiler_options


def polynomial(x: Tensor) -> Tensor:
    return x * x + x * 3 + 1


def test_the_compiler_knows_its_options() -> None:
    torch.compile(polynomial, options=compiler_options())  # an unknown one raises


@pytest.mark.skipif(not (torch.cuda.is_available() and can_compile()), reason="needs a GPU")
def test_no_kernel_is_chosen_by_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(folder: Path, options: dict[str, Any]) -> list[Path]:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        torch._dynamo.reset()
        torch.compile(polynomial, dynamic=False, options=options)(torch.rand(2**20, device="cuda"))
        return list(folder.rglob("*.best_config"))

    assert measured(tmp_path / "left alone", {})  # else the next line would prove nothing
    assert not measured(tmp_path / "told", compiler_options())

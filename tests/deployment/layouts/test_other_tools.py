"""The tools themselves, each in its own environment, give our embeddings and classes for the emoji pack."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d4c.zeroshot.classification import unit_rows

PYTHON = Path(__file__).parents[3] / "build" / "dropin" / "bin" / "python"
ANSWERS = Path(__file__).with_name("tools") / "answers.py"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs other tools; make test-dropin installs them")

CASES = {
    "optimum": ("optimum", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "openvino-open-clip": ("openvino", "openvino"),
    "fastembed": ("fastembed", "onnxruntime"),
}
"""The target of each tool, and the runtime of ours that computes as it does."""


@pytest.mark.parametrize(("tool", "target", "runtime"), [(tool, *case) for tool, case in CASES.items()], ids=CASES)
def test_a_tool_gives_our_embeddings(
    tool: str,
    target: str,
    runtime: str,
    trained_for: Callable[..., Path],
    pack_in: Any,
) -> None:
    pack = pack_in(runtime)
    given = json.dumps({"pictures": [str(path) for path in pack.pictures], "prompts": pack.prompts})
    command = [str(PYTHON), str(ANSWERS), tool, str(trained_for(target))]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    image, text = np.array(answer["image"]), np.array(answer["text"])
    assert (unit_rows(image) * unit_rows(pack.image)).sum(-1).min() > 1 - 1e-5
    assert (unit_rows(text) * unit_rows(pack.text)).sum(-1).min() > 1 - 1e-5
    logits = unit_rows(image) @ unit_rows(text).T
    if answer["logits"] is not None:
        scale = json.loads((trained_for(target) / "export.json").read_text())["logit_scale"]
        assert np.allclose(answer["logits"], scale * logits, atol=1e-2)
    assert [pack.labels[i] for i in logits.argmax(-1)] == pack.classes

"""What the runtime shares with the models works without torch."""

from __future__ import annotations

import subprocess
import sys


def test_tokens_and_pixels_are_made_without_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None
from PIL import Image
from d4c.models.inputs.preprocess import pixels
from d4c.models.inputs.tokenizer import token_ids
assert token_ids("a cat").sum() > 2 * 49406
assert pixels(Image.new("L", (3, 5)), 8, (0, 0, 0), (1, 1, 1)).shape == (3, 8, 8)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_loading_a_model_imports_no_compiler() -> None:
    """Which takes a second; a model that has shapes alone draws no numbers."""
    program = "import sys, d4c; d4c.load('demo-vit'); assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

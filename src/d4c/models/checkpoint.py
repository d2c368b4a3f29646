"""`load`: every way in for a CLIP."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.assemble import assemble
from d4c.models.clip import CLIP
from d4c.models.openai import fill_token_table, infer_config, openai_layout
from d4c.models.tokenizer import VOCAB_SIZE

DEMO = Path(__file__).parent / "demo"


def demo_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in DEMO.glob("*.safetensors"))


def demo_path(name: str) -> Path:
    """The file of an embedded model; raises CheckpointError for other names."""
    if name not in demo_models():
        raise CheckpointError(f"no embedded model is called {name!r}; use one of {', '.join(demo_models())}.")
    return DEMO / f"{name}.safetensors"


def load(source: str | Path, pretrained: str | None = None, device: str | torch.device = "cpu") -> CLIP:
    """A CLIP in evaluation mode, float32, without gradients."""
    path = demo_path(str(source)) if str(source) in demo_models() else Path(source)
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no complete safetensors file ({error}); download it again.") from None
    state = fill_token_table(state, str(source), VOCAB_SIZE)
    config = infer_config(state, str(source))
    return assemble(config, state, partial(openai_layout, config), str(source), path.stem).to(device)

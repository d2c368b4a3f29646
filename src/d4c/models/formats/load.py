"""Loads a CLIP from a name, a file, a folder, the Hugging Face Hub or a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from d4c.device import move
from d4c.errors import CheckpointError, SettingError
from d4c.models.clip import CLIP
from d4c.models.formats.archive import groups_of
from d4c.models.formats.beside.misnamed import missing, not_a_source
from d4c.models.formats.build import Hints, from_state
from d4c.models.formats.folders import LAYOUTS, from_file, from_folder, read_file
from d4c.models.formats.named.catalog import named_pretrained
from d4c.models.formats.named.hub import download
from d4c.models.formats.openai import fill_token_table, infer_config
from d4c.models.formats.weights import read_weights
from d4c.models.formats.wrapped.lora import merge_lora
from d4c.models.formats.wrapped.unwrap import select
from d4c.models.inputs.tokenizer import VOCAB_SIZE
from d4c.models.resolution import with_image_size
from d4c.models.tower_config import Activation
from d4c.reading.inert import Refused
from d4c.reading.ranges import HEADS

DEMO = Path(__file__).parents[1] / "demo"


def demo_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.stem for path in DEMO.glob("*.safetensors"))


def demo_path(name: str) -> Path:
    """Return the file of an embedded model; raises CheckpointError for other names."""
    if name not in demo_models():
        raise CheckpointError(f"{name!r} is not an embedded model; use one of {', '.join(demo_models())}.")
    return DEMO / f"{name}.safetensors"


def load(
    source: str | Path | Mapping[str, Tensor],
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    *,
    activation: Activation | None = None,
    heads: tuple[int, int] | None = None,
    image_size: int | None = None,
) -> CLIP:
    """Load a CLIP from wherever its weights are; nothing is unpickled.

    A file or a state dict alone does not say its activation and its number of heads. Unless its folder, its metadata or
    the two arguments do, QuickGELU and heads of 64 channels are assumed, as in OpenAI's models, and a warning says so.

    Args:
        source: One of
            - the name of an embedded model, "demo-vit" or "demo-rn";
            - a file (safetensors, `torch.save` or TorchScript) or a state dict with OpenAI's names; what training wraps
              around them is removed;
            - a file of one of the folders below, which is read whatever else is there;
            - a folder that `CLIP.save_pretrained`, Hugging Face's `CLIPModel` or `SiglipModel`, or open_clip saved, or
              one tower of them, such as a `CLIPVisionModelWithProjection` or a `CLIPTextModel`;
            - the id of such a folder on the Hugging Face Hub, "hf-hub:org/name" or "hf-hub:org/name@revision";
            - an open_clip name such as "ViT-B-32".
        pretrained: The weights for an open_clip name: one of open_clip's tags or a file.
        device: Where the parameters are put.
        activation: Activation of the MLPs, "quick_gelu", "gelu" or "gelu_tanh", in place of what a configuration says.
        heads: Attention heads of the image and of the text tower, likewise.
        image_size: Side of the square pictures in pixels, if not that of the checkpoint; the table of positions is
            interpolated, as in `transformers`.

    Returns:
        The CLIP in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: The source does not hold a complete and finite CLIP of a supported kind.
        SettingError: The device cannot be used, or the activation, the heads or the image size cannot be.
    """
    clip = read(source, pretrained, checked_hints(activation, heads))
    return move(clip if image_size is None else with_image_size(clip, image_size), device)


def checked_hints(activation: Activation | None, heads: tuple[int, int] | None) -> Hints:
    """Return what the caller knows; raises SettingError for what cannot be."""
    if activation not in (None, *get_args(Activation)):
        raise SettingError(f"The activation is {activation!r}, expected one of {', '.join(get_args(Activation))}.")
    if heads is None:
        return Hints(activation)
    plain = isinstance(heads, tuple | list) and len(heads) == 2
    if not plain or not all(type(number) is int and HEADS.low <= number <= HEADS.high for number in heads):
        raise SettingError(f"The heads are {heads!r}, expected two positive numbers, of image and text, as in (12, 8).")
    return Hints(activation, (heads[0], heads[1]))


def read(source: str | Path | Mapping[str, Tensor], pretrained: str | None, hints: Hints) -> CLIP:
    """Load a CLIP to the CPU."""
    if isinstance(source, Mapping):
        return from_mapping(source, hints)
    if not isinstance(source, str | Path):
        raise not_a_source(source)
    text, path = str(source), Path(source)
    if source == "":
        raise CheckpointError("The name of the model is empty, expected one such as 'demo-vit', a file or a folder.")
    if pretrained is not None and (text in demo_models() or text.startswith("hf-hub:")):
        raise CheckpointError(f"{text} names its own weights, which do not go with pretrained; leave pretrained out.")
    if text in demo_models():
        state = fill_token_table(read_weights(demo_path(text)).tensors, text, VOCAB_SIZE)
        return from_state(state, infer_config(state, text), text, text, hints)
    if text.startswith("hf-hub:"):
        repo = text.removeprefix("hf-hub:")
        return from_folder(download(repo, LAYOUTS), text, repo.partition("@")[0].rpartition("/")[2], hints)
    if pretrained is None and path.is_dir():
        return from_folder(path, text, path.resolve().name, hints)
    if pretrained is None and path.is_file():
        return from_file(path, hints)
    if isinstance(source, Path) or len(path.parts) > 1 or path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        if pretrained is None and path.exists():
            raise CheckpointError(f"{text} is neither a file nor a folder, expected a checkpoint; correct the path.")
        if path.exists():
            raise CheckpointError(
                f"{text} is a path, which does not go with pretrained; leave pretrained out, "
                "or use an open_clip name such as 'ViT-B-32'."
            )
        raise missing(text)
    config, weights, prompts = named_pretrained(text, pretrained)
    tensors, name = read_file(weights).tensors, f"{text}-{weights.stem}"
    return from_state(tensors, config, f"{text} ({pretrained})", name, hints, prompts=prompts)


def from_mapping(state: Mapping[str, Tensor], hints: Hints) -> CLIP:
    """Build a CLIP from a state dict, which may lie in dictionaries as training loops save them."""
    source = "The state dict"
    try:
        groups = groups_of(state, Tensor)
    except Refused as error:
        raise CheckpointError(f"{source} holds {error}; pass the state dict of a CLIP.") from None
    plain = merge_lora(select(groups, source), [state], source)
    return from_state(plain, None, source, "clip", hints)

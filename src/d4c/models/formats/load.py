"""`load`: every way in for a CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from d4c.errors import CheckpointError, SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import Source, assemble
from d4c.models.formats.hub import download
from d4c.models.formats.huggingface import huggingface_config, huggingface_layout
from d4c.models.formats.native import is_native, native_config
from d4c.models.formats.openai import fill_token_table, infer_config, openai_layout
from d4c.models.formats.openclip import named_pretrained, openclip_config, plain_names, refuse_foreign
from d4c.models.formats.weights import first_present, read_json, read_sharded, read_weights
from d4c.models.tokenizer import VOCAB_SIZE

DEMO = Path(__file__).parents[1] / "demo"
OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HUGGINGFACE_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
LAYOUTS = (("open_clip_config.json", OPENCLIP_FILES), ("config.json", HUGGINGFACE_FILES))


def demo_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in DEMO.glob("*.safetensors"))


def demo_path(name: str) -> Path:
    """The file of an embedded model; raises CheckpointError for other names."""
    if name not in demo_models():
        raise CheckpointError(f"no embedded model is called {name!r}; use one of {', '.join(demo_models())}.")
    return DEMO / f"{name}.safetensors"


def load(
    source: str | Path | Mapping[str, Tensor],
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
) -> CLIP:
    """A CLIP in evaluation mode, float32, without gradients, from wherever its weights are.

    `source` is the name of an embedded model ("demo-vit", "demo-rn"); a file (safetensors, `torch.save`, TorchScript)
    or a state dict with OpenAI's names; a folder that `CLIP.save_pretrained`, Hugging Face's
    `CLIPModel` or open_clip saved; the id of such a folder on the hub ("hf-hub:org/name",
    "@revision" may follow); or an open_clip name ("ViT-B-32"), whose weights
    `pretrained` picks: one of open_clip's tags or a file.

    A file or state dict carries no configuration: it is taken to be OpenAI's, with heads of 64 channels and QuickGELU.
    Nothing is unpickled. Raises CheckpointError for what is not a complete, finite CLIP of a supported kind, and
    SettingError for a device that is not there.
    """
    clip = read(source, pretrained)
    try:
        return clip.to(device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            f"device {str(device)!r} cannot be used ({str(error).splitlines()[0]}); use 'cpu'."
        ) from None


def read(source: str | Path | Mapping[str, Tensor], pretrained: str | None) -> CLIP:
    """`load` on the CPU."""
    if isinstance(source, Mapping):
        return from_state(source, None, "the state dict", "clip")
    text, path = str(source), Path(source)
    if text in demo_models():
        return from_file(demo_path(text), text)
    if text.startswith("hf-hub:"):
        repo = text.removeprefix("hf-hub:")
        return from_folder(download(repo, LAYOUTS), text, repo.partition("@")[0].rpartition("/")[2])
    if pretrained is None and path.is_dir():
        return from_folder(path, text, path.resolve().name)
    if pretrained is None and path.is_file():
        return from_file(path, path.stem)
    if isinstance(source, Path) or len(path.parts) > 1 or path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        raise CheckpointError(
            f"{text} is no file or folder here"
            + (" that goes with pretrained" if path.exists() else "")
            + "; check the "
            "path, or use a name such as 'demo-vit' or 'hf-hub:org/name'."
        )
    config, weights = named_pretrained(text, pretrained)
    return from_state(read_weights(weights), config, f"{text} ({pretrained})", f"{text}-{weights.stem}")


def from_state(state: Mapping[str, Tensor], config: CLIPConfig | None, source: str, name: str) -> CLIP:
    """A CLIP from tensors with OpenAI's or open_clip's names; without a configuration it is told from the shapes."""
    if any(key.startswith("text_model.") for key in state):
        raise CheckpointError(
            f"{source} has Hugging Face's names, whose heads and activation stand in config.json; "
            "give the folder with both."
        )
    refuse_foreign(state, source)
    plain = fill_token_table(plain_names(state), source, VOCAB_SIZE)
    config = config or infer_config(plain, source)
    return assemble(config, plain, partial(openai_layout, config), source, name)


def from_file(path: Path, name: str) -> CLIP:
    """A CLIP from one weights file; if it lies in a folder with its configuration, as saved, that is used."""
    for config, weights in LAYOUTS:
        if path.name in weights and (path.parent / config).is_file():
            return from_folder(path.parent, str(path), path.resolve().parent.name)
    return from_state(read_weights(path), None, str(path), name)


def from_folder(folder: Path, source: str, name: str) -> CLIP:
    """A CLIP from a folder of open_clip's or Hugging Face's layout, in this order if it has both."""
    for config_name, names in LAYOUTS:
        weights = first_present(folder, names)
        if weights is None or not (folder / config_name).is_file():
            continue
        data = read_json(folder / config_name)
        read_any = read_sharded if weights.suffix == ".json" else read_weights
        if config_name == "open_clip_config.json":
            model, pixels = data.get("model_cfg"), data.get("preprocess_cfg") or {}
            if not isinstance(model, dict) or not isinstance(pixels, dict):
                raise CheckpointError(f"{folder / config_name} has no 'model_cfg'; use a folder that open_clip saved.")
            return from_state(read_any(weights), openclip_config(model, pixels, source), source, name)
        if is_native(data):
            return assemble(native_config(data, source), read_any(weights), Source, source, str(data.get("name", name)))
        extra = folder / "preprocessor_config.json"
        config = huggingface_config(data, read_json(extra) if extra.is_file() else {}, source)
        state = read_any(weights)
        refuse_foreign(state, source)
        return assemble(config, state, huggingface_layout, source, name)
    raise CheckpointError(
        f"{source} is a folder without a CLIP in it; expected open_clip_config.json with open_clip_model.safetensors "
        "or config.json with model.safetensors (or their .bin forms)."
    )

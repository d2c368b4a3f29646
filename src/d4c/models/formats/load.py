"""Loads a CLIP from a name, a file, a folder, the Hugging Face Hub or a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from d4c.device import move
from d4c.errors import CheckpointError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import Source, assemble
from d4c.models.formats.hub import download
from d4c.models.formats.huggingface import huggingface_config, huggingface_layout
from d4c.models.formats.native import is_native, native_config
from d4c.models.formats.openai import fill_token_table, infer_config, openai_layout
from d4c.models.formats.openclip import named_pretrained, openclip_config, plain_names, refuse_foreign
from d4c.models.formats.weights import first_present, read_json_object, read_sharded, read_weights
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
) -> CLIP:
    """Load a CLIP from wherever its weights are; nothing is unpickled.

    A file or a state dict has no configuration. It is read as one of OpenAI's, with heads of 64 channels and QuickGELU.

    Args:
        source: One of
            - the name of an embedded model, "demo-vit" or "demo-rn";
            - a file (safetensors, `torch.save` or TorchScript) or a state dict with OpenAI's names;
            - a folder that `CLIP.save_pretrained`, Hugging Face's `CLIPModel` or open_clip saved;
            - the id of such a folder on the Hugging Face Hub, "hf-hub:org/name" or "hf-hub:org/name@revision";
            - an open_clip name such as "ViT-B-32".
        pretrained: The weights for an open_clip name: one of open_clip's tags or a file.
        device: Where the parameters are put.

    Returns:
        The CLIP in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: The source does not hold a complete and finite CLIP of a supported kind.
        SettingError: The device cannot be used.
    """
    clip = read(source, pretrained)
    return move(clip, device)


def read(source: str | Path | Mapping[str, Tensor], pretrained: str | None) -> CLIP:
    """Load a CLIP to the CPU."""
    if isinstance(source, Mapping):
        return from_state(source, None, "The state dict", "clip")
    text, path = str(source), Path(source)
    if pretrained is not None and (text in demo_models() or text.startswith("hf-hub:")):
        raise CheckpointError(f"{text} names its own weights, which do not go with pretrained; leave pretrained out.")
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
        if path.exists():
            raise CheckpointError(
                f"{text} is a path, which does not go with pretrained; leave pretrained out, "
                "or use an open_clip name such as 'ViT-B-32'."
            )
        raise CheckpointError(
            f"{text} is not an existing file or folder; check the path, "
            "or use a name such as 'demo-vit' or 'hf-hub:org/name'."
        )
    config, weights = named_pretrained(text, pretrained)
    return from_state(read_weights(weights), config, f"{text} ({pretrained})", f"{text}-{weights.stem}")


def from_state(state: Mapping[str, Tensor], config: CLIPConfig | None, source: str, name: str) -> CLIP:
    """Build a CLIP from tensors with OpenAI's or open_clip's names; without `config`, the architecture is inferred."""
    if any(key.startswith("text_model.") for key in state):
        raise CheckpointError(
            f"{source} has Hugging Face's names, which need a config.json for heads and activation; "
            "pass the folder that holds both."
        )
    refuse_foreign(state, source)
    plain = fill_token_table(plain_names(state), source, VOCAB_SIZE)
    config = config or infer_config(plain, source)
    return assemble(config, plain, partial(openai_layout, config), source, name)


def from_file(path: Path, name: str) -> CLIP:
    """Load a CLIP from a weights file, with the configuration that its folder may hold."""
    for config, weights in LAYOUTS:
        if path.name in weights and (path.parent / config).is_file():
            return from_folder(path.parent, str(path), path.resolve().parent.name)
    return from_state(read_weights(path), None, str(path), name)


def from_folder(folder: Path, source: str, name: str) -> CLIP:
    """Load a CLIP from a folder in open_clip's, d4c's or Hugging Face's layout; open_clip's has precedence."""
    for config_name, names in LAYOUTS:
        weights = first_present(folder, names)
        if weights is None or not (folder / config_name).is_file():
            continue
        data = read_json_object(folder / config_name)
        read_tensors = read_sharded if weights.suffix == ".json" else read_weights
        if config_name == "open_clip_config.json":
            model, pixels = data.get("model_cfg"), data.get("preprocess_cfg") or {}
            if not isinstance(model, dict) or not isinstance(pixels, dict):
                raise CheckpointError(f"{folder / config_name} has no 'model_cfg'; use a folder that open_clip saved.")
            return from_state(read_tensors(weights), openclip_config(model, pixels, source), source, name)
        if is_native(data):
            config, label = native_config(data, source), str(data.get("name", name))
            return assemble(config, read_tensors(weights), Source, source, label)
        preprocessor = folder / "preprocessor_config.json"
        config = huggingface_config(data, read_json_object(preprocessor) if preprocessor.is_file() else {}, source)
        state = read_tensors(weights)
        refuse_foreign(state, source)
        return assemble(config, state, huggingface_layout, source, name)
    if (folder / "export.json").is_file():
        raise CheckpointError(
            f"{source} is an export, expected a float model; use d4c.load_quantized with runtime='onnxruntime'."
        )
    if (folder / "artifact").is_dir():
        raise CheckpointError(f"{source} is the folder of a run, expected a model; use {folder / 'artifact'}.")
    raise CheckpointError(
        f"{source} is a folder without a CLIP, expected open_clip_config.json with open_clip_model.safetensors "
        "or config.json with model.safetensors (or their .bin forms); use a folder that holds such a pair."
    )

"""Loads a CLIP from a folder, or from one weights file with what its folder says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.alone.one_tower import alone, as_joint, lone_tower, padding, tokenizer_folder, with_model_names
from d4c.models.formats.archive import Weights
from d4c.models.formats.assemble import Source, assemble
from d4c.models.formats.beside.described import folder_config, likely_configs, openclip_folder_config, told_activation
from d4c.models.formats.beside.misnamed import wrong_folder
from d4c.models.formats.beside.own_tokenizer import TokenizerFiles, siglip_cleaning
from d4c.models.formats.beside.vocabulary import other_tokenizer
from d4c.models.formats.build import Hints, from_state
from d4c.models.formats.huggingface import huggingface_layout
from d4c.models.formats.native import is_native, native_config
from d4c.models.formats.openclip import openclip_tokenizer, refuse_foreign
from d4c.models.formats.siglip.siglip_names import siglip_layout
from d4c.models.formats.weights import first_present, read_json_object, read_sharded, read_weights
from d4c.models.formats.wrapped.lora import merge_lora

OPENCLIP_CONFIG, CONFIG = "open_clip_config.json", "config.json"
OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HUGGINGFACE_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
LAYOUTS = ((OPENCLIP_CONFIG, OPENCLIP_FILES), (CONFIG, HUGGINGFACE_FILES))


@dataclass(frozen=True)
class Configured:
    """What a configuration file says.

    Attributes:
        config: The architecture.
        layout: Whose names the weights have.
        name: Label of the model.
        prompts: The files of a tokenizer of its own.
        tower: The tower that is alone, if the file is of one.
    """

    config: CLIPConfig
    layout: Literal["open_clip", "native", "huggingface", "siglip"]
    name: str
    prompts: TokenizerFiles | None = None
    tower: str | None = None

    def build(self, state: Mapping[str, Tensor], source: str, hints: Hints) -> CLIP:
        """Build the CLIP from its tensors."""
        if self.layout == "open_clip":
            return from_state(state, self.config, source, self.name, hints, prompts=self.prompts)
        if self.layout == "native":
            return assemble(hints.applied(self.config), state, Source, source, self.name, self.prompts)
        refuse_foreign(state, source)
        config = replace(self.config, sigmoid="logit_bias" in state)
        if self.tower is not None:
            state = with_model_names(state, self.tower)
            config = alone(config, self.tower, state)
        config = hints.applied(config)
        layout = partial(siglip_layout, config) if self.layout == "siglip" else huggingface_layout
        return assemble(config, state, layout, source, self.name, self.prompts)


def read_config(file: Path, source: str, name: str) -> Configured:
    """Read a configuration file.

    Args:
        file: open_clip_config.json, or config.json of Hugging Face or of d4c; what its folder says of pictures and
            prompts is read as well.
        source: Names the model in error messages.
        name: Label of the model, unless the file has one.

    Raises:
        CheckpointError: It is not that of a supported float CLIP.
    """
    data = read_json_object(file)
    if file.name == OPENCLIP_CONFIG:
        config = openclip_folder_config(data, source)
        prompts = openclip_tokenizer(data["model_cfg"]["text_cfg"], file.parent, source)
        return Configured(config, "open_clip", name, prompts)
    if is_native(data):
        prompts = TokenizerFiles(file.parent, "done")
        return Configured(native_config(data, file.parent, source), "native", data["name"], prompts)
    if "architecture" in data:
        raise CheckpointError(
            f"{source} is a quantized model, expected a float one; use d4c.load_quantized, or d4c evaluate and "
            "d4c export, which take it as it is."
        )
    data, tower = as_joint(data)
    config, folder = folder_config(data, file.parent, source), tokenizer_folder(file.parent)
    if data["model_type"] == "siglip":
        return Configured(config, "siglip", name, TokenizerFiles(folder, siglip_cleaning(folder)), tower)
    if tower == "text":
        config = replace(config, text=replace(config.text, pad_id=padding(folder, read_json_object)))
    other = None if tower == "image" else other_tokenizer(folder, read_json_object)
    if other is None:
        return Configured(config, "huggingface", name, None, tower)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{source} brings {other}, expected CLIP's tokenizer or a tokenizer.json; save the folder's tokenizer with "
            "transformers' AutoTokenizer, which writes that file."
        )
    config = replace(config, text=replace(config.text, tokenizer="own"))
    return Configured(config, "huggingface", name, TokenizerFiles(folder, "plain"), tower)


def from_folder(folder: Path, source: str, name: str, hints: Hints) -> CLIP:
    """Load a CLIP from a folder in open_clip's, d4c's or Hugging Face's layout; open_clip's has precedence."""
    for config_name, names in LAYOUTS:
        weights = first_present(folder, names)
        if weights is not None and (folder / config_name).is_file():
            configured = read_config(folder / config_name, source, name)
            return configured.build(read_file(weights).tensors, source, hints)
    raise wrong_folder(folder, source)


def from_file(path: Path, hints: Hints) -> CLIP:
    """Load the CLIP in one weights file, with the configuration that its folder may hold.

    The names of the tensors tell which configuration that is. The file of open_clip's and Hugging Face's layouts must
    agree with theirs; for others, a configuration counts if it has the shapes of the tensors.
    """
    source, folder = str(path), path.parent
    if path.suffix == ".json" and path.name not in HUGGINGFACE_FILES:
        raise CheckpointError(f"{source} is a JSON file, expected weights; use its folder, {folder}.")
    weights = read_file(path)
    usual = OPENCLIP_CONFIG if path.name in OPENCLIP_FILES else CONFIG if needs_config(weights.tensors) else None
    if usual is not None and (folder / usual).is_file():
        conventional = path.name in (*OPENCLIP_FILES, *HUGGINGFACE_FILES)
        name = path.resolve().parent.name if conventional else path.stem
        return read_config(folder / usual, source, name).build(weights.tensors, source, hints)
    hints = Hints(hints.activation or told_activation(weights.notes), hints.heads)
    likely, prompts = likely_configs(path, weights.notes), TokenizerFiles(folder, "canonical")
    return from_state(weights.tensors, None, source, path.stem, hints, likely, prompts)


def read_file(path: Path) -> Weights:
    """Read a weights file, or all those that an index names, with its LoRA merged."""
    weights = read_sharded(path) if path.suffix == ".json" else read_weights(path)
    settings = path.parent / "adapter_config.json"
    notes = (*weights.notes, *([read_json_object(settings)] if settings.is_file() else []))
    return Weights(merge_lora(weights.tensors, notes, str(path)), weights.notes)


def needs_config(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of Hugging Face or of d4c, which are read with a config.json only."""
    joint = any(key.startswith(("text_model.", "vision_model.")) for key in state)
    return "log_logit_scale" in state or joint or lone_tower(state) is not None

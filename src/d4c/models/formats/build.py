"""Builds a CLIP from a state dict with OpenAI's names, of which the configuration may be known only in part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from d4c.errors import CheckpointError, warn
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.alone.infer_alone import infer_alone
from d4c.models.formats.alone.one_tower import lone_tower, with_model_names
from d4c.models.formats.assemble import CONFIG_ADVICE, Layout, assemble, blueprint, check_depth
from d4c.models.formats.beside.own_tokenizer import TokenizerFiles
from d4c.models.formats.huggingface import huggingface_layout
from d4c.models.formats.openai import fill_token_table, infer_config, openai_layout
from d4c.models.formats.openclip import plain_names, refuse_foreign
from d4c.models.formats.siglip.siglip_configs import infer_siglip
from d4c.models.formats.siglip.siglip_names import siglip_layout, timm_layout
from d4c.models.inputs.tokenizer import VOCAB_SIZE
from d4c.models.tower_config import Activation, ResNetConfig, ViTConfig

SIGNATURE = {"input_resolution", "context_length", "vocab_size"}
"""Numbers that OpenAI's own files hold beside the weights, and no others do."""


@dataclass(frozen=True)
class Hints:
    """What is known of a model beside its weights.

    Attributes:
        activation: Activation of the MLPs, if it is set.
        heads: Attention heads of the image and the text tower, if they are set.
    """

    activation: Activation | None = None
    heads: tuple[int, int] | None = None

    def applied(self, config: CLIPConfig) -> CLIPConfig:
        """Return a configuration with what is set here in its place."""
        image, text = config.image, config.text
        if self.activation is not None:
            text = replace(text, activation=self.activation)
            if isinstance(image, ViTConfig):
                image = replace(image, activation=self.activation)
        if self.heads is not None:
            text = replace(text, heads=self.heads[1])
            if isinstance(image, ViTConfig | ResNetConfig):
                image = replace(image, heads=self.heads[0])
        return replace(config, image=image, text=config.text if config.text.absent else text)


NO_HINTS = Hints()


def from_state(
    state: Mapping[str, Tensor],
    config: CLIPConfig | None,
    source: str,
    name: str,
    hints: Hints = NO_HINTS,
    likely: Iterable[CLIPConfig] = (),
    prompts: TokenizerFiles | None = None,
) -> CLIP:
    """Build a CLIP from tensors with OpenAI's or open_clip's names.

    Args:
        state: The tensors.
        config: The architecture; without it, that of `likely` whose shapes are those of the tensors, or else what can
            be inferred. A warning says what is assumed then.
        source: Names the checkpoint in error messages.
        name: Label of the CLIP.
        hints: What the caller knows better than any configuration.
        likely: Configurations that may be those of the tensors.
        prompts: The files of a tokenizer of its own.

    Returns:
        The CLIP.

    Raises:
        CheckpointError: The tensors are not those of a supported CLIP.
    """
    if (tower := lone_tower(state)) is not None:
        named = with_model_names(state, tower)
        config = infer_alone(named, tower, source, hints.heads)
        say_assumed(hints.applied(config), hints, source)
        layout = partial(siglip_layout, config) if config.resize == "squash" else huggingface_layout
        return assemble(hints.applied(config), named, layout, source, name, prompts)
    if any(key.startswith("text_model.") for key in state):
        raise CheckpointError(
            f"{source} has Hugging Face's names, which need a config.json for heads and activation; "
            "pass the folder that holds both."
        )
    refuse_foreign(state, source)
    plain = fill_token_table(plain_names(state), source, VOCAB_SIZE)
    config = config or next((each for each in likely if fits(each, plain)), None)
    if config is None:
        infer = infer_siglip if has_trunk(plain) else infer_config
        config = infer(plain, source, hints.heads)
        if not state.keys() >= SIGNATURE:
            say_assumed(hints.applied(config), hints, source)
    config = replace(hints.applied(config), sigmoid="logit_bias" in plain)
    return assemble(config, plain, layout_of(config, plain), source, name, prompts)


def has_trunk(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names that open_clip gives to an image tower of timm."""
    return any(key.startswith("visual.trunk.") for key in state)


def layout_of(config: CLIPConfig, state: Mapping[str, Tensor]) -> Layout:
    """Return where tensors with the names of OpenAI or open_clip hold our parameters."""
    return partial(timm_layout if has_trunk(state) else openai_layout, config)


def fits(config: CLIPConfig, state: Mapping[str, Tensor]) -> bool:
    """Whether tensors with OpenAI's names have the shapes of a configuration."""
    try:
        config.check("", CheckpointError, CONFIG_ADVICE)
        check_depth(config, len(state), "", CheckpointError)
    except CheckpointError:
        return False
    layout = layout_of(config, state)
    return all(
        key in state and tuple(state[key].shape) == expected
        for ours, shape in blueprint(config).items()
        for key, expected in layout(ours).shapes(shape).items()
    )


def say_assumed(config: CLIPConfig, hints: Hints, source: str) -> None:
    """Warn of what neither the weights nor the caller say."""
    unsaid, assumed = [], []
    towers = [getattr(config, name) for name in config.towers]
    activation = next(tower.activation for tower in reversed(towers) if hasattr(tower, "activation"))
    if hints.activation is None:
        unsaid.append("activation")
        assumed.append({"quick_gelu": "QuickGELU", "gelu": "GELU", "gelu_tanh": "GELU by tanh"}[activation])
    if hints.heads is None and all(hasattr(tower, "heads") for tower in towers):
        unsaid.append("numbers of heads")
        heads = [f"{tower.heads} heads ({name})" for name, tower in zip(config.towers, towers, strict=True)]
        assumed.append(" and ".join(heads))
    family = "OpenAI's models" if activation == "quick_gelu" else "Google's"
    if unsaid:
        warn(
            f"{source} does not tell its {' or '.join(unsaid)}; assumed, as in {family}: {', '.join(assumed)}; "
            "activation and heads (--activation, --heads) set others.",
        )

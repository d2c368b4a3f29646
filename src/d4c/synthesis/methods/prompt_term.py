"""The term of an objective that makes an image be recognized as its prompt."""

from __future__ import annotations

from torch import Tensor

from d4c.models.clip import CLIP
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.objectives import pair_loss, prompt_loss
from d4c.synthesis.setup import Setup


def prompt_term(
    clip: CLIP, config: SynthesisConfig, setup: Setup, features: Tensor, backgrounds: Tensor | None = None
) -> Tensor:
    """Compute the loss of each image to its prompt, in the form that the settings name.

    Args:
        clip: The model, whose scale and bias count in the form "sigmoid".
        config: `prompt_form` and `temperature` are read.
        setup: Prompts, targets and groups of N images.
        features: Embeddings of the images [N, D].
        backgrounds: Embeddings of their backgrounds [N, D], if there are any.

    Returns:
        Losses [N].
    """
    if config.prompt_form == "sigmoid":
        assert clip.sigmoid_bias is not None, "setup.prepare refuses models without one"
        assert clip.log_logit_scale is not None, "a bias without a scale"
        scale, bias = clip.log_logit_scale.exp(), clip.sigmoid_bias
        return pair_loss(features, setup.texts, setup.targets, scale, bias, backgrounds, setup.group)
    return prompt_loss(features, setup.texts, setup.targets, config.temperature, backgrounds, setup.group)

"""A CLIP whose towers compute with quantized weights and activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d4c.models.clip import CLIP
from d4c.quantization.artifact.folder import KIND
from d4c.quantization.artifact.write import write_artifact
from d4c.quantization.layers.quantized_weight import QuantizedLayer, effective_bits, weighted_layers
from d4c.quantization.placement import Plan, loud_channels
from d4c.storage.outputs import output_folder


class QuantizedCLIP(CLIP):
    """Used like the float CLIP that it was made from; `plan` says how each layer is held.

    `recipe` is a JSON-ready record of the settings, the calibration data and the float model.
    """

    def __init__(self, converted: CLIP, plan: Plan, recipe: dict[str, Any]) -> None:
        super().__init__(
            converted.config,
            converted.name,
            image=converted.image,
            text=converted.text,
            log_logit_scale=converted.log_logit_scale,
            sigmoid_bias=converted.sigmoid_bias,
            tokenizer=converted.tokenizer,
        )
        self.plan = plan
        self.recipe = recipe

    @property
    def origin(self) -> str | None:
        """Hash of the weights of the float model that it was made from, if the recipe has it."""
        model = self.recipe.get("model")
        return str(model["sha256"]) if isinstance(model, dict) and "sha256" in model else None

    def layers(self) -> dict[str, QuantizedLayer]:
        """Every layer with quantized weights, by name."""
        return weighted_layers(self)

    def loud_channels(self) -> dict[str, list[int]]:
        """The input channels of layers that have a scale of their own at 8 bits, by name of the layer."""
        return loud_channels(self.plan)

    def effective_bits(self) -> float:
        """Mean bits per weight over everything that has a quantized weight; of the token table, the rows in use."""
        return effective_bits(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artifact: packed integers, config, tokenizer, preprocessing, model card. See `artifact`.

        Args:
            folder: Where it appears, whole or not at all; an earlier artifact there is replaced.

        Raises:
            ArtifactError: The folder holds something that d4c did not write, or cannot be replaced.
        """
        with output_folder(Path(folder), KIND) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write the files of `save_pretrained` into an empty folder."""
        write_artifact(self, self.plan, self.recipe, folder)

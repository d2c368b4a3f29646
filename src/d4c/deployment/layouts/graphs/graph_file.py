"""`GraphFile` and `Ports`: what a tool expects of one ONNX file. Data only: the table of targets imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Size = int | str
"""A number where it is fixed, a name where it is not."""


@dataclass(frozen=True)
class Ports:
    """How a tool calls inputs and outputs, and of which types and sizes they are.

    Args:
        pixels: Name of the input float32 [image_batch, 3, S, S].
        tokens: Name of the input [text_batch, length].
        image: Name of the embedding of pixels.
        text: Name of the embedding of tokens.
        ids: Type of the tokens.
        unit_length: Whether embeddings are divided by their lengths.
        image_batch: Number of pictures.
        text_batch: Number of prompts.
        length: Number of tokens per prompt.
    """

    pixels: str = "pixel_values"
    tokens: str = "input_ids"
    image: str = "image_embeds"
    text: str = "text_embeds"
    ids: Literal["int32", "int64"] = "int64"
    unit_length: bool = False
    image_batch: Size = "batch_size"
    text_batch: Size = "batch_size"
    length: Size = "sequence_length"


POOLED = Ports(image="pooler_output", text="pooler_output")
"""The ports of a graph of one of SigLIP's towers."""
JOINT = Ports(unit_length=True, image_batch="image_batch_size", text_batch="text_batch_size")
"""The ports of a graph of both towers as transformers exports it; it also has logits_per_image and logits_per_text."""


Form = Literal["integers", "weights", "weights16", "float32", "float16"]
"""How a graph computes: as the artifact does; in float32 or float16 with its packed weights; or a float model."""
HALF = ("weights16", "float16")
"""Forms that compute in float16."""


@dataclass(frozen=True)
class GraphFile:
    """One ONNX file.

    Args:
        path: Where the tool looks for it, relative to the folder.
        towers: "image", "text" or both; with both, the logits of each picture and prompt are outputs as well.
        ports: Its inputs and outputs.
        form: How it computes.
        features: Whether the states between blocks are outputs as well.
        bytes_only: Whether it may hold no 4-bit types.
        masked: Score of a position that may not be attended to.
    """

    path: str
    towers: tuple[str, ...]
    ports: Ports
    form: Form = "integers"
    features: bool = False
    bytes_only: bool = False
    masked: float = float("-inf")

"""The model card of an artifact, made from what is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(
    name: str,
    recipe: Mapping[str, Any],
    effective_bits: float,
    loud_channels: Mapping[str, Sequence[int]],
    with_class_token: int,
) -> str:
    """Markdown that says what the artifact is, how it was made, and which layers do not follow the scheme."""
    calibration = recipe["calibration"]
    rows = [f"| `{_cell(pattern)}` | {scheme} |" for pattern, scheme in recipe["overrides"].items()]
    rows += [
        f"| `{_cell(layer)}` | input channels {', '.join(map(str, channels))} with a scale of their own at 8 bits |"
        for layer, channels in loud_channels.items()
    ]
    if with_class_token:
        rows.append(f"| {with_class_token} layers of `image.blocks.*` | the class token has its own range at 8 bits |")
    exceptions = "\n".join(rows) or "| none | |"
    made = [f"{calibration.get('method', 'given images')}, {recipe['images']} images"] if recipe["images"] else []
    made += [f"{recipe['prompts']} prompts"] if recipe["prompts"] else []
    steps = f", {recipe['iterations']} steps per unit" if recipe["iterations"] else ""
    full = ", 8-bit weights in full range" if recipe.get("full_range") else ""
    return f"""---
library_name: d4c
tags: [clip, quantized, data-free]
---
# {name}, {recipe["scheme"]}

A CLIP quantized without data by d4c {recipe["d4c"]}.

| | |
| --- | --- |
| float model | {recipe["model"]["name"]} (SHA-256 of its weights {recipe["model"]["sha256"][:16]}...) |
| scheme | {recipe["scheme"]}, track {recipe["track"]}, {effective_bits:.2f} bits per weight on average{full} |
| quantized towers | {", ".join(recipe["towers"])} |
| calibration | {", ".join(made)} |
| reconstruction | {recipe["reconstruction"]}{steps} |
| seed | {recipe["seed"]} |

Layers that do not follow the scheme (patterns over layer names; the token table is held at 8 bits per row):

| layers | scheme |
| --- | --- |
{exceptions}

```python
import d4c
clip = d4c.load_quantized("path/to/this/folder")
```

The weights remain under the license of the float model.
"""


def _cell(text: str) -> str:
    """Text that may stand in a Markdown table."""
    return text.replace("|", "\\|")

"""Try every configuration of open_clip: which ones d4c loads, and why it refuses the others.

python -m benchmarks.zoo.measure -o benchmarks/zoo/results/zoo.json

Models of open_clip are made on the meta device, so that no weights are needed. A configuration counts as loaded if the
model has the weights that d4c reads, in the same shapes, and no others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.arguments import argument_parser
from benchmarks.common.records import command, setup
from benchmarks.common.torchvision_operators import declare_operators
from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import CONFIG_ADVICE, IGNORED, blueprint
from d4c.models.formats.build import layout_of
from d4c.models.formats.openclip import openclip_config, openclip_tokenizer, plain_names, refuse_foreign
from d4c.storage.files import write_json


def refusal(name: str, model: Mapping[str, Any]) -> str | None:
    """Return why d4c refuses a configuration, None if it loads such a model."""
    import open_clip

    try:
        config = openclip_config(model, {}, name)
        openclip_tokenizer(model["text_cfg"], Path(), name)
        config.check(name, CheckpointError, CONFIG_ADVICE)
        with torch.device("meta"):
            theirs = open_clip.create_model(name, load_weights=False, device="meta").state_dict()
        refuse_foreign(theirs, name)
    except CheckpointError as error:
        return str(error)
    return difference(config, plain_names(theirs))


def difference(config: CLIPConfig, state: Mapping[str, Tensor]) -> str | None:
    """Return the first weight in which a model differs from what d4c reads, None if there is none."""
    layout = layout_of(config, state)
    needed = {key: shape for ours, own in blueprint(config).items() for key, shape in layout(ours).shapes(own).items()}
    present = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(IGNORED)}
    different = sorted(key for key in needed.keys() | present.keys() if needed.get(key) != present.get(key))
    return f"the weight {different[0]} is another" if different else None


def measured() -> list[dict[str, Any]]:
    """Try every configuration that open_clip has."""
    import open_clip

    rows = []
    for name in sorted(open_clip.list_models()):
        model = open_clip.get_model_config(name)
        image = model["vision_cfg"].get("timm_model_name")
        text = model["text_cfg"].get("hf_model_name")
        kind = {"image": image, "text": text, "decoder": "multimodal_cfg" in model}
        rows.append({"name": name, **kind, "refusal": refusal(name, model)})
        print(f"{name}: {rows[-1]['refusal'] or 'loads'}")
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    declare_operators()
    rows = measured()
    if arguments.output is not None:
        described = {"command": command("zoo.measure"), "setup": setup("cpu", "open_clip_torch", "timm")}
        write_json(arguments.output, {**described, "rows": rows})


if __name__ == "__main__":
    main()

"""Writing an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.inputs.reader_files import files_of, save_reader_files
from d4c.quantization.artifact.card import model_card
from d4c.quantization.artifact.folder import CONFIG, FORMAT_VERSION, WEIGHTS, range_prefix
from d4c.quantization.formats.packing import pack
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding, QuantizedLayer, effective_bits
from d4c.quantization.placement import Plan, loud_channels
from d4c.reading.seal import file_hashes, write_sealed


def write_artifact(clip: CLIP, plan: Plan, recipe: Mapping[str, Any], folder: Path) -> None:
    """Write the files of an artifact into an empty folder."""
    config = clip.config
    save_file(dict(_tensors(clip)), folder / WEIGHTS, metadata={"format": "pt"})
    save_reader_files(folder, config, clip.tokenizer)
    write_sealed(
        folder / CONFIG,
        {
            "format_version": FORMAT_VERSION,
            "name": clip.name,
            "architecture": config.to_dict(),
            "quantization_config": {
                "quant_method": "d4c",
                "scheme": recipe["scheme"],
                "track": recipe["track"],
                "overrides": recipe["overrides"],
                "begin_id": clip.text.begin_id,
                "effective_bits": round(effective_bits(clip), 4),
                "layers": {name: entry.to_dict() for name, entry in plan.items()},
                "ignore": sorted(_float_layers(clip)),
            },
            "recipe": recipe,
            "files": file_hashes(folder, (WEIGHTS, *files_of(config))),
        },
    )
    with_class_token = sum(entry.class_token for entry in plan.values())
    card = model_card(clip.name, recipe, effective_bits(clip), loud_channels(plan), with_class_token)
    (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")


def _float_layers(clip: CLIP) -> Iterator[str]:
    for name, module in clip.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            yield name


def _tensors(clip: CLIP) -> Iterator[tuple[str, Tensor]]:
    """Everything that an artifact stores, by name."""
    # A quantizer that several layers share is stored under each of them.
    for name, module in clip.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedLayer):
            yield from ((f"{name}.{key}", value) for key, value in _layer_tensors(module))
        elif isinstance(module, ActivationQuantizer):
            prefix = range_prefix(name)
            yield f"{prefix}scale", module.scale.detach().cpu().clone()
            yield f"{prefix}zero_point", module.zero_point.to(torch.uint8).cpu()
        else:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for key, value in own:
                if key != "num_batches_tracked":
                    yield f"{name}.{key}".lstrip("."), value.detach().float().contiguous().cpu()


def _layer_tensors(layer: QuantizedLayer) -> Iterator[tuple[str, Tensor]]:
    args = layer.weight_args
    codes, scale = layer.codes, layer.weight_scale
    if isinstance(layer, QuantizedEmbedding):
        used = layer.used_rows()
        if not bool(used.all()):
            yield "token_ids", used.nonzero()[:, 0].to(torch.int32).cpu()
            codes, scale = codes[used], scale[used]
    yield "weight_packed", pack(codes, args.num_bits, args.symmetric).cpu()
    yield "weight_scale", scale.flatten().cpu()
    if not args.symmetric:
        yield "weight_zero_point", layer.weight_zero_point.flatten().to(torch.uint8).cpu()
    bias = getattr(layer, "bias", None)
    if bias is not None:
        yield "bias", bias.cpu()

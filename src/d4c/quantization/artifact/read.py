"""Reading an artifact: every name, shape and type is checked before a tensor is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from d4c.device import move
from d4c.errors import ArtifactError, SettingError, reason_of
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS, CLIPConfig
from d4c.models.formats.assemble import check_depth
from d4c.models.inputs.prompt_tokenizers import read_own_tokenizer
from d4c.models.inputs.reader_files import files_of
from d4c.quantization.artifact.folder import CONFIG, FORMAT_VERSION, WEIGHTS, range_prefix
from d4c.quantization.formats.packing import packed_size, unpack
from d4c.quantization.formats.scheme import Track
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding, QuantizedLayer
from d4c.quantization.placement import LayerPlan, convert
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.symmetries.batch_norm import fold_batchnorms
from d4c.reading.folder_kind import CONFIG_ADVICE
from d4c.reading.json_file import read_json
from d4c.reading.ranges import SEED, TOKEN_ID
from d4c.reading.schema import List, Maybe, OneOf, Record, Table, Text, Whole, check, check_version
from d4c.reading.seal import FILES, check_file, check_seal

ADVICE = "the artifact is damaged, write it again"
CHANGED = "write it again, or load it with verify=False if you changed it yourself"
SCHEME = Text(16)
RECIPE = Record(
    {
        "d4c": Text(),
        "scheme": SCHEME,
        "track": OneOf(get_args(Track)),
        "overrides": Table(SCHEME),
        "towers": List(OneOf(TOWERS), 1, 2),
        "images": Whole(0, 1 << 30),
        "prompts": Whole(0, 1 << 30),
        "iterations": Maybe(Whole(1, 1 << 30)),
        "reconstruction": Text(),
        "seed": SEED,
        "model": Record({"name": Text(), "sha256": Text()}),
        "calibration": Record({}, {"method": Text()}),
    }
)
"""What the model card and an export tell about how an artifact was made; there is more."""
CONTENT = Record(
    {
        "name": Text(),
        "architecture": Record(),
        "quantization_config": Record(
            {
                "quant_method": OneOf(("d4c",)),
                "scheme": SCHEME,
                "track": OneOf(get_args(Track)),
                "overrides": Table(SCHEME),
                "begin_id": TOKEN_ID,
                "layers": Table(Record()),
            }
        ),
        "recipe": RECIPE,
        "files": Record(),
    }
)
"""What config.json holds; `CLIPConfig` and `LayerPlan` check the architecture and the layers."""

_DTYPES = {"F32": torch.float32, "U8": torch.uint8, "I32": torch.int32}


def read_artifact(folder: str | Path, device: str | torch.device = "cpu", *, verify: bool = True) -> QuantizedCLIP:
    """Read an artifact; its embeddings equal those of the model that was saved, bit for bit on the same device.

    Args:
        folder: What `write_artifact` wrote.
        device: Where to put it.
        verify: Check the checksums of config.json and of the files that it lists.

    Raises:
        ArtifactError: Something is missing, damaged, changed since it was written or from a newer version.
        SettingError: The device cannot be used.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if verify:
        check_seal(config, str(folder / CONFIG), ArtifactError, CHANGED)
    architecture = CLIPConfig.from_dict(
        config["architecture"], f"{folder / CONFIG}: architecture", ArtifactError, ADVICE
    )
    names = (WEIGHTS, *files_of(architecture))
    check(config["files"], Record(dict.fromkeys(names, FILES.kind)), f"{folder / CONFIG}: files", ArtifactError, ADVICE)
    for name in names if verify else ():
        check_file(folder / name, config["files"][name], ArtifactError, CHANGED)
    section = config["quantization_config"]
    text, tokenizer = architecture.text, None
    if text.tokenizer == "own":
        tokenizer = read_own_tokenizer(folder, text.context_length, text.vocab_size, ArtifactError)
    check_depth(architecture, _count_tensors(folder / WEIGHTS), str(folder), ArtifactError)
    try:
        plan = {name: LayerPlan.from_dict(entry) for name, entry in section["layers"].items()}
        with torch.device("meta"):
            skeleton = CLIP(architecture, config["name"], tokenizer=tokenizer).eval().requires_grad_(False)
            track = section["track"]
            for tower in {name.partition(".")[0] for name in plan} if track == "deployable" else ():
                fold_batchnorms(skeleton.tower(tower))
            convert(skeleton, plan, track)
            skeleton.text.expect_begin(section["begin_id"])
        clip = QuantizedCLIP(skeleton, plan, dict(config["recipe"]))
    # Plans that do not fit the layers make torch and the towers fail in many ways.
    except (AttributeError, AssertionError, LookupError, RuntimeError, SettingError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / CONFIG} does not describe a quantized CLIP ({reason_of(error)}); {ADVICE}."
        ) from None
    _fill(clip, folder / WEIGHTS)
    return move(clip, device)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not an existing folder; {CONFIG_ADVICE}.")
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no config.json; {CONFIG_ADVICE}.")
    config = read_json(path, ArtifactError, ADVICE)
    check_version(config, FORMAT_VERSION, str(path), ArtifactError, CONFIG_ADVICE)
    check(config, CONTENT, str(path), ArtifactError, ADVICE)
    return dict(config)


def _count_tensors(path: Path) -> int:
    try:
        with safe_open(path, "pt") as stored:
            return len(stored.keys())
    except (OSError, SafetensorError, UnicodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({reason_of(error)}); {ADVICE}.") from None


def _check_room(clip: QuantizedCLIP, path: Path) -> None:
    """Raise ArtifactError if a file is smaller than what config.json announces, before anything is allocated.

    Rows of the token table that are not in use are not stored; the blocks bound its width.
    """
    needed = 0
    for layer in clip.layers().values():
        if not isinstance(layer, QuantizedEmbedding):
            needed += packed_size(int(torch.Size(layer.weight_shape).numel()), layer.weight_args.num_bits)
    quantized = {parameter for layer in clip.layers().values() for parameter in layer.parameters()}
    needed += sum(4 * p.numel() for p in clip.parameters() if p not in quantized)
    size = path.stat().st_size if path.is_file() else None
    if size is not None and size < needed:
        raise ArtifactError(f"{path} has {size} bytes, but config.json announces weights of {needed} bytes; {ADVICE}.")


def _fill(clip: QuantizedCLIP, path: Path) -> None:
    _check_room(clip, path)
    try:
        with safe_open(path, "pt") as stored:
            reader = _Reader(stored, path)
            for name, module in list(clip.named_modules(remove_duplicate=False)):
                _fill_module(clip, name, module, reader)
            reader.finish()
    except (OSError, SafetensorError, UnicodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({reason_of(error)}); {ADVICE}.") from None


class _Reader:
    """Tensors of a safetensors file, each checked before it is read; `finish` refuses what nobody asked for."""

    def __init__(self, stored: Any, path: Path) -> None:
        self.stored, self.path = stored, path
        self.left = set(stored.keys())
        self.cache: dict[str, Tensor] = {}
        self.ranges: dict[ActivationQuantizer, tuple[Tensor, Tensor]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.left or name in self.cache

    def take(self, name: str, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
        if name not in self:
            raise ArtifactError(f"{self.path} lacks the tensor {name}; the artifact is incomplete, write it again.")
        given = self.stored.get_slice(name)
        found = tuple(given.get_shape()), _DTYPES.get(given.get_dtype())
        if found != (tuple(shape), dtype):
            raise ArtifactError(
                f"The tensor {name} in {self.path} is {given.get_dtype()} {list(found[0])}, expected "
                f"{str(dtype).removeprefix('torch.')} {list(shape)}; the artifact is damaged, write it again."
            )
        self.left.discard(name)
        if name not in self.cache:
            self.cache[name] = self.stored.get_tensor(name)
        value = self.cache[name]
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ArtifactError(f"The tensor {name} in {self.path} is not finite; the artifact is damaged.")
        return value

    def length(self, name: str) -> int:
        """First dimension of a tensor, 0 for a single number."""
        return int(next(iter(self.stored.get_slice(name).get_shape()), 0))

    def finish(self) -> None:
        if self.left:
            raise ArtifactError(
                f"{self.path} holds the tensor {min(self.left)}, which config.json does not announce; "
                "the artifact is damaged, write it again."
            )


def _fill_module(clip: QuantizedCLIP, name: str, module: nn.Module, reader: _Reader) -> None:
    if isinstance(module, QuantizedLayer):
        _fill_layer(name, module, reader)
    elif isinstance(module, ActivationQuantizer):
        prefix = range_prefix(name)
        scale = reader.take(f"{prefix}scale", module.scale.shape, torch.float32)
        zero_point = reader.take(f"{prefix}zero_point", module.scale.shape, torch.uint8)
        if not bool((scale > 0).all()) or int(zero_point.max()) > module.args.qmax:
            raise ArtifactError(f"The range of {name} in {reader.path} is not valid; the artifact is damaged.")
        earlier = reader.ranges.setdefault(module, (scale, zero_point))
        if not (torch.equal(scale, earlier[0]) and torch.equal(zero_point, earlier[1])):
            raise ArtifactError(
                f"The range of {name} in {reader.path} is not that of the other layers that read the same tensor; "
                "the artifact is damaged, write it again."
            )
        module.scale = nn.Parameter(scale, requires_grad=False)
        module.zero_point = zero_point.float()
        if module.loud is not None:
            module.place_channels()
    else:
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if key == "num_batches_tracked":
                setattr(module, key, torch.zeros((), dtype=torch.long))
                continue
            loaded = reader.take(f"{name}.{key}".lstrip("."), value.shape, torch.float32)
            setattr(
                module, key, nn.Parameter(loaded, requires_grad=False) if isinstance(value, nn.Parameter) else loaded
            )


def _fill_layer(name: str, layer: QuantizedLayer, reader: _Reader) -> None:
    args, shape = layer.weight_args, layer.weight_shape
    ids: Tensor | None = None
    rows = shape[0]
    if isinstance(layer, QuantizedEmbedding) and f"{name}.token_ids" in reader:
        stored_rows = reader.length(f"{name}.token_ids")
        ids = reader.take(f"{name}.token_ids", (stored_rows,), torch.int32).long()
        if not stored_rows or int(ids.min()) < 0 or int(ids.max()) >= rows or bool((ids.diff() <= 0).any()):
            raise ArtifactError(
                f"{name}.token_ids in {reader.path} are not rising row numbers; the artifact is damaged."
            )
        rows = stored_rows
    stored_shape = (rows, *shape[1:])
    size = packed_size(int(torch.Size(stored_shape).numel()), args.num_bits)
    packed = reader.take(f"{name}.weight_packed", (size,), torch.uint8)
    codes = unpack(packed, args.num_bits, args.symmetric, stored_shape)
    scale = reader.take(f"{name}.weight_scale", (rows,), torch.float32)
    if not bool((scale > 0).all()):
        raise ArtifactError(f"The weight scales of {name} in {reader.path} are not positive; the artifact is damaged.")
    channels = (shape[0],) + (1,) * (len(shape) - 1)
    if ids is not None:
        codes = torch.zeros(shape, dtype=codes.dtype).index_copy(0, ids, codes)
        scale = torch.ones(shape[0]).index_copy(0, ids, scale)
    zero_point = torch.zeros(channels)
    if not args.symmetric:
        zero_point = reader.take(f"{name}.weight_zero_point", (rows,), torch.uint8).float().view(channels)
    layer.codes, layer.weight_scale, layer.weight_zero_point = codes, scale.view(channels), zero_point
    layer.weight = torch.empty(shape)
    layer.set_codes(codes)
    if args.pairs_fit and not layer.pairs_fit():
        raise ArtifactError(
            f"Two products of {name} in {reader.path} leave the 16 bits that config.json announces; "
            "the artifact is damaged, write it again."
        )
    layer.float_weight = None
    bias = getattr(layer, "bias", None)
    if bias is not None:
        layer.bias = reader.take(f"{name}.bias", bias.shape, torch.float32)

"""`measure_tokens`: which tokens carry the error that the quantizer of a layer's inputs makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.progress import WHOLE, Report, parts, reporting
from d4c.quantization.config import QuantizeConfig
from d4c.quantization.doctor.stream import BEGIN, LOUD_ROW, PATCH, row_kinds
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.sensitivity.prepared import prepared_probe
from d4c.quantization.sensitivity.probe import Probe, swapped

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

LOUD_PATCH = "loud patch"
PREPARING, MEASURING = 1.0, 2.0
"""About how long each part of the work takes relative to the other, for the progress."""


@dataclass(frozen=True)
class TokenCost:
    """What the rounding of one kind of token costs.

    Attributes:
        token: "class token", "loud patch", "patch", "word" or "end of text".
        per_sample: Mean number of such tokens in an image or a prompt.
        error: Their share of the squared error of all inputs of the layer.
        alone: Divergence in nats of the float model with only their inputs rounded.
    """

    token: str
    per_sample: float
    error: float
    alone: float


@dataclass(frozen=True)
class TokenSensitivity:
    """The result of `measure_tokens`.

    Attributes:
        model: Name of the CLIP.
        layer: Name of the layer.
        bits: Bits of its inputs.
        class_token_bits: Bits of the class token where it has a range of its own.
        images: How many calibration images the costs are a mean over.
        prompts: How many prompts the distribution is over.
        constant: Whether begin-of-text is a constant here, which no quantizer sees.
        divergence: Divergence in nats of the float model with all inputs of the layer rounded, and its weights float.
        tokens: The costs, the largest first.
    """

    model: str
    layer: str
    bits: int
    class_token_bits: int | None
    images: int
    prompts: int
    constant: bool
    divergence: float
    tokens: tuple[TokenCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of all numbers."""
        return asdict(self)


def measure_tokens(
    clip: CLIP,
    calibration: CalibrationSet,
    layer: str,
    scheme: str | Scheme = QuantizeConfig.scheme,
    *,
    prompts: Sequence[str] | None = None,
    progress: Report = "auto",
) -> TokenSensitivity:
    """Measure which tokens carry the error of a layer's input quantizer, on the deployable track.

    A patch is loud if its row of the residual stream, where it enters or leaves the block of the layer, is five times
    larger than the median row. Tokens that do not reach the output, such as padding, do not count.

    Args:
        clip: The float CLIP, which is not changed.
        calibration: Images that ranges are chosen on and divergences are measured on.
        layer: Name of a linear layer in a transformer block, such as "image.blocks.2.mlp.fc2".
        scheme: Bits of weights and activations, such as "W4A8".
        prompts: Prompts of the ranges and of the distribution; by default 180 generic ones, each of another noun.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The costs of all kinds of tokens.

    Raises:
        SettingError: The scheme is not valid, or the layer is not quantized or does not read one row for each token.
        DataError: The calibration images or the prompts cannot be used.
    """
    scheme = Scheme.parse(scheme)
    linear = [name for name, module in clip.named_modules() if isinstance(module, nn.Linear)]
    if layer not in linear:
        raise SettingError(
            f"{layer!r} is not a linear layer of {clip.name!r}, expected one such as {linear[len(linear) // 2]!r}; "
            "d4c sensitivity without --layer names them."
        )
    with reporting(progress, f"measure tokens of {layer}") as report:
        report(0, WHOLE)
        preparing, measuring = parts(report, [PREPARING, MEASURING])
        probe, _ = prepared_probe(clip, calibration, scheme, prompts, preparing)
        module = probe.quantized.get_submodule(layer)
        if not isinstance(module, QuantizedLinear):
            raise SettingError(
                f"The layer {layer!r} is not quantized, so that no inputs are rounded; name another one."
            )
        costs = _Tokens(probe, clip, layer, module.input_quantizer)
        kinds = sorted(costs.kinds())
        tokens = []
        for done, kind in enumerate(kinds, 1):
            tokens.append(costs.cost(kind))
            measuring(done, len(kinds))
        report(WHOLE, WHOLE)
    return TokenSensitivity(
        model=clip.name,
        layer=layer,
        bits=module.input_quantizer.args.num_bits,
        class_token_bits=None if (apart := module.input_quantizer.class_token) is None else apart.args.num_bits,
        images=probe.samples("image"),
        prompts=probe.samples("text"),
        constant=costs.constant,
        divergence=costs.whole,
        tokens=tuple(sorted(tokens, key=lambda cost: -cost.alone)),
    )


class RoundedRows(nn.Module):
    """A float layer that reads some rows of its input rounded.

    Args:
        layer: The layer.
        quantizer: Rounds its inputs.
        rows: Which rows are rounded, boolean [N, L].

    Attributes:
        errors: Squared error of each row of the last input if it were rounded, [N, L].
    """

    def __init__(self, layer: nn.Module, quantizer: ActivationQuantizer, rows: Tensor) -> None:
        super().__init__()
        self.layer, self.quantizer, self.rows = layer, quantizer, rows
        self.errors = torch.zeros(rows.shape)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[:-1] != self.rows.shape:
            raise SettingError(
                f"An input of the layer has shape {list(x.shape)}, expected a row for each of {self.rows.shape[1]} "
                "tokens; name a linear layer in a transformer block."
            )
        rounded = self.quantizer(x)
        self.errors = (rounded - x).square().sum(-1)
        return self.layer(torch.where(self.rows[..., None], rounded, x))


class _Tokens:
    """The states around the stage of a layer, and what each of their rows is."""

    @torch.no_grad()
    def __init__(self, probe: Probe, clip: CLIP, layer: str, quantizer: ActivationQuantizer) -> None:
        self.probe, self.layer, self.quantizer = probe, layer, quantizer
        self.tower = layer.partition(".")[0]
        self.batches = probe.inputs[self.tower]
        chain = probe.chains[self.tower]
        index = next(i for i, stage in enumerate(chain) if stage.owns(layer))
        states = self.batches
        for stage in chain[:index]:
            states = self._run(stage.run, states)
        self.states, self.rest = states, chain[index:]
        leaving = self._run(chain[index].run, states)
        if states[0].shape != leaving[0].shape or states[0].ndim != 3:
            raise SettingError(
                f"The layer {layer!r} is not in a transformer block, expected one whose inputs have a row for each "
                "token; name a layer of a block."
            )
        self.constant = False
        self.masks = [self._masks(clip, *batch) for batch in zip(self.batches, states, leaving, strict=True)]
        features, self.errors = self._features(self._live())
        self.whole = probe.with_features(self.tower, features)

    def _run(self, run: Any, states: list[Tensor]) -> list[Tensor]:
        return [run(self.probe.reference, x, inputs) for x, inputs in zip(states, self.batches, strict=True)]

    def _masks(self, clip: CLIP, inputs: Tensor, entering: Tensor, leaving: Tensor) -> dict[str, Tensor]:
        """Which rows of the states of a batch are of each kind, boolean [N, L]."""
        count, length, _ = entering.shape
        names = row_kinds(clip.tower(self.tower), self.tower, inputs)
        table = [names[i : i + len(names) // count] for i in range(0, len(names), len(names) // count)]
        folded = len(table[0]) - length
        self.constant = folded > 0 and table[0][0] == BEGIN
        table = [row[folded:] for row in table]
        sizes = torch.maximum(entering.abs().amax(-1), leaving.abs().amax(-1))
        loud = sizes > LOUD_ROW * sizes.median()
        live = self.probe.reference.tower(self.tower).live(inputs)
        masks: dict[str, Tensor] = {}
        for kind in dict.fromkeys(name for row in table for name in row):
            rows = torch.tensor([[name == kind for name in row] for row in table], device=entering.device)
            rows = rows if live is None else rows & live
            if kind == PATCH:
                masks[LOUD_PATCH] = rows & loud
                rows = rows & ~loud
            masks[kind] = rows
        return masks

    def _live(self) -> list[Tensor]:
        return [torch.stack(list(masks.values())).any(0) for masks in self.masks]

    def kinds(self) -> set[str]:
        """The kinds of tokens that there are."""
        return {kind for masks in self.masks for kind, rows in masks.items() if bool(rows.any())}

    @torch.no_grad()
    def cost(self, kind: str) -> TokenCost:
        """Measure one kind."""
        rows = [masks.get(kind, torch.zeros_like(next(iter(masks.values())))) for masks in self.masks]
        features, _ = self._features(rows)
        live = self._live()
        part = sum(float(errors[mask].sum()) for errors, mask in zip(self.errors, rows, strict=True))
        whole = sum(float(errors[mask].sum()) for errors, mask in zip(self.errors, live, strict=True))
        return TokenCost(
            token=kind,
            per_sample=sum(int(mask.sum()) for mask in rows) / self.probe.samples(self.tower),
            error=part / whole if whole else 0.0,
            alone=self.probe.with_features(self.tower, features),
        )

    def _features(self, rows: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Embeddings [N, D] with these rows rounded, and the squared errors of all rows, a batch at a time."""
        clip, features, errors = self.probe.reference, [], []
        for inputs, state, mask in zip(self.batches, self.states, rows, strict=True):
            layer = RoundedRows(clip.get_submodule(self.layer), self.quantizer, mask)
            with swapped(clip, self.layer, layer):
                for stage in self.rest:
                    state = stage.run(clip, state, inputs)
            features.append(state)
            errors.append(layer.errors)
        return torch.cat(features), errors

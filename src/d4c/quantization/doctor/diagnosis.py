"""The records that `examine` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

FindingKind = Literal["layers", "bits", "channels", "tokens", "spread", "dead"]


@dataclass(frozen=True)
class Spread:
    """How far the ranges of the live channels of an axis lie apart, in the worst of the tensors that hold it.

    Attributes:
        wide: Widest channel, relative to the median one.
        narrow: Median channel, relative to the narrowest one.
    """

    wide: float
    narrow: float

    @property
    def ratio(self) -> float:
        """Widest channel, relative to the narrowest one."""
        return self.wide * self.narrow


@dataclass(frozen=True)
class AxisSpread:
    """One channel axis, as the checkpoint has it and as it is quantized.

    Attributes:
        name: Name of the axis in the CLIP, such as "image.blocks.3.norm1".
        channels: Number of channels.
        before: The spread in the checkpoint.
        after: The spread once the symmetries of the tower were used.
        dead: Channels that say nothing: constant on all samples, or read with weights of zero.
    """

    name: str
    channels: int
    before: Spread
    after: Spread
    dead: tuple[int, ...]


@dataclass(frozen=True)
class LoudToken:
    """A kind of token whose row of the residual stream is far larger than the median row.

    Attributes:
        token: "class token", "begin of text", "end of text", "word" or "patch".
        stage: The stage after which it is loudest, such as "image.blocks.6".
        largest: Its largest |residual|.
        median: Largest |residual| of the median row there.
        per_sample: Mean number of such rows in a sample.
        constant: Whether the token is the same in every sample, so that no quantizer sees it.
        apart: Whether layers that read it in fewer than 8 bits round it to 8 in a range of its own.
    """

    token: str
    stage: str
    largest: float
    median: float
    per_sample: float
    constant: bool
    apart: bool = False


@dataclass(frozen=True)
class LoudChannel:
    """A channel that is far larger than the median one.

    Attributes:
        place: A layer whose input holds the channel, such as "image.blocks.2.mlp.fc2", or "image residual stream".
        channel: Index of the channel.
        largest: Its largest absolute value.
        median: Median absolute value of all channels there.
        stages: Where the channel of a residual stream is loud; empty for the input of a layer.
        token: The token at which it is largest; empty where that is not known.
        constant: Whether that token is the same in every sample, so that no quantizer sees it.
        apart: Whether the channel will have a scale of its own.
    """

    place: str
    channel: int
    largest: float
    median: float
    stages: tuple[str, ...] = ()
    token: str = ""
    constant: bool = False
    apart: bool = False


@dataclass(frozen=True)
class LayerOutlook:
    """What the rounding of a layer leaves, in its best form and rounded to nearest.

    Attributes:
        name: Name of the layer in the CLIP.
        bits: Bits of its inputs.
        input_db: Signal-to-noise ratio of the median row of its worst input; None without inputs that are rounded.
        weight_bits: Bits of its weights; 0 without weights.
        weight_db: Signal-to-noise ratio of its weights; None without weights.
        at_risk: Whether one of the two is so low that the layer is likely to cost accuracy.
    """

    name: str
    bits: int
    input_db: float | None
    weight_bits: int
    weight_db: float | None
    at_risk: bool

    @property
    def least_db(self) -> float:
        """The lower one of the two ratios."""
        return min(ratio for ratio in (self.input_db, self.weight_db) if ratio is not None)


@dataclass(frozen=True)
class TowerDiagnosis:
    """What was measured in one tower.

    Attributes:
        name: "image" or "text".
        samples: How many images or prompts were used.
        axes: The channel axes, in order.
        tokens: Loud tokens, the loudest first.
        channels: Loud channels, the loudest first.
        silent: Channels at layer inputs outside of all axes that are constant on all samples, by layer.
        layers: The quantized layers, those with the least signal first.
    """

    name: str
    samples: int
    axes: tuple[AxisSpread, ...]
    tokens: tuple[LoudToken, ...]
    channels: tuple[LoudChannel, ...]
    silent: dict[str, tuple[int, ...]]
    layers: tuple[LayerOutlook, ...]

    @property
    def dead(self) -> dict[str, tuple[int, ...]]:
        """Dead channels by the axis or layer that has any."""
        return {axis.name: axis.dead for axis in self.axes if axis.dead} | self.silent

    @property
    def at_risk(self) -> tuple[LayerOutlook, ...]:
        """The layers at risk, those with the least signal first."""
        return tuple(layer for layer in self.layers if layer.at_risk)


@dataclass(frozen=True)
class Finding:
    """Something that a user should know.

    Attributes:
        kind: What it is about.
        tower: "image" or "text".
        harmless: Whether quantization takes care of it.
        fact: What was measured, in one sentence.
        advice: What to do, in one sentence.
    """

    kind: FindingKind
    tower: str
    harmless: bool
    fact: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """The result of `examine`.

    Attributes:
        model: Name of the CLIP.
        scheme: Bits of weights and activations, such as W4A8.
        towers: What was measured.
        findings: What it means, the most important first.
        verdict: All of it in one line.
    """

    model: str
    scheme: str
    towers: tuple[TowerDiagnosis, ...]
    findings: tuple[Finding, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of all numbers."""
        return asdict(self)

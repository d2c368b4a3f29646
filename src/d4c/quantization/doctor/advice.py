"""What measurements mean for a user: findings with advice, the most important first, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from d4c.quantization.doctor.diagnosis import Finding, LoudChannel, TowerDiagnosis
from d4c.quantization.doctor.layer_inputs import LOW
from d4c.quantization.doctor.stream import CLASS
from d4c.quantization.formats.scheme import MAX_BITS, Scheme

WIDE = 8.0
"""A channel that is wider than so many median ones makes an axis uneven."""
APART = 10.0
"""The median axis is uneven if its widest channel is so many times as wide as its narrowest one; the models that come
with d4c have 2 to 5."""
CLEAR = 25.0
"""Where the inputs of the median layer keep less signal to noise (dB), accuracy is lost, as at 4 bits."""
NAMED = 3
"""How many of a kind a sentence names."""


def findings_of(towers: Sequence[TowerDiagnosis], scheme: Scheme) -> tuple[Finding, ...]:
    """What a user should know, the most important first."""
    return tuple(sorted(_findings(towers, scheme), key=lambda finding: finding.harmless))


def verdict_of(findings: Sequence[Finding], scheme: Scheme) -> str:
    """All findings in one line."""
    if not findings:
        return f"{scheme}: even and quiet; nothing to do."
    serious = sum(not finding.harmless for finding in findings)
    if not serious:
        return f"{scheme}: quantization takes care of everything above; nothing to do."
    return f"{scheme}: {serious} of {_count(len(findings), 'finding')} may cost accuracy; follow the advice there."


def _findings(towers: Sequence[TowerDiagnosis], scheme: Scheme) -> Iterator[Finding]:
    for find in (_layers, _bits, _channels, _tokens, _spread, _dead):
        for tower in towers:
            yield from find(tower, scheme)


def _layers(tower: TowerDiagnosis, scheme: Scheme) -> Iterator[Finding]:
    if not tower.at_risk:
        return
    names = _names([f"{layer.name} ({layer.least_db:.1f} dB)" for layer in tower.at_risk])
    fact = (
        f"Rounding to nearest leaves {_count(len(tower.at_risk), 'layer')} of {len(tower.layers)} less than "
        f"{LOW:.0f} dB of signal to noise: {names}."
    )
    worst = tower.at_risk[0]
    better = Scheme(max(worst.weight_bits or scheme.weight_bits, 4), MAX_BITS)
    pattern = worst.name
    yield Finding(
        "layers", tower.name, False, fact, f"Give each of them more bits, such as --override '{pattern}={better}'."
    )


def _bits(tower: TowerDiagnosis, scheme: Scheme) -> Iterator[Finding]:
    ratios = [layer.input_db for layer in tower.layers if layer.input_db is not None]
    if not ratios or median(ratios) >= CLEAR:
        return
    fact = (
        f"At {scheme.activation_bits} bits the inputs of the median layer keep {median(ratios):.0f} dB of signal to "
        f"noise; {CLEAR:.0f} dB and more lose little."
    )
    wider = Scheme(scheme.weight_bits, MAX_BITS)
    advice = f"Measure what that costs (d4c evaluate); {wider} makes files of the same size and loses less."
    yield Finding("bits", tower.name, False, fact, advice)


def _channels(tower: TowerDiagnosis, _scheme: Scheme) -> Iterator[Finding]:
    loud = [channel for channel in tower.channels if not channel.stages]
    if not loud:
        return
    names = _names([f"{x.channel} of {x.place} ({x.largest:.1f}, median {x.median:.2f})" for x in loud])
    fact = f"{_count(len(loud), 'input channel')} of layers {_are(len(loud))} far louder than the others: {names}."
    if all(x.apart for x in loud):
        advice = "Nothing to do: they get a scale of their own; calibrate with images that make them fire, not noise."
        yield Finding("channels", tower.name, True, fact, advice)
        return
    harmless = not {x.place for x in loud if not x.apart} & {layer.name for layer in tower.at_risk}
    advice = "Nothing to do at these bits." if harmless else "Keep the inputs of their layers at 8 bits."
    yield Finding("channels", tower.name, harmless, fact, advice)


def _tokens(tower: TowerDiagnosis, scheme: Scheme) -> Iterator[Finding]:
    for token in tower.tokens:
        channels = [x for x in tower.channels if x.stages and x.token == token.token]
        carried = f", carried by residual {_channel_names(channels)}" if channels else ""
        often = "" if token.constant or token.per_sample == 1 else f" ({token.per_sample:.1f} per sample)"
        fact = (
            f"The token '{token.token}'{often} reaches {token.largest:.0f} after {token.stage}, where the median row "
            f"reaches {token.median:.0f}{carried}."
        )
        if token.constant:
            advice = "Nothing to do: it is the same in every text, becomes a constant, and reaches no quantizer."
        elif token.token == CLASS and scheme.activation_bits < MAX_BITS:
            advice = (
                f"Nothing to do: it gets a range of its own at {MAX_BITS} bits."
                if token.apart
                else f"Give it a range of its own at {MAX_BITS} bits: leave --no-wide-class-token out."
            )
        else:
            advice = (
                "Nothing to do for the residual stream, which stays in float; calibrate with d4c or leaves, not noise."
            )
        yield Finding("tokens", tower.name, token.constant or not tower.at_risk, fact, advice)


def _spread(tower: TowerDiagnosis, _scheme: Scheme) -> Iterator[Finding]:
    worst = max(tower.axes, key=lambda axis: axis.before.wide)
    middle = median(axis.before.ratio for axis in tower.axes)
    if middle < APART and worst.before.wide < WIDE:
        return
    after = median(axis.after.ratio for axis in tower.axes)
    fact = (
        f"Channel ranges are uneven: the widest is {middle:.0f} times the narrowest at the median axis, and "
        f"{worst.before.wide:.0f} times the median one at {worst.name}; rewriting the tower leaves {after:.1f} and "
        f"{worst.after.wide:.1f}."
    )
    advice = "Nothing to do on track deployable, which rewrites the tower first; track paper does not."
    yield Finding("spread", tower.name, True, fact, advice)


def _dead(tower: TowerDiagnosis, _scheme: Scheme) -> Iterator[Finding]:
    if not tower.dead:
        return
    places = sorted(tower.dead.items(), key=lambda item: -len(item[1]))
    names = _names([f"{_channel_list(channels)} at {place}" for place, channels in places])
    total = sum(len(channels) for _, channels in places)
    fact = f"{_count(total, 'channel')} {_are(total)} dead on these samples: {names}."
    yield Finding("dead", tower.name, True, fact, "Nothing to do: they keep a scale at which they may wake up.")


def _channel_names(channels: Sequence[LoudChannel]) -> str:
    stages = channels[0].stages
    return f"{_channel_list(sorted(x.channel for x in channels))} from {stages[0]} to {stages[-1]}"


def _channel_list(channels: Sequence[int]) -> str:
    noun = "channel" if len(channels) == 1 else "channels"
    return f"{noun} {_names([str(channel) for channel in channels])}"


def _names(names: Sequence[str]) -> str:
    """The first few of some names as a list in words."""
    more = len(names) - NAMED
    shown = list(names[:NAMED]) + ([f"{more} more"] if more > 0 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"

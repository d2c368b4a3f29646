"""Loud tokens and channels of the residual stream of a transformer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from d4c.models.tower import Tower
from d4c.quantization.doctor.diagnosis import LoudChannel, LoudToken
from d4c.quantization.doctor.layer_inputs import SAMPLES

LOUD_ROW = 5.0
"""How much larger the largest value of a loud row is than that of the median row; in the models that come with d4c
and in their like all are below 3."""
BEGIN, END, WORD, CLASS, PATCH = "begin of text", "end of text", "word", "class token", "patch"


@torch.no_grad()
def loud_in_stream(tower: Tower, name: str, inputs: Tensor) -> tuple[list[LoudToken], list[LoudChannel]]:
    """Find the rows, and the channels in them, that carry huge values through the stages of a tower.

    Args:
        tower: A float tower before constants were folded.
        name: "image" or "text".
        inputs: Pixels [N, 3, S, S] or tokens [N, L].

    Returns:
        Both the loudest first; nothing for a tower whose states are no sequences.
    """
    tokens: dict[str, LoudToken] = {}
    channels: dict[int, LoudChannel] = {}
    stages: defaultdict[int, list[str]] = defaultdict(list)
    batches = [tower.crop(batch) for batch in tower.batches(inputs, SAMPLES)]
    kinds = [kind for batch in batches for kind in row_kinds(tower, name, batch)]
    states = batches
    for stage in tower.stages()[:-1]:
        states = [stage.run(tower, state, batch) for state, batch in zip(states, batches, strict=True)]
        if states[0].ndim != 3:
            return [], []
        rows = torch.cat([state.abs().flatten(0, 1) for state in states])
        for token in _loud_tokens(rows, kinds, f"{name}.{stage.name}", len(inputs)):
            if token.token not in tokens or token.largest > tokens[token.token].largest:
                tokens[token.token] = token
        for channel in _loud_channels(rows, kinds, f"{name} residual stream"):
            stages[channel.channel].append(stage.name)
            if channel.channel not in channels or channel.largest > channels[channel.channel].largest:
                channels[channel.channel] = channel
    named = [replace(channel, stages=tuple(stages[index])) for index, channel in channels.items()]
    return sorted(tokens.values(), key=lambda x: -x.largest), sorted(named, key=lambda x: -x.largest)


def _loud_tokens(rows: Tensor, kinds: list[str], stage: str, samples: int) -> list[LoudToken]:
    largest = rows.amax(1)
    median = float(largest.median())
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for row in (largest > LOUD_ROW * median).nonzero().flatten().tolist():
        by_kind[kinds[row]].append(float(largest[row]))
    return [
        LoudToken(kind, stage, max(values), median, len(values) / samples, kind == BEGIN)
        for kind, values in by_kind.items()
    ]


def _loud_channels(rows: Tensor, kinds: list[str], place: str) -> list[LoudChannel]:
    largest, where = rows.max(0)
    median = float(rows.median())
    loud = (largest > LOUD_ROW * rows.amax(1).median()).nonzero().flatten().tolist()
    tokens = [kinds[int(where[channel])] for channel in loud]
    return [
        LoudChannel(place, channel, float(largest[channel]), median, token=token, constant=token == BEGIN)
        for channel, token in zip(loud, tokens, strict=True)
    ]


def row_kinds(tower: Tower, name: str, inputs: Tensor) -> list[str]:
    """What each row of the states of a batch is, sample by sample; nothing where they are no sequences."""
    if name == "text":
        ends = tower.read_rows(inputs)
        assert ends is not None
        length = inputs.shape[1]
        return [BEGIN if i == 0 else END if i == end else WORD for end in ends.tolist() for i in range(length)]
    patches = tower.patches()
    if patches is None or not patches.attentions:
        return []
    count = tower.embed(inputs[:1]).shape[1] - patches.first
    return ([CLASS] * patches.first + [PATCH] * count) * len(inputs)

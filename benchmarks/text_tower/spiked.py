"""A text tower with the activations of real ones: begin-of-text carries two spikes, and channels differ in width.

The embedded models have neither. The figures are statistics of OpenAI's ViT-L/14 text tower, of the outputs of its
last LayerNorm for six prompts (github.com/laurajul/latent-vandalism-workshop, 2026-01-19). Begin-of-text is 33 in one
channel and -28 in another, which hold 98 % of its energy; some positions far after end-of-text reach 22.5 and -18 in
the same channels; the standard deviations of the channels over other positions have a median of 0.78.

What nobody has measured in text towers is assumed as it is known of image towers: in the first half of the blocks a
hidden neuron writes the spikes and fires far harder than all others, and all LayerNorms have the same spreads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from d4c.calibration.prompts import generic_prompts
from d4c.models.clip import CLIP
from d4c.models.layers import Block
from d4c.models.text import TextTransformer
from d4c.quantization.symmetries.rescale import rescale

SPIKES = torch.tensor([33.0, -28.0], dtype=torch.float64)
"""Begin-of-text after the last LayerNorm, in the two channels that hold most of its energy."""
ENERGY = 0.98
"""Their share of the energy of that row."""
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
SPREADS = (0.544, 0.587, 0.631, 0.704, 0.778, 0.866, 1.059, 2.053, 3.976)
"""Percentiles of the channels' standard deviations over positions other than begin-of-text."""
HIDDEN = 62.0
"""What the neurons that write the spikes have at begin-of-text; ordinary ones stay below 7."""
CHANNELS = [0, 1]
"""The residual channels of the spikes."""
FAR = 60
"""Positions from here on carry spikes too; shorter prompts keep their embeddings."""
THRESHOLD = 8.0
"""What their inputs must exceed for them to fire."""
MARK, FAR_MARK = 3.0, 0.38
"""What the position table holds along the spikes, so that the neurons fire; embeddings have a norm of about 1."""
PROMPTS = 256


@torch.no_grad()
def spiked(clip: CLIP, seed: int) -> CLIP:
    """A CLIP whose text tower has spikes and uneven channels; prompts below 60 tokens keep nearly their embeddings.

    The spikes lie along the two directions of the residual stream that ordinary positions use least, and in each block
    that writes them the hidden neuron that matters least does. What blocks read from begin-of-text stays what it was:
    the columns that read the two channels make up for what the norm takes away.

    Args:
        clip: The float model, which is left as it is.
        seed: Which channel gets which of the measured spreads.
    """
    changed = copy.deepcopy(clip).double()
    text = changed.text
    tokens = clip.tokenize(generic_prompts(PROMPTS, seed=0)).to(clip.device)
    _turn(text, tokens)
    _free_neurons(text, tokens)
    _spread(text, tokens, seed)
    _plant(text, tokens[:1, :1])
    return changed.float()


def _turn(text: TextTransformer, tokens: Tensor) -> None:
    """Turn the residual stream so that its two directions of least energy are the channels of the spikes.

    Norms lose gain and bias to their readers, and writers lose their mean; then a norm commutes with every rotation
    that keeps the mean. The other directions are turned as little as possible.
    """
    for norm, readers in _norms(text):
        for reader in readers:
            if reader.bias is not None:
                reader.bias.add_(reader.weight @ norm.bias)
            reader.weight.mul_(norm.weight)
        norm.bias.div_(norm.weight) if readers[0].bias is None else norm.bias.zero_()
        norm.weight.fill_(1)
    width = text.positional_embedding.shape[1]
    eye = torch.eye(width, dtype=torch.float64)
    rows = torch.cat(list(outputs_of(text, tokens, [norm for norm, _ in _norms(text)[:-1]])))
    ones = torch.full((width, 1), width**-0.5, dtype=torch.float64)
    # The mean has no energy at all, so that it comes first.
    least = torch.cat([ones, torch.linalg.eigh(rows.T @ rows).eigenvectors[:, 1:3]], 1)
    spiky = torch.linalg.qr(torch.cat([ones, eye[:, CHANNELS]], 1)).Q
    u, _, vh = torch.linalg.svd((eye - spiky @ spiky.T) @ (eye - least @ least.T))
    turn = u[:, :-3] @ vh[:-3] + spiky[:, 1:] @ least[:, 1:].T
    for _, readers in _norms(text):
        for reader in readers:
            reader.weight.copy_(reader.weight @ turn.T)
    text.norm_final.bias.copy_(turn @ text.norm_final.bias)
    for table in (text.token_embedding.weight, text.positional_embedding):
        table.copy_(table @ turn.T)
    for block in _blocks(text):
        for writer in (block.attn.out, block.mlp.fc2):
            writer.weight.copy_(turn @ writer.weight)
            writer.bias.copy_(turn @ writer.bias)


def _free_neurons(text: TextTransformer, tokens: Tensor) -> None:
    """Give the hidden neuron of each block that matters least a weight of zero; its mean goes into the bias."""
    mlps = [block.mlp for block in _blocks(text)]
    for mlp, hidden in zip(mlps, list(outputs_of(text, tokens, [mlp.act for mlp in mlps])), strict=True):
        neuron = int((hidden.std(0) * mlp.fc2.weight.norm(dim=0)).argmin())
        mlp.fc2.bias.add_(mlp.fc2.weight[:, neuron] * hidden[:, neuron].mean())
        for part in (mlp.fc1.weight[neuron], mlp.fc1.bias[neuron], mlp.fc2.weight[:, neuron]):
            part.zero_()


def _spread(text: TextTransformer, tokens: Tensor, seed: int) -> None:
    """Give the channels after each norm the measured spreads, in random order."""
    generator = torch.Generator().manual_seed(seed)
    norms = [norm for norm, _ in _norms(text)]
    for norm, rows in zip(norms, list(outputs_of(text, tokens, norms)), strict=True):
        ranks = torch.rand(rows.shape[1], generator=generator, dtype=torch.float64)
        spreads = torch.from_numpy(np.interp(100 * ranks.numpy(), PERCENTILES, SPREADS))
        _rescale(text, norm, spreads / rows.std(0))


def _plant(text: TextTransformer, begin: Tensor) -> None:
    """Let position tables mark begin-of-text and far positions, and neurons make spikes of it.

    Args:
        text: The tower.
        begin: The token of begin-of-text [1, 1].
    """
    unit = torch.zeros(text.positional_embedding.shape[1], dtype=torch.float64)
    unit[CHANNELS] = SPIKES / SPIKES.norm()
    length, gain = _length_and_gain(text, begin)
    for norm, _ in _norms(text):
        factors = torch.ones_like(norm.weight)
        factors[CHANNELS] = gain / norm.weight[CHANNELS]
        _rescale(text, norm, factors)
    x = text.embed(begin)
    text.positional_embedding[0] += MARK * unit
    text.positional_embedding[FAR:] += FAR_MARK * unit
    row = text.embed(begin)
    blocks = _blocks(text)
    writers = -(-len(blocks) // 2)
    for i, block in enumerate(blocks):
        attn, mlp = block.attn, block.mlp
        _keep([attn.k, attn.v], block.norm1(x), block.norm1(row))
        change = attn(block.norm1(x), causal=True)
        x, row = x + change, row + change
        _keep([mlp.fc1], block.norm2(x), block.norm2(row))
        change = mlp(block.norm2(x))
        if i < writers:
            neuron = int(mlp.fc2.weight.norm(dim=0).argmin())
            marks = block.norm2(row)[0, 0, CHANNELS]
            mlp.fc1.weight[neuron, CHANNELS] = (HIDDEN + THRESHOLD) * marks / marks.square().sum()
            mlp.fc1.bias[neuron] = -THRESHOLD
            mlp.fc2.weight[:, neuron] = (length - MARK) / writers / HIDDEN * unit
        x, row = x + change, row + mlp(block.norm2(row))


def _length_and_gain(text: TextTransformer, begin: Tensor) -> tuple[float, float]:
    """How long the spikes are in the residual stream, and their gain in the last norm, to be as measured after it."""
    x = text.embed(begin)
    for block in _blocks(text):
        x = text.run_block(block, x)
    x[..., CHANNELS] = 0
    energy = float(SPIKES.square().sum())
    scale = float((x * text.norm_final.weight).norm()) / (energy * (1 / ENERGY - 1)) ** 0.5
    length = (scale**2 * x.shape[-1] - float(x.square().sum())) ** 0.5
    return length, energy**0.5 * scale / length


def _keep(readers: list[nn.Linear], y: Tensor, row: Tensor) -> None:
    """Let readers give for the row with spikes what they give for y, by their columns of the spikes' channels."""
    marks = row[0, 0, CHANNELS]
    for reader in readers:
        missing = (reader(y) - reader(row))[0, 0]
        reader.weight[:, CHANNELS] += torch.outer(missing, marks / marks.square().sum())


@torch.no_grad()
def outputs_of(text: TextTransformer, tokens: Tensor, modules: Sequence[nn.Module], first: int = 1) -> Iterator[Tensor]:
    """Yield what modules give at all positions from `first` on, [rows, C] for each; up to end-of-text with `trim`."""
    outputs: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}

    def record(module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs[module].append(output[:, first:].flatten(0, 1))

    handles = [module.register_forward_hook(record) for module in modules]
    for part in text.batches(tokens, 64):
        x = text.embed(text.crop(part))
        for block in text.blocks:
            x = text.run_block(block, x)
        text.norm_final(x)  # the head applies it to end-of-text alone
    for handle in handles:
        handle.remove()
    yield from (torch.cat(parts) for parts in outputs.values())


def _rescale(text: TextTransformer, norm: nn.LayerNorm, factors: Tensor) -> None:
    name = next(name for name, module in text.named_modules() if module is norm)
    rescale(text, next(axis for axis in text.channel_axes() if axis.writers == (name,)), factors)


def _blocks(text: TextTransformer) -> list[Block]:
    return cast(list[Block], list(text.blocks))


def _norms(text: TextTransformer) -> list[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Each LayerNorm and the linear layers that read it."""
    pairs = []
    for block in _blocks(text):
        pairs.append((block.norm1, [block.attn.q, block.attn.k, block.attn.v]))
        pairs.append((block.norm2, [block.mlp.fc1]))
    return [*pairs, (text.norm_final, [cast(nn.Linear, text.projection)])]

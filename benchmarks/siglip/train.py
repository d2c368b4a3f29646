"""Train a small SigLIP with the sigmoid loss, on few pictures and for a few minutes.

    python -m benchmarks.siglip.captions --data DATA --emoji EMOJI --out DATA
    python -m benchmarks.siglip.train --data DATA --emoji EMOJI --teacher bench-vit.safetensors --minutes 4 --out MODEL

The output is a folder of a `transformers.SiglipModel`. A picture is paired with every concept of a step: those that are
true of it, its hypernyms too, are to score 1 and the others 0. With a teacher, half of each target for a photograph is
the share of the concept in what a CLIP takes it for. A twentieth of the photographs of each class is held out to choose
between the last weights and their average; the test sets are not read.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.common.arguments import add_device, argument_parser
from benchmarks.common.records import setup
from benchmarks.siglip.augment import crops, mixed, on_backgrounds
from benchmarks.siglip.captions import PAD
from benchmarks.siglip.model import Towers, averaged_of, drop_paths, new_model, save_reader, save_weights
from benchmarks.siglip.teacher import Teacher
from benchmarks.siglip.training_data import Pictures, Words, read_emoji, read_photos, read_words
from d4c.storage.files import write_json

if TYPE_CHECKING:
    from transformers import SiglipModel

SHARES = {"tiny-imagenet": 0.66, "cifar10": 0.16, "emoji": 0.18}
"""Of each batch."""


def batches(
    sets: dict[str, Pictures], words: Words, teacher: Callable[[Tensor], Tensor] | None, size: int, texts: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pixels [N, 3, S, S] in [0, 1], token ids [K, L] of different concepts, and how far each pair is true [N, K]."""
    device, truth = words.tokens.device, words.truth
    classes, concepts, templates = *truth.shape, words.tokens.shape[1]
    while True:
        pixels, kinds = [], []
        for name, pictures in sets.items():
            chosen = torch.randint(len(pictures.classes), (round(size * SHARES[name]),), device=device)
            kind = F.one_hot(pictures.classes[chosen], classes).float()
            picked = pictures.pixels[chosen]
            if name == "emoji":
                x = crops(on_backgrounds(picked), 1.0)
            else:
                x, kind = mixed(crops(picked, 0.2), kind)
                if teacher is not None:
                    taken_for = teacher(x)
                    kind = F.pad(taken_for, (0, classes - taken_for.shape[1])).lerp(kind, 0.5)
            pixels.append(x)
            kinds.append(kind)
        kind = torch.cat(kinds)
        captions = torch.multinomial(kind @ words.weights, 1)[:, 0]
        order = torch.rand(concepts, device=device).index_add_(
            0, captions, torch.ones_like(captions, dtype=torch.float)
        )
        chosen = order.topk(min(texts, concepts)).indices
        template = torch.randint(templates, (len(chosen),), device=device)
        yield torch.cat(pixels), words.tokens[chosen, template], (kind @ truth[:, chosen]).clamp(max=1)


def sigmoid_loss(model: SiglipModel, image: Tensor, text: Tensor, targets: Tensor) -> Tensor:
    """The loss of SigLIP, sum over texts and mean over images of -z log s(l) - (1 - z) log s(-l), for targets z."""
    logits = model.logit_scale.exp() * image @ text.T + model.logit_bias
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(image)


@torch.no_grad()
def top1(model: SiglipModel, words: Words, pictures: Pictures, classes: slice, device: str) -> float:
    """Top-1 % on photographs among the classes of their set."""
    towers = Towers(model, device, compiled=False)
    names = words.photo_names[classes]
    text = F.normalize(towers.text(names.flatten(0, 1)).view(len(names), names.shape[1], -1).mean(1), dim=-1)
    parts = pictures.pixels.permute(0, 3, 1, 2).float().div(255).split(500)
    chosen = torch.cat([(towers.image(part) @ text.T).argmax(1) for part in parts])
    return 100 * float((chosen == pictures.classes - classes.start).float().mean())


def optimizer(model: SiglipModel, rate: float) -> torch.optim.AdamW:
    """AdamW without decay of vectors and tables; scale and bias of the logits ten times as fast."""
    logit = [model.logit_scale, model.logit_bias]
    named = [(name, p) for name, p in model.named_parameters() if not name.startswith("logit")]
    matrices = [p for name, p in named if p.ndim > 1 and "embedding" not in name and "probe" not in name]
    others = [p for name, p in named if not any(p is matrix for matrix in matrices)]
    groups = [
        {"params": matrices, "lr": rate, "weight_decay": 0.1},
        {"params": others, "lr": rate, "weight_decay": 0.0},
        {"params": logit, "lr": 10 * rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=next(model.parameters()).is_cuda)


class Clock:
    """A schedule that follows the clock, so that training ends in time on any device: warm-up, then a cosine to 0.

    Args:
        seconds: When to end, counted from now.
        warm_up: Steps of rising rates; what comes before step `first` (compilation) takes no share of the cosine.
    """

    def __init__(self, seconds: float, warm_up: int = 300, first: int = 10) -> None:
        self.end, self.warm_up, self.first = time.monotonic() + seconds, warm_up, first
        self.start = math.inf

    def done(self, step: int) -> float:
        if step == self.first:
            self.start = time.monotonic()
        now = time.monotonic()
        late = 1.0 if now >= self.end else 0.0
        return late if step < self.first or late else (now - self.start) / (self.end - self.start)

    def factor(self, step: int, done: float) -> float:
        return min(1.0, (step + 1) / self.warm_up) * max(1e-3, 0.5 * (1 + math.cos(math.pi * done)))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of *-train.parquet and of the captions")
    parser.add_argument("--emoji", type=Path, required=True, help="folder of train_*.parquet")
    parser.add_argument("--teacher", type=Path, help="checkpoint of a CLIP of 64 pixels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--texts", type=int, default=1024, help="of each batch")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="pictures of each set, for a trial")
    add_device(parser)
    train(parser.parse_args())


def train(args: argparse.Namespace) -> None:
    clock = Clock(60 * args.minutes)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    captions = json.loads((args.data / "captions.json").read_text())
    tiny, tiny_out, names = read_photos(args.data, "tiny-imagenet", 0)
    cifar, cifar_out, more = read_photos(args.data, "cifar10", len(names))
    slices = {"tiny-imagenet": slice(0, len(names)), "cifar10": slice(len(names), len(names + more))}
    names += more
    emoji = read_emoji(args.emoji, {code: len(names) + i for i, code in enumerate(captions["emoji"])})
    words = read_words(args.data, captions, names)
    words = Words(*(tensor.to(args.device) for tensor in vars(words).values()))
    sets = {"tiny-imagenet": tiny, "cifar10": cifar, "emoji": emoji}
    sets = {
        name: Pictures(part.pixels[: args.limit], part.classes[: args.limit]).to(args.device)
        for name, part in sets.items()
    }
    held_out = {"tiny-imagenet": tiny_out.to(args.device), "cifar10": cifar_out.to(args.device)}
    tokenizer = (args.data / "tokenizer.json").read_text(encoding="utf-8")
    whole = Tokenizer.from_str(tokenizer)
    pad_id = whole.token_to_id(PAD)
    assert pad_id is not None, f"{args.data}/tokenizer.json has no {PAD}"
    model = new_model(whole.get_vocab_size(), pad_id).to(args.device)
    save_reader(model, tokenizer, args.out)
    drop_paths(model, 0.15)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    towers = Towers(model, args.device, compiled=args.device.startswith("cuda"))
    teacher = Teacher(args.teacher, names, args.device) if args.teacher else None
    steps = run(args, clock, model.train(), average, towers, batches(sets, words, teacher, args.batch, args.texts))

    def judged(candidate: SiglipModel) -> dict[str, float]:
        return {name: top1(candidate, words, held_out[name], slices[name], args.device) for name in held_out}

    averaged_model = averaged_of(average)
    for each in (model, averaged_model):
        each.train(False)
    last, averaged = judged(model), judged(averaged_model)
    better = averaged_model if averaged["tiny-imagenet"] >= last["tiny-imagenet"] else model
    save_weights(better, args.out)
    card = {
        "trained_on": {name: len(pictures.classes) for name, pictures in sets.items()},
        "teacher": args.teacher.stem if args.teacher else None,
        "steps": steps,
        "batch": args.batch,
        "minutes": args.minutes,
        "held_out_top1": {"last": last, "average": averaged},
        "logit_scale": better.logit_scale.exp().item(),
        "logit_bias": better.logit_bias.item(),
        "setup": setup(args.device, "torch", "transformers"),
    }
    write_json(args.out / "card.json", card)
    print(json.dumps(card), flush=True)


def run(
    args: argparse.Namespace,
    clock: Clock,
    model: SiglipModel,
    average: AveragedModel,
    towers: Towers,
    drawn: Iterator[tuple[Tensor, Tensor, Tensor]],
) -> int:
    """Train until the clock's end, with the average's weights in the output every minute; return the steps."""
    adam = optimizer(model, args.rate)
    rates = [group["lr"] for group in adam.param_groups]
    step, losses, began, saved = 0, [], time.monotonic(), time.monotonic()
    while (done := clock.done(step)) < 1:
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * clock.factor(step, done)
        pixels, tokens, targets = next(drawn)
        loss = sigmoid_loss(model, towers.image(pixels), towers.text(tokens), targets)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        average.update_parameters(model)
        step += 1
        losses.append(loss.detach())
        if step % 200 == 0 or step in (1, 10):
            mean = float(torch.stack(losses[-200:]).mean())
            print(f"step {step} loss {mean:.3f} {time.monotonic() - began:.0f} s done {done:.2f}", flush=True)
        if time.monotonic() - saved > 60:
            save_weights(averaged_of(average), args.out)
            saved = time.monotonic()
    return step


if __name__ == "__main__":
    main()

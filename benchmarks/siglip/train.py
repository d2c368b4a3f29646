"""Train a small SigLIP with the sigmoid loss, on few pictures and for a few minutes.

    python -m benchmarks.siglip.captions --data DATA --emoji EMOJI --out DATA
    python -m benchmarks.siglip.train --data DATA --emoji EMOJI --teacher bench-vit.safetensors --minutes 4 --out MODEL

The output is a folder of a `transformers.SiglipModel`. A picture is paired with every concept of a step: those that are
true of it, its hypernyms too, are to score 1 and the others 0. With a teacher, half of each target for a photograph is
the share of the concept in what a CLIP takes it for. A twentieth of the photographs is held out to choose between the
last weights and their average; the test sets are not read.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import SiglipConfig, SiglipModel

import d4c
from benchmarks.common.arguments import add_device, argument_parser
from benchmarks.common.problems import decode
from benchmarks.common.records import setup
from benchmarks.siglip.augment import crops, mixed, on_backgrounds
from benchmarks.siglip.captions import DRAWING, PAD, PHOTO, clean
from d4c.evaluation.load_dataset import load_dataset
from d4c.storage.files import atomic_file, write_json
from d4c.templates import PHOTO_TEMPLATES, fill_template

SIZE, POSITIONS = 64, 32
SHARES = {"tiny-imagenet": 0.66, "cifar10": 0.16, "emoji": 0.18}
"""Of each batch."""
HELD_OUT = 20
"""One of so many photographs is not trained on."""


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 [N, S, S, 3 or 4] and the number of each one's class."""

    pixels: Tensor
    classes: Tensor

    def to(self, device: str) -> Pictures:
        return Pictures(self.pixels.to(device), self.classes.to(device))


@dataclass(frozen=True)
class Words:
    """Token ids of concepts under templates and under photographs' evaluation templates, and what is true of a class.

    Attributes:
        tokens: [concepts, templates, L].
        weights: How often a concept is a class's own caption [classes, concepts].
        photo_names: Token ids of the names of the photographs' classes [classes, templates, L].
    """

    tokens: Tensor
    weights: Tensor
    photo_names: Tensor

    @property
    def truth(self) -> Tensor:
        return (self.weights > 0).float()


def read_photos(data: Path, name: str, first_class: int) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """Photographs to train on, those held out, and the names of their classes."""
    dataset = load_dataset(f"parquet:{data / name}-train.parquet")
    pixels = decode(dataset, SIZE).permute(0, 2, 3, 1).contiguous()
    classes = torch.as_tensor(dataset.labels) + first_class
    out = torch.arange(len(pixels)) % HELD_OUT == 0
    return Pictures(pixels[~out], classes[~out]), Pictures(pixels[out], classes[out]), tuple(dataset.classes)


def read_emoji(folder: Path, classes: dict[str, int]) -> Pictures:
    def opened(blob: bytes) -> Any:
        return np.asarray(Image.open(BytesIO(blob)).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS))

    rows = [row for file in sorted(folder.glob("train_*.parquet")) for row in pq.read_table(file).to_pylist()]
    pixels = torch.from_numpy(np.stack([opened(row["image"]) for row in rows]))
    return Pictures(pixels, torch.tensor([classes[row["hexcode"]] for row in rows]))


def read_words(data: Path, captions: dict[str, Any], names: tuple[str, ...]) -> Words:
    whole = Tokenizer.from_file(str(data / "tokenizer.json"))
    whole.enable_padding(pad_id=whole.token_to_id(PAD), pad_token=PAD, length=POSITIONS)
    whole.enable_truncation(POSITIONS)

    def ids(phrases: list[str], templates: tuple[str, ...]) -> Tensor:
        rows = whole.encode_batch([fill_template(t, phrase) for phrase in phrases for t in templates])
        return torch.tensor([row.ids for row in rows]).view(len(phrases), len(templates), POSITIONS)

    numbers = {concept: i for i, concept in enumerate(captions["concepts"])}
    classes = [*captions["photos"]["tiny-imagenet"], *captions["photos"]["cifar10"], *captions["emoji"].values()]
    weights = torch.zeros(len(classes), len(numbers))
    for row, concepts in zip(weights, classes, strict=True):
        for concept, weight in concepts.items():
            row[numbers[concept]] = weight
    return Words(ids(captions["concepts"], (*PHOTO, *DRAWING)), weights, ids(list(map(clean, names)), PHOTO_TEMPLATES))


def new_model(vocabulary: int, pad_id: int) -> SiglipModel:
    """A SigLIP of the demo models' size with random weights."""
    text = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 768}
    text |= {"vocab_size": vocabulary, "max_position_embeddings": POSITIONS, "projection_size": 256}
    text |= {"pad_token_id": pad_id, "bos_token_id": pad_id, "eos_token_id": pad_id}
    image = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=image | {"image_size": SIZE, "patch_size": 8}))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-10)
    return model


def drop_paths(model: SiglipModel, most: float) -> None:
    """Leave out branches of the image tower at random, later blocks more often, while it is trained."""
    layers = model.vision_model.encoder.layers
    for number, layer in enumerate(layers):
        keep = 1 - most * (number + 1) / len(layers)

        def drop(module: nn.Module, _: Any, output: Tensor, keep: float = keep) -> Tensor:
            if not module.training:
                return output
            return output * (torch.rand(len(output), 1, 1, device=output.device) < keep).to(output.dtype) / keep

        layer.self_attn.out_proj.register_forward_hook(drop)
        layer.mlp.fc2.register_forward_hook(drop)


class Towers:
    """Unit embeddings of a `SiglipModel`, computed in bfloat16."""

    def __init__(self, model: SiglipModel, device: str, compiled: bool) -> None:
        def image(pixels: Tensor) -> Tensor:
            return model.vision_model(pixel_values=pixels).pooler_output

        def text(tokens: Tensor) -> Tensor:
            return model.text_model(input_ids=tokens).pooler_output

        self.device = torch.device(device).type
        self._image, self._text = (torch.compile(image), torch.compile(text)) if compiled else (image, text)

    def image(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return F.normalize(self._image(pixels * 2 - 1).float(), dim=-1)

    def text(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return F.normalize(self._text(tokens).float(), dim=-1)


class Teacher:
    """What a CLIP takes photographs for, among the classes of both sets.

    Args:
        path: Its checkpoint.
        names: Names of the classes.
        device: Where it works.
    """

    @torch.no_grad()
    def __init__(self, path: Path, names: tuple[str, ...], device: str) -> None:
        self.clip = d4c.load(path, device=device).requires_grad_(False)
        prompts = [fill_template(t, clean(name)) for name in names for t in PHOTO_TEMPLATES]
        text = F.normalize(self.clip.encode_text(self.clip.tokenize(prompts).to(device)), dim=-1)
        self.text = F.normalize(text.view(len(names), len(PHOTO_TEMPLATES), -1).mean(1), dim=-1)
        config = self.clip.config
        self.mean, self.std = (
            torch.tensor(triple, device=device)[:, None, None] for triple in (config.mean, config.std)
        )

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the probability of each class [N, classes] for pixels in [0, 1]."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            image = self.clip.encode_image((pixels - self.mean) / self.std)
        return (self.clip.logit_scale * F.normalize(image.float(), dim=-1) @ self.text.T).softmax(-1)


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


def averaged_of(average: AveragedModel) -> SiglipModel:
    model = average.module
    assert isinstance(model, SiglipModel)
    return model


def save_weights(model: SiglipModel, folder: Path) -> None:
    weights = {key: value.half().contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic_file(folder / "model.safetensors") as file:
        save_file({k: v for k, v in weights.items() if "position_ids" not in k}, file, metadata={"format": "pt"})


def save_reader(model: SiglipModel, tokenizer: str, folder: Path) -> None:
    """Write what a `SiglipModel` needs beside its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict() | {"architectures": ["SiglipModel"], "dtype": "float16"}
    write_json(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    tokens = {"pad_token": PAD, "eos_token": PAD, "unk_token": "<unk>"}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "SiglipTokenizer", **tokens, "model_max_length": POSITIONS},
    )
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "rescale_factor": 1 / 255}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "size": {"height": SIZE, "width": SIZE}}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor", **steps, **pixels})


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

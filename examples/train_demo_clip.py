"""Train a small CLIP on labeled folders of your own, from nothing, in minutes on one GPU.

    python examples/train_demo_clip.py --images DIR [--images DIR2 ...] --arch demo-vit --minutes 5 --out FILE

Each DIR has one sub-folder of images for each class, named by it ("_" is a space). A file DIR/captions.json with
{"class": ["synonym", "hypernym", ...]} gives more words that are true of a class. The result has OpenAI's names and
is read by `d4c.load("FILE")`. The models embedded in d4c come from an earlier script of the same recipe.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn

from d4c.errors import D4CError, DataError
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.openai import openai_layout
from d4c.models.inputs.tokenizer import tokenize
from d4c.models.layers import Block
from d4c.models.resnet import Bottleneck
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig
from d4c.storage.files import atomic_file
from d4c.templates import fill_template

DEMO_TEXT = TextConfig(width=192, layers=3, heads=3, mlp_width=768)
BENCH_TEXT = TextConfig(width=256, layers=4, heads=4, mlp_width=1024)
ARCHITECTURES = {
    "demo-vit": CLIPConfig(256, ViTConfig(64, 8, width=256, layers=6, heads=4, mlp_width=1024), DEMO_TEXT),
    "demo-rn": CLIPConfig(256, ResNetConfig(64, width=20, layers=(2, 2, 3, 2), heads=10), DEMO_TEXT),
    "bench-vit": CLIPConfig(384, ViTConfig(64, 8, width=384, layers=10, heads=6, mlp_width=1536), BENCH_TEXT),
    "bench-rn": CLIPConfig(384, ResNetConfig(96, width=32, layers=(3, 4, 6, 3), heads=16), BENCH_TEXT),
}
TEMPLATES = (
    *("a photo of a {}.", "a {}", "{}", "a picture of a {}.", "a photo of the {}.", "a close-up photo of a {}."),
    *("a bad photo of a {}.", "itap of a {}.", "a good photo of a {}.", "an image of a {}.", "an emoji of a {}."),
    *("a drawing of a {}.", "a {} icon", "a cartoon {}."),
)
NAME_SHARE = 0.5  # of an image's captions, how many use the class name and not another true word
CAPTIONS = 1024  # captions in a batch beyond those of its images: negatives that cost little


@dataclass(frozen=True)
class TrainingSet:
    """Images in memory and the words that are true of them.

    `rgba` is uint8 [N, 4, S, S]; `labels` [N] index the classes, `draw` [N] are the chances of an image to be drawn.
    `words` [classes, concepts] holds the chance of each word as the caption of a class, zero where it is not true;
    `tokens` is [concepts, templates, L].
    """

    rgba: Tensor
    labels: Tensor
    draw: Tensor
    words: Tensor
    tokens: Tensor

    def to(self, device: torch.device) -> TrainingSet:
        return TrainingSet(*(tensor.to(device) for tensor in vars(self).values()))


def read_captions(folder: Path, classes: Sequence[str]) -> list[list[str]]:
    """For each class its name and then the further words of captions.json, in lower case, each once."""
    file = folder / "captions.json"
    try:
        more = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        words = [[name, *more.get(name, more.get(name.replace(" ", "_"), []))] for name in classes]
        return [list(dict.fromkeys(word.lower() for word in group)) for group in words]
    except (ValueError, AttributeError, TypeError):
        raise DataError(f'{file} does not read as {{"class": ["word", ...]}}; correct it.') from None


def read_folders(folders: Sequence[Path], size: int) -> TrainingSet:
    """All images of all folders at `size` pixels; a set of n images is drawn from in proportion to sqrt(n)."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    draw: list[float] = []
    captions: list[list[str]] = []
    for folder in folders:
        dataset = load_dataset(f"folder:{folder}")
        for i in range(len(dataset)):
            picture = ImageOps.fit(dataset.picture(i).convert("RGBA"), (size, size), Image.Resampling.BICUBIC)
            images.append(np.asarray(picture).transpose(2, 0, 1))
        labels += (dataset.labels + len(captions)).tolist()
        draw += [len(dataset) ** -0.5] * len(dataset)
        captions += read_captions(folder, dataset.classes)
    concepts = sorted({word for words in captions for word in words})
    place = {word: i for i, word in enumerate(concepts)}
    words = torch.zeros(len(captions), len(concepts))
    for row, (name, *others) in zip(words, captions, strict=True):
        row[place[name]] = NAME_SHARE if others else 1.0
        row[[place[word] for word in others]] = (1 - NAME_SHARE) / max(len(others), 1)
    tokens = tokenize([fill_template(template, word) for word in concepts for template in TEMPLATES])
    longest = int(tokens.argmax(-1).max()) + 1
    tokens = tokens[:, :longest].view(len(concepts), len(TEMPLATES), longest)
    return TrainingSet(torch.from_numpy(np.stack(images)), torch.tensor(labels), torch.tensor(draw), words, tokens)


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """One random number an image, shaped to multiply [N, C, H, W]."""
    return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(low, high)


def on_random_background(rgba: Tensor) -> Tensor:
    """uint8 [N, 4, S, S] to RGB [N, 3, S, S] in 0 to 1; what is transparent turns white in 4 of 10, else a color."""
    x = rgba.float() / 255
    color = torch.rand(len(x), 3, 1, 1, device=x.device).where(uniform(x, 0, 1) > 0.4, 1.0)
    return torch.lerp(color, x[:, :3], x[:, 3:])


def crop_and_turn(x: Tensor) -> Tensor:
    """A random crop of 30 to 100 % of the area, mirrored half of the time, a little rotated at times."""
    area, ratio = uniform(x, 0.3, 1.0), uniform(x, math.log(3 / 4), math.log(4 / 3)).exp()
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    right, down = uniform(x, -1, 1) * (1 - wide), uniform(x, -1, 1) * (1 - high)
    mirror = uniform(x, -1, 1).sign()
    angle = uniform(x, -0.2, 0.2) * (uniform(x, 0, 1) < 0.4)
    above = [wide * angle.cos() * mirror, -high * angle.sin(), right]
    below = [wide * angle.sin() * mirror, high * angle.cos(), down]
    grid = F.affine_grid(torch.cat(above + below, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def jitter(x: Tensor) -> Tensor:
    """Random brightness, contrast and saturation; one image in twenty loses its colors."""
    x = x * uniform(x, 0.7, 1.3)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * uniform(x, 0.7, 1.3)
    saturation = uniform(x, 0.6, 1.4) * (uniform(x, 0, 1) > 0.05)
    gray = x.mean(1, keepdim=True)
    return (gray + (x - gray) * saturation).clamp(0, 1)


def erase(x: Tensor) -> Tensor:
    """A square of the mean color over a quarter of the images."""
    size = x.shape[-1]
    half = uniform(x, 0.1, 0.22) * size * (uniform(x, 0, 1) < 0.25)
    along = torch.arange(size, device=x.device)
    rows = (along[:, None] - uniform(x, 0, size)).abs() < half
    columns = (along - uniform(x, 0, size)).abs() < half
    return torch.where(rows & columns, x.mean((2, 3), keepdim=True), x)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, own: Tensor, true: Tensor) -> Tensor:
    """Label-aware InfoNCE of unit embeddings image [N, D] and text [K, D].

    `own` [N] is each image's caption; `true` [N, K] says which captions hold for which images. Other captions that
    hold leave an image's denominator: "animal" is no negative for a cat. In the other direction every image that a
    caption holds for is a positive.
    """
    logits = scale * image @ text.T
    others = true.scatter(1, own[:, None], False)
    to_text = F.cross_entropy(logits.masked_fill(others, float("-inf")), own)
    weight = true.T.float()
    described = weight.sum(1) > 0
    nll = -(logits.T.log_softmax(-1) * weight).sum(1)[described] / weight.sum(1)[described]
    return 0.7 * to_text + 0.3 * nll.mean()


def initialize(model: CLIP) -> None:
    """Random weights in OpenAI's proportions: residual branches begin small, those of the ResNet at zero."""
    nn.init.normal_(model.text.token_embedding.weight, std=0.02)
    for tower in (model.image, model.text):
        for block in tower.blocks:
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)
            elif isinstance(block, Block):
                width = block.attn.q.in_features
                small = (2 * len(tower.blocks) * width) ** -0.5
                for layer in (block.attn.q, block.attn.k, block.attn.v):
                    nn.init.normal_(layer.weight, std=width**-0.5)
                    nn.init.zeros_(layer.bias)
                nn.init.normal_(block.attn.out.weight, std=small)
                nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.mlp.fc2.weight, std=small)


@torch.no_grad()
def follow(average: CLIP, model: CLIP, step: int) -> None:
    """Move the average toward the model: over about the last 500 steps, over fewer at the start."""
    share = 1 - min(0.998, (step + 1) / (step + 10))
    for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, share)


def train(
    config: CLIPConfig, data: TrainingSet, done: Callable[[int], float], batch_size: int, peak: float, device: str
) -> tuple[CLIP, list[float]]:
    """The averaged model and the loss of every step.

    `done(step)` gives the part of the run that is over, 0 to 1: the learning rate follows it as a cosine with a
    warm-up of 5 %, so that a run bound by the clock ends on time on any machine.
    """
    model = CLIP(config).to(device)
    initialize(model)
    model.text.trim = False  # the tokens are cut already, and looking at them would wait for the GPU
    average = copy.deepcopy(model)
    gpu = device.startswith("cuda")
    encode_image = torch.compile(model.encode_image) if gpu else model.encode_image
    data = data.to(torch.device(device))
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (config.mean, config.std))
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embedding" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=gpu)
    losses: list[Tensor] = []
    while (part := done(len(losses))) < 1:
        rate = peak * max(min(part / 0.05, 1) * 0.5 * (1 + math.cos(math.pi * part)), 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.multinomial(data.draw, batch_size, replacement=True)
        labels = data.labels[chosen]
        concept = torch.multinomial(data.words[labels], 1)[:, 0]
        negatives = torch.randint(len(data.tokens), (CAPTIONS,), device=device)
        captions, place = torch.cat([concept, negatives]).unique(return_inverse=True)
        template = torch.randint(len(TEMPLATES), captions.shape, device=device)
        pixels = (erase(jitter(crop_and_turn(on_random_background(data.rgba[chosen])))) - mean) / std
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=gpu):
            image, text = encode_image(pixels), model.encode_text(data.tokens[captions, template])
        image, text = (F.normalize(side.float(), dim=-1) for side in (image, text))
        assert model.log_logit_scale is not None
        scale = model.log_logit_scale.exp().clamp(max=100)
        true = data.words[labels][:, captions] > 0
        loss = contrastive_loss(image, text, scale, place[:batch_size], true)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        follow(average, model, len(losses))
        losses.append(loss.detach())
        if len(losses) % 100 == 0:
            recent = torch.stack(losses[-100:]).mean()
            print(f"step {len(losses)}: loss {recent:.3f}, logit scale {scale:.1f}, {part:.0%}", file=sys.stderr)
    return average.cpu().eval(), torch.stack(losses).tolist()


def to_openai(model: CLIP) -> dict[str, Tensor]:
    """The weights in half precision under OpenAI's names: q, k and v joined, projections transposed."""
    out: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        place = openai_layout(model.config, name)
        value = tensor.half().T if place.transpose else tensor.half()
        # q, k and v follow each other in a state dict, as they do in OpenAI's joint projection.
        out[place.key] = torch.cat([out[place.key], value]) if place.key in out else value.contiguous()
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="demo-vit")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the training itself")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at its peak; 1.2e-3 suits the ResNets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    config = ARCHITECTURES[args.arch]
    try:
        data = read_folders(args.images, config.image.image_size)
    except D4CError as error:
        print(error, file=sys.stderr)
        return 1
    shape = f"{len(data.labels)} images, {len(data.words)} classes, {len(data.tokens)} words"
    print(f"{args.arch} on {shape}, {args.minutes:g} minutes on {args.device}", file=sys.stderr)
    start = time.monotonic()

    def done(step: int) -> float:
        return (time.monotonic() - start) / (60 * args.minutes) if step else 0.0

    model, losses = train(config, data, done, args.batch_size, args.learning_rate, args.device)
    with atomic_file(args.out) as file:
        save_file(to_openai(model), file, metadata={"format": "pt"})
    print(f"{args.out}: {len(losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

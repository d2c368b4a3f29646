"""What both processes of the comparison need: arguments, datasets, accuracy and a line of the output.

Nothing here imports d4c, since the authors' package has the same name.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DATA = ("tiny-imagenet-val", "cifar10-test")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="a clone of the authors' repository")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", type=Path, required=True, help="a calibration set")
    parser.add_argument("--schemes", type=lambda text: text.split(","), default=["W8A8", "W4A8", "W6A6", "W4A4"])
    parser.add_argument("--iterations", type=int, default=2000, help="of their reconstruction; 0: ranges only")
    parser.add_argument("--limit", type=int, help="images of each dataset; default all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def score(model: Any, tensors: dict[str, Tensor], device: str) -> dict[str, float]:
    """Top-1 % of a model on both datasets, with class embeddings from its own text tower."""
    top1 = {}
    for name in DATA:
        tokens = tensors[f"{name}.tokens"]
        embedded = [model.encode_text(part.to(device)).float() for part in tokens.flatten(0, 1).split(256)]
        texts = F.normalize(torch.cat(embedded), dim=-1).view(*tokens.shape[:2], -1)
        classes = F.normalize(texts.mean(1), dim=-1)
        parts = tensors[f"{name}.pixels"].split(500)
        right = [
            (F.normalize(model.encode_image(part.to(device)).float(), dim=-1) @ classes.T).argmax(1).cpu()
            for part in parts
        ]
        accuracy = (torch.cat(right) == tensors[f"{name}.labels"]).double().mean()
        top1[name] = round(100 * float(accuracy), 2)
    return top1


def write_row(
    args: argparse.Namespace, code: str, scheme: str, seconds: float, published: float, top1: dict[str, float]
) -> None:
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    row = {"model": args.model.stem, "code": code, "scheme": scheme, "iterations": args.iterations, "top1": top1}
    row |= {"seconds": round(seconds, 1), "seconds_published": round(published, 1), "set": args.set.name}
    row |= {"limit": args.limit, "device": device, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    row |= {"commit": args.commit}
    with args.out.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    print({key: row[key] for key in ("model", "code", "scheme", "seconds", "top1")}, flush=True)

"""Stand-ins for what the recipe of the published table reads, to try it where OpenAI's weights and the data are not.

    python -m benchmarks.experiments.stand_ins --data DATA --out DIR
    d4c compare --recipe paper-table --weights DIR/weights --cifar10 DIR/cifar10 --cifar100 DIR/cifar100 \\
      --imagenet parquet:DATA/tiny-imagenet-val.parquet ... -o DIR/table

Weights are random, in the shapes of the three architectures. CIFAR-10's test images and those of the first 100 classes
of Tiny ImageNet, at 32 pixels, are laid out as the binary versions of CIFAR-10 and CIFAR-100. Accuracies say nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import d4c
from benchmarks.common.arguments import argument_parser
from benchmarks.common.models import make_clip
from d4c.comparison.paper_table import MODELS
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.readers.cifar import LAYOUTS
from d4c.models.clip import CLIP

SIDE = 32


def write_cifar(dataset: Dataset, classes: int, count: int, folder: Path) -> None:
    """Write `count` images of the first classes of a dataset as the binary version of a CIFAR.

    They lie at even distances, since sets are often sorted by class.
    """
    layout = LAYOUTS[classes]
    of_classes = np.flatnonzero(dataset.labels < classes)
    count = min(count, len(of_classes))
    rows = []
    for i in of_classes[np.arange(count) * len(of_classes) // count]:
        small = dataset.image(i).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        header = np.full(layout.header, dataset.labels[i], np.uint8)
        rows.append(np.concatenate([header, np.asarray(small).transpose(2, 0, 1).ravel()]))
    (folder / layout.binary).mkdir(parents=True, exist_ok=True)
    np.stack(rows).tofile(folder / layout.binary / layout.binary_test)
    names = "\n".join(name.replace(" ", "_") for name in dataset.classes[:classes])
    (folder / layout.binary / layout.binary_names).write_text(names + "\n")


@torch.no_grad()
def set_statistics(clip: CLIP) -> None:
    """Give every BatchNorm the statistics of pink noise, without which random weights make all images alike."""
    norms = [module for module in clip.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    pixels = d4c.synthesize(clip, "pink", images=16, seed=0, progress=None).pixels
    for norm in norms:
        norm.train().momentum = 1.0
    clip.encode_image(pixels)
    for norm in norms:
        norm.eval()


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="cifar10-test and tiny-imagenet-val as .parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500, help="images of each set")
    args = parser.parse_args()
    for name in MODELS:
        clip = make_clip(name, "cpu", seed=0)
        set_statistics(clip)
        clip.save_pretrained(args.out / "weights" / name)
    for classes, file in ((10, "cifar10-test"), (100, "tiny-imagenet-val")):
        dataset = load_dataset(f"parquet:{args.data / file}.parquet")
        write_cifar(dataset, classes, args.count, args.out / f"cifar{classes}")


if __name__ == "__main__":
    main()

"""`evaluate_outputs`: what users of one tower read, beside the same of the float tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import SettingError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import AnyDataset, CaptionedDataset
from d4c.evaluation.embed import Encoder, to_device
from d4c.evaluation.evaluate import TOWERS, refuse_other_model
from d4c.evaluation.load_dataset import load_pictures
from d4c.evaluation.metrics.intervals import Interval, bootstrap, mean_of
from d4c.picture_files import none_readable, skipped_summary
from d4c.progress import Report, reporting
from d4c.templates import fill_template

PROMPTS = 1024
"""Prompts that are compared at most, evenly spread over all."""


@dataclass(frozen=True)
class OutputFidelity:
    """How close the outputs of a tower are to those of the float tower, on the same inputs.

    Args:
        dataset: Name of the dataset.
        tower: "image" or "text".
        count: Number of pictures or prompts, without those that were skipped.
        cosine: Mean over inputs of the cosine between both, by name of the output (see `Tower.outputs`); of an output
            of many rows, such as patches or positions, the mean over rows.
        centered_cosine: The same after the float tower's mean over rows is subtracted from both, which all rows share;
            of embeddings, its mean over all inputs.
        skipped: Why a picture does not decode and was left out, one sentence each.
    """

    dataset: str
    tower: str
    count: int
    cosine: dict[str, Interval]
    centered_cosine: dict[str, Interval]
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "images" if self.tower == "image" else "prompts"
        figures = ", ".join(
            f"{name} {cosine.value:.4f} (centered {self.centered_cosine[name].value:.4f})"
            for name, cosine in self.cosine.items()
        )
        return "\n".join([f"{self.dataset}, {self.count} {what}: cosine of {figures}", *skipped_summary(self.skipped)])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form."""
        return {**asdict(self), "skipped": list(self.skipped)}


@torch.no_grad()
def evaluate_outputs(
    model: Encoder,
    reference: Encoder,
    dataset: str | AnyDataset = "demo",
    *,
    tower: str | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    progress: Report = "auto",
) -> OutputFidelity:
    """Compare what users of one tower read with the float tower: embeddings, and the states around the last block.

    No labels and no other tower are needed.

    Args:
        model: A quantized model, or an export in a runtime, of which only embeddings are compared.
        reference: The float model that it was made from.
        dataset: A spec of `load_pictures`, or a dataset; a text tower reads its prompts or captions, 1024 at most.
        tower: "image" or "text"; needed for a model that has both.
        batch_size: Inputs that run through the tower at once.
        limit: Use that many images, or prompts, evenly spread.
        progress: Called with the inputs done and their number; "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        Cosines by output, with 95 % intervals over the inputs.

    Raises:
        SettingError: The tower is not said or not there, or the reference is another model than the one that was
            quantized.
        DataError: The data cannot be used.
    """
    tower = _tower_of(model, reference, tower)
    refuse_other_model(model, reference)
    data = load_pictures(dataset)
    skipped: dict[int, str] = {}
    if tower == "image":
        chosen = data if limit is None else data.subset(limit)
        count, batches = len(chosen), pixel_batches(chosen, reference.preprocess, batch_size, skipped)
    else:
        prompts = _prompts(data, PROMPTS if limit is None else limit)
        count, batches = len(prompts), _token_batches(reference, prompts, batch_size)
    plain: dict[str, list[Tensor]] = {}
    centered: dict[str, list[Tensor]] = {}
    embeddings: list[tuple[Tensor, Tensor]] = []
    done = 0
    with reporting(progress, f"compare the {tower} tower on {data.name}") as report:
        for inputs in batches:
            actual, expected = (_outputs(each, tower, inputs) for each in (model, reference))
            embeddings.append((actual["embedding"], expected["embedding"]))
            for name in actual.keys() & expected.keys():
                ours, theirs = actual[name], expected[name]
                plain.setdefault(name, []).append(_row_cosines(ours, theirs))
                if name != "embedding":
                    mean = theirs.mean(1, keepdim=True)
                    centered.setdefault(name, []).append(_row_cosines(ours - mean, theirs - mean))
            done += len(inputs)
            report(done + len(skipped), count)
    if not embeddings:
        raise none_readable(data.name, skipped)
    ours, theirs = (torch.cat(each) for each in zip(*embeddings, strict=True))
    centered["embedding"] = [F.cosine_similarity(ours - theirs.mean(0), theirs - theirs.mean(0), dim=-1)]
    names = [name for name in ("embedding", "penultimate", "last") if name in plain]
    return OutputFidelity(
        data.name, tower, done, _intervals(plain, names), _intervals(centered, names), tuple(skipped.values())
    )


def _tower_of(model: Encoder, reference: Encoder, tower: str | None) -> str:
    """The tower to compare, which both models must have."""
    shared = [name for name in TOWERS if all(name in getattr(each, "towers", TOWERS) for each in (model, reference))]
    if tower is None and len(shared) == 1:
        return shared[0]
    if tower not in shared:
        raise SettingError(
            f"The tower is {tower!r}, expected one that both models have ({' or '.join(shared) or 'there is none'}); "
            "choose it with tower."
        )
    return str(tower)


def _prompts(data: AnyDataset, limit: int) -> list[str]:
    """The captions of a dataset, or its class names in its templates, evenly spread."""
    if isinstance(data, CaptionedDataset):
        prompts = [caption for of_image in data.captions for caption in of_image]
    else:
        prompts = [fill_template(template, name) for name in data.classes for template in data.templates]
    if limit < 1:
        raise SettingError(f"The limit is {limit} prompts, expected at least 1; leave it out to use all.")
    return [prompts[k * len(prompts) // limit] for k in range(limit)] if limit < len(prompts) else prompts


def _token_batches(model: Encoder, prompts: list[str], batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(prompts), batch_size):
        yield torch.as_tensor(model.tokenize(prompts[start : start + batch_size]))


def _outputs(model: Encoder, tower: str, inputs: Tensor) -> dict[str, Tensor]:
    """Outputs on the CPU by name."""
    inputs = to_device(model, inputs)
    give = getattr(model, "outputs", None)
    encode = model.encode_image if tower == "image" else model.encode_text
    outputs = {"embedding": torch.as_tensor(encode(inputs))} if give is None else give(tower, inputs)
    return {name: output.float().cpu() for name, output in outputs.items()}


def _row_cosines(ours: Tensor, theirs: Tensor) -> Tensor:
    """Cosines [N] between rows [N, C] or, as means over L, [N, L, C]."""
    cosines = F.cosine_similarity(ours, theirs, dim=-1)
    return cosines if cosines.ndim == 1 else cosines.mean(1)


def _intervals(parts: dict[str, list[Tensor]], names: Sequence[str]) -> dict[str, Interval]:
    values = {name: torch.cat(parts[name]).double().numpy() for name in names}
    return bootstrap({name: mean_of(np.asarray(each)) for name, each in values.items()}, len(values[names[0]]))

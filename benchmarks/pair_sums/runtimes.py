"""What exports compute on this processor: with pairs that fit and in full range, beside PyTorch.

    python -m benchmarks.pair_sums.runtimes --out FILE.jsonl

Run it where there is no VNNI; there ONNX Runtime has narrow sums too, as in any program but d4c. Ranges only, on dead
leaves; one seed. The table is written beside the rows.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

import d4c
from benchmarks.common.arguments import argument_parser, words
from benchmarks.common.records import command, instructions, setup
from benchmarks.common.rows import Row, append_row, is_measured, read_rows, write_text
from benchmarks.common.tables import conditions, table
from d4c.runtime.processor import VARIABLE
from d4c.runtime.runtime_clip import RuntimeCLIP

RANGES = {"pairs": "pairs that fit", "full": "full range"}
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def measure(cell: Row, folder: Path) -> Row:
    """Top-1 on the emoji pack in PyTorch and in each runtime, and the lowest cosine of an image to PyTorch."""
    clip = d4c.load(cell["model"])
    images = d4c.synthesize(clip, "leaves", "default", images=32, seed=0)
    full = cell["range"] == "full"
    quantized = d4c.quantize(clip, images, cell["scheme"], reconstruction="none", full_range=full)
    quantized.save_pretrained(folder / "artifact")
    exported = d4c.export(folder / "artifact", check=False).folder
    pixels = d4c.synthesize(clip, "leaves", "default", images=32, seed=1).pixels
    with torch.no_grad():
        reference = quantized.encode_image(pixels)
    results: dict[str, Any] = {"float": {"top1": top1(clip)}, "pytorch": {"top1": top1(quantized)}}
    for runtime in RUNTIMES:
        model = RuntimeCLIP(exported, runtime)
        embeddings = torch.from_numpy(np.asarray(model.encode_image(pixels.numpy())))
        cosine = float(cosine_similarity(embeddings, reference, dim=-1).min())
        results[runtime] = {"top1": top1(model), "lowest_cosine": cosine}
    return {
        **cell,
        "results": results,
        "instructions": instructions(),
        "setup": setup("cpu", "onnxruntime", "openvino") | {"command": command("pair_sums.runtimes")},
    }


def top1(model: Any) -> float:
    return d4c.evaluate(model, "demo").top1.value


def page(rows: list[Row]) -> str:
    """Top-1, and the lowest cosine to PyTorch in parentheses."""
    body = []
    for row in rows:
        results = row["results"]
        texts = [f"{results[name]['top1']:.2f}" for name in ("float", "pytorch")]
        texts += [f"{results[r]['top1']:.2f} ({results[r]['lowest_cosine']:.4f})" for r in RUNTIMES]
        body.append([row["model"], row["scheme"], RANGES[row["range"]], *texts])
    first = rows[0]
    return "\n".join(
        [
            "# Exports on a processor without VNNI",
            "",
            "Top-1 in percent on the emoji pack (496 pictures), in parentheses the lowest cosine of an image embedding "
            "to PyTorch. Ranges only, 32 dead leaves, seed 0. Both runtimes add in pairs of 16 bits, ONNX Runtime as "
            "in a session that d4c did not open. "
            f"{conditions(first['setup'])}; instructions {', '.join(first['instructions'])}; commit "
            f"{first['setup']['commit']}, `{first['setup']['command']}`.",
            "",
            *table(["model", "scheme", "8-bit weights", "float", "PyTorch", *RUNTIMES.values()], body, texts=3),
        ]
    )


def main() -> None:
    parser: argparse.ArgumentParser = argument_parser(__doc__)
    parser.add_argument("--only", type=words, default=["demo-vit", "demo-rn"], help="models")
    parser.add_argument("--schemes", type=words, default=["W8A8", "W4A8"])
    default = Path(__file__).parent / "results" / "runtimes.jsonl"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[VARIABLE] = "0"  # run full-range files all the same
    for model, scheme, chosen in itertools.product(args.only, args.schemes, RANGES):
        cell = {"model": model, "scheme": scheme, "range": chosen}
        if not is_measured(cell, read_rows(args.out)):
            with tempfile.TemporaryDirectory() as folder:
                append_row(args.out, measure(cell, Path(folder)))
    write_text(args.out.with_suffix(".md"), page(read_rows(args.out)))


if __name__ == "__main__":
    main()

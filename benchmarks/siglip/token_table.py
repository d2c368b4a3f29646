"""What a token table of 4 bits costs beside one of 8: cosines of prompts, and points of zero-shot accuracy.

    python -m benchmarks.siglip.token_table --models DIR --data DIR

The text tower alone is quantized, with GPTQ. It embeds a prompt of each class of both test sets, and the classes by all
templates of each set, with the table of 8 bits and with the one that `d4c export --narrow-table` writes. Pictures are
embedded by the float image tower, once. Runs on a CPU; the result is JSON.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

import d4c
from benchmarks.common.arguments import add_cache_and_rows, add_models_and_data, argument_parser, words
from benchmarks.common.problems import PHOTOS, Places, Problem
from benchmarks.common.records import command, setup
from benchmarks.common.rows import Row, write_report
from benchmarks.common.tables import SCHEMES
from benchmarks.siglip.measure import MODELS
from d4c.deployment.onnx.graph import NarrowTable
from d4c.deployment.onnx.token_table import in_torch, narrow_table
from d4c.evaluation.embed import text_embeddings
from d4c.evaluation.score import paired_difference
from d4c.models.clip import CLIP


@torch.no_grad()
def costs(clip: CLIP, scheme: str, problems: list[Problem]) -> Row:
    """Cosine of each prompt's embedding to the one with the table of 8 bits, and points of top-1 on each set."""
    images = d4c.synthesize(clip, "noise", images=1)  # asked for, and not read
    quantized = d4c.quantize(clip, images, scheme, reconstruction="gptq", towers=("text",))
    prompts = [f"a photo of a {name}" for problem in problems for name in problem.dataset.classes]
    tokens, table = clip.tokenize(prompts), narrow_table(quantized)
    whole = quantized.encode_text(tokens)
    with in_torch(quantized, table):
        narrow = quantized.encode_text(tokens)
    close = F.cosine_similarity(narrow, whole)
    reference = clip.encode_text(tokens)
    return {
        "prompts": len(prompts),
        "mean": close.mean().item(),
        "lowest": close.min().item(),
        "to_float": {
            "8 bits": F.cosine_similarity(whole, reference).mean().item(),
            "4 bits": F.cosine_similarity(narrow, reference).mean().item(),
        },
        "points": {problem.dataset.name: points(problem, quantized, table) for problem in problems},
    }


def points(problem: Problem, quantized: CLIP, table: NarrowTable) -> Row:
    """Top-1 with the table of 4 bits less that with 8, on the pictures that the float tower embedded."""
    dataset, batch = problem.dataset, problem.places.batch
    whole = replace(problem.reference, text=text_embeddings(quantized, dataset, batch))
    with in_torch(quantized, table):
        narrow = replace(problem.reference, text=text_embeddings(quantized, dataset, batch))
    difference = paired_difference(narrow, whole, dataset)
    return {"value": difference.value, "low": difference.low, "high": difference.high}


def main() -> None:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    add_cache_and_rows(parser)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--only", type=words, default=MODELS, help="models")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "token_table.json")
    args = parser.parse_args()
    rows = []
    for model in args.only:
        places = Places(args.models, args.data, args.cache, args.rows, "cpu", args.batch)
        clip = places.clip(model)
        problems = [places.problem(clip, data) for data in PHOTOS]
        for scheme in SCHEMES:
            rows.append({"model": model, "scheme": scheme, **costs(clip, scheme, problems)})
            print(rows[-1], flush=True)
    about = setup("cpu") | {"command": command("siglip.token_table")}
    write_report(args.out, {"setup": about, "rows": rows})


if __name__ == "__main__":
    main()

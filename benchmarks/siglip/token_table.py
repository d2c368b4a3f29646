"""How close a token table of 4 bits keeps the embeddings of prompts to those with 8 bits.

    python -m benchmarks.siglip.token_table --models DIR --data DIR

The text tower alone is quantized, with GPTQ, and embeds a prompt of each class of both test sets with the table of 8
bits and with the one that `d4c export --narrow-table` writes. Runs on a CPU; the result is JSON.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

import d4c
from benchmarks.common.arguments import add_models_and_data, argument_parser, words
from benchmarks.common.problems import PHOTOS, checkpoint
from benchmarks.common.records import command, setup
from benchmarks.common.rows import Row, write_report
from benchmarks.common.tables import SCHEMES
from benchmarks.siglip.measure import MODELS
from d4c.deployment.onnx.token_table import in_torch
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP


@torch.no_grad()
def cosines(clip: CLIP, scheme: str, prompts: list[str]) -> Row:
    """Cosine of each prompt's embedding to the one with the table of 8 bits: mean, lowest, and those of float."""
    images = d4c.synthesize(clip, "noise", images=1)  # asked for, and not read
    quantized = d4c.quantize(clip, images, scheme, reconstruction="gptq", towers=("text",))
    tokens = clip.tokenize(prompts)
    whole = quantized.encode_text(tokens)
    with in_torch(quantized):
        narrow = quantized.encode_text(tokens)
    close = F.cosine_similarity(narrow, whole)
    reference = clip.encode_text(tokens)
    return {
        "mean": close.mean().item(),
        "lowest": close.min().item(),
        "to_float": {
            "8 bits": F.cosine_similarity(whole, reference).mean().item(),
            "4 bits": F.cosine_similarity(narrow, reference).mean().item(),
        },
    }


def main() -> None:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    parser.add_argument("--only", type=words, default=MODELS, help="models")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "token_table.json")
    args = parser.parse_args()
    names = [name for data in PHOTOS for name in load_dataset(f"parquet:{args.data / data}.parquet").classes]
    prompts = [f"a photo of a {name}" for name in names]
    rows = []
    for model in args.only:
        clip = d4c.load(checkpoint(args.models, model))
        for scheme in SCHEMES:
            rows.append({"model": model, "scheme": scheme, **cosines(clip, scheme, prompts)})
            print(rows[-1], flush=True)
    about = setup("cpu") | {"command": command("siglip.token_table")}
    write_report(args.out, {"setup": about, "prompts": len(prompts), "rows": rows})


if __name__ == "__main__":
    main()

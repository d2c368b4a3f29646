"""What numbers may be, in every record that holds them: each bound is far beyond all CLIPs in use."""

from __future__ import annotations

from d4c.reading.schema import Kind, List, Maybe, Number, Whole

WIDTH = Whole(1, 1 << 17)
DEPTH = Whole(1, 256)
IMAGE_SIZE = Whole(1, 4096)
HEADS = Whole(1, 4096)
CONTEXT_LENGTH = Whole(3, 8192)
"""A prompt has at least one token between those of its begin and its end."""
VOCAB_SIZE = Whole(1, 1 << 20)
TOKEN_ID = Maybe(Whole(0, VOCAB_SIZE.high - 1))
PIXEL_MEAN = List(Number(-1000, 1000), 3, 3)
PIXEL_STD = List(Number(1e-4, 1000), 3, 3)
LOGIT_SCALE = Number(1e-3, 1e4)
LOGIT_BIAS = Maybe(Number(-1e4, 1e4))

RANGES: dict[str, Kind] = {
    "int": WIDTH,
    "image_size": IMAGE_SIZE,
    "patch_size": IMAGE_SIZE,
    "heads": HEADS,
    "layers": DEPTH,
    "context_length": CONTEXT_LENGTH,
    "vocab_size": VOCAB_SIZE,
    "eos_id": TOKEN_ID,
    "pad_id": Whole(0, VOCAB_SIZE.high - 1),
    "norm_eps": Number(1e-12, 1e-2),
}
"""Those of the architecture of a CLIP, by field, and "int" for the others."""

SEED = Whole(0, 2**63 - 1)
COUNT = Whole(1, 1_000_000)
"""Images, iterations, samples of a step: a million of any takes weeks."""

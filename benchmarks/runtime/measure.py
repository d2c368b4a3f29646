"""Speed, size and fidelity of d4c's towers beside float32 and the int8 tools that people use instead, on a CPU.

    python -m benchmarks.runtime.measure --part fidelity --models DIR --data FILE.parquet
    python -m benchmarks.runtime.measure --part speed --batch 1,32 --rounds 9,3

Speed: towers in full size with random weights and the ranges of all values (time depends on shapes alone), all
candidates in one process, on two threads unless `--threads` says otherwise. In every round each candidate runs once, in
alternating order; a candidate's figure is the median over rounds of its time divided by that of float32 in the same
round. The float text tower of a CLIP computes all 77 positions; the others get a prompt of 10 tokens without the
positions after it, as `d4c.load_quantized` does. All of a SigLIP's 64 positions count.
Memory: what a process holds with one of these graphs beyond the runtime itself, as `d4c.load_quantized` opens it.
Fidelity: bench-vit and bench-rn on 2,000 images, one tower replaced and the other one float; every tool is calibrated
on the same 128 dead-leaves images, or 512 prompts. d4c's rows choose ranges only, unless they say otherwise.
`candidates.py` builds the candidates; the peers need `pip install nncf torchao`, and torch.compile a C++
compiler. A candidate that cannot be built is listed with the reason. Results are merged into `--out`, and the tables
written beside it, so that cells can be measured one by one.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.common.arguments import argument_parser, integers, require_names, words
from benchmarks.common.rows import Row, read_report, write_report
from benchmarks.runtime.building import TOWERS
from benchmarks.runtime.candidates import CANDIDATES
from benchmarks.runtime.fidelity import measure_fidelity
from benchmarks.runtime.memory import measure_memory
from benchmarks.runtime.speed import USUAL_THREADS, measure_speed
from benchmarks.runtime.table import FLOAT, page


def kept_folder(graphs: Path, tower: str) -> Path:
    """Where the graphs of a tower stay, made if it does not exist."""
    folder = graphs / tower.replace("/", "-").replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--part", choices=("speed", "memory", "fidelity"), required=True)
    parser.add_argument("--towers", type=words, default=list(TOWERS), help=", ".join(TOWERS))
    runtimes = list(dict.fromkeys(runtime for runtime, _ in CANDIDATES))
    parser.add_argument("--runtimes", type=words, default=runtimes, help=f"of speed and memory: {', '.join(runtimes)}")
    parser.add_argument("--candidates", type=words, help="of speed and memory, beside float32; by default all")
    parser.add_argument("--threads", type=int, default=USUAL_THREADS, help="of the parts speed and memory")
    parser.add_argument("--batch", type=integers, default=[1, 32], help="sizes, such as 1,32")
    parser.add_argument("--rounds", type=integers, default=[9, 3], help="one number for each batch size")
    parser.add_argument("--models", type=Path, help="folder of bench-vit.safetensors and bench-rn.safetensors")
    parser.add_argument("--data", type=Path, help="Tiny ImageNet's validation images as Parquet")
    parser.add_argument("--graphs", type=Path, help="folder that keeps graphs, and whose graphs are not made again")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "runtime.json")
    args = parser.parse_args()
    require_names(parser, "tower", args.towers, TOWERS)
    if len(args.rounds) != len(args.batch):
        parser.error(f"{len(args.batch)} batch sizes have {len(args.rounds)} numbers of rounds; give one for each.")
    if args.part == "fidelity" and not (args.models and args.data):
        parser.error("The part fidelity needs --models and --data.")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1 if args.part == "fidelity" else args.threads)
    chosen = {
        key: builder
        for key, builder in CANDIDATES.items()
        if key[0] in args.runtimes and (args.candidates is None or key[1] in (FLOAT, *args.candidates))
    }
    measure: Callable[..., Row] = {
        "speed": partial(measure_speed, batches=args.batch, rounds=args.rounds, threads=args.threads, chosen=chosen),
        "memory": partial(measure_memory, threads=args.threads, chosen=list(chosen)),
        "fidelity": partial(measure_fidelity, models=args.models, data_file=args.data),
    }[args.part]
    for name in args.towers:
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            # Speed and memory are of the same graphs.
            kind = "fidelity" if args.part == "fidelity" else "speed"
            folder = kept_folder(args.graphs / kind, name) if args.graphs else Path(temporary)
            cells = measure(name, folder=folder)
        write_report(args.out, read_report(args.out, {}) | cells, page)


if __name__ == "__main__":
    main()

"""Attack one reader with inputs that are kept if they reach new code, by Atheris and libFuzzer.

python -m benchmarks.fuzz.coverage --target JSON --seconds 60     # as make fuzz-coverage does for several targets

Half of the inputs are changed as `benchmarks.fuzz.measure` changes them, the others as libFuzzer does. A finding ends
the process with status 77 and leaves its input in a file `crash-...`.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["d4c"]):
    from benchmarks.common.arguments import argument_parser
    from benchmarks.fuzz.measure import SECONDS, judge, stop_hangs
    from benchmarks.fuzz.targets.every_target import targets


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--target", required=True, help="name of a target, as benchmarks.fuzz.measure prints it")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        known = {target.name: target for target in targets(folder)}
        if arguments.target not in known:
            parser.error(f"{arguments.target!r} is not one of {', '.join(known)}")
        target = known[arguments.target]
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)

        def change(data: bytes, most: int, seed: int) -> bytes:
            rng = random.Random(seed)
            if rng.random() < 0.5:
                return bytes(atheris.Mutate(data, most))
            return rng.choice(target.mutators)(rng.choice(target.seeds), rng)[:most]

        def read(data: bytes) -> None:
            if finding := judge(target, data):
                raise RuntimeError(finding)

        stop_hangs()
        largest = max(map(len, target.seeds)) + 4096
        options: list[Any] = [f"-max_total_time={arguments.seconds}", f"-max_len={largest}", f"-timeout={4 * SECONDS}"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], read, custom_mutator=change)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

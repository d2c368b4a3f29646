"""Attack every reader with changed files, and count what ends in anything but d4c's own error.

python -m benchmarks.fuzz.measure --inputs 100000 -o out/fuzz.json
python -m benchmarks.fuzz.measure --seconds 60        # as make fuzz does; ends with status 1 if something was found

One process. An input may take 5 seconds and 1 GiB more than the process had when it began.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.arguments import argument_parser, words
from benchmarks.common.records import setup
from benchmarks.fuzz.targets.every_target import targets
from benchmarks.fuzz.targets.target import Target
from d4c.errors import D4CError
from d4c.storage.files import write_json

SECONDS, BYTES = 5, 1 << 30


class Hang(BaseException):
    """An input took too long."""


@dataclass
class Count:
    """What became of the inputs of one target."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)


def attack(target: Target, seed: int) -> str | None:
    """Read one changed input; return None if it was read, "" if it was refused, or what was found."""
    rng = random.Random(f"{target.name} {seed}")
    outcome = judge(target, rng.choice(target.mutators)(rng.choice(target.seeds), rng))
    return f"{outcome} (seed {seed})" if outcome else outcome


def judge(target: Target, data: bytes) -> str | None:
    """Read an input; return None if it was read, "" if it was refused, or what was found."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        target.read(data)
    except D4CError as error:
        sentence = str(error)
        return (
            "" if "\n" not in sentence and sentence.isprintable() else f"a message that is no line: {sentence[:200]!r}"
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # panics of extensions are no Exceptions
        frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
        return f"{type(error).__name__}: {str(error)[:120]!r} in {' '.join(frames)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def stop_hangs() -> None:
    """Let the alarm that `judge` sets end an input."""

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)


def limit_memory() -> None:
    """Make allocations fail beyond what the process has now and the allowance."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run(chosen: list[Target], inputs: int | None, seconds: float | None, first: int) -> dict[str, Count]:
    """Attack all targets in turn, until there were so many inputs or the time is over."""
    counts = {target.name: Count() for target in chosen}
    total = sum(target.share for target in chosen)
    started = time.perf_counter()
    for target in chosen:
        count = counts[target.name]
        goal = None if inputs is None else round(inputs * target.share / total)
        deadline = None if seconds is None else time.perf_counter() + seconds / len(chosen)
        began = time.perf_counter()
        while (goal is None or count.inputs < goal) and (deadline is None or time.perf_counter() < deadline):
            outcome = attack(target, first + count.inputs)
            count.inputs += 1
            count.refused += outcome == ""
            if outcome:
                count.findings[outcome] += 1
                print(f"{target.name}: {outcome}", flush=True)
        count.seconds = time.perf_counter() - began
        passed = time.perf_counter() - started
        print(f"{passed:7.0f} s  {target.name}: {count.inputs} inputs, {count.refused} refused", flush=True)
    return counts


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--inputs", type=int, help="number of inputs, of all targets together")
    parser.add_argument("--seconds", type=float, help="time, for all targets together")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, which makes it the same again")
    parser.add_argument("--targets", type=words, help="names of targets, by default all")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stop_hangs()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        known = targets(Path(folder))
        chosen = [target for target in known if not arguments.targets or target.name in arguments.targets]
        limit_memory()
        counts = run(chosen, arguments.inputs, arguments.seconds, arguments.first)
    found = sum(sum(count.findings.values()) for count in counts.values())
    print(f"{sum(count.inputs for count in counts.values())} inputs, {found} findings")
    if arguments.output:
        rows = [
            {
                "target": name,
                "inputs": count.inputs,
                "refused": count.refused,
                "seconds": round(count.seconds, 1),
                "findings": dict(count.findings),
            }
            for name, count in counts.items()
        ]
        write_json(arguments.output, {"setup": setup("cpu"), "first": arguments.first, "rows": rows})
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

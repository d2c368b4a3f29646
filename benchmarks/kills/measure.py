"""Kill whole jobs at random moments, start them again, and compare what they end with to an uninterrupted job.

python -m benchmarks.kills.measure --kills 1000 -o out/kills.json
python -m benchmarks.kills.measure --kills 50          # ends with status 1 if anything was lost

A job runs in a process of its own that SIGKILL ends at a moment drawn evenly from the time that the job takes. It is
then started again in the same folder, where it may be killed again, until it comes to its end. What it leaves is
compared byte by byte, but for the records of times, with what a job leaves that nobody killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.common.arguments import argument_parser, words
from benchmarks.common.records import command, setup
from d4c.deployment.export import export
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.quantization.config import quantize_config
from d4c.run.config import RunConfig
from d4c.run.job import run
from d4c.runtime.gallery import open_gallery
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.storage.files import sha256, write_json
from d4c.synthesis.config import synthesis_config

MANIFEST = "manifest.json"
"""Holds hashes of files with times; that it fits them is checked when a job is started again."""
TIMED = ("seconds", "checksum")
"""What other JSON says about times, and the hash over it."""
JOBS = ("run", "export", "search")
MOST = 6
"""How often a job is killed before it may come to its end."""


@dataclass(frozen=True)
class Job:
    """Something that a user runs again after it was killed: its name, and what it does in a folder."""

    name: str
    work: Callable[[Path], object]


@dataclass
class Count:
    """What became of the kills of one job."""

    job: str
    seconds: float
    kills: int = 0
    ends: int = 0
    findings: list[str] = field(default_factory=list)


def small_clip() -> CLIP:
    """A CLIP of one narrow block a tower, so that jobs take a second and most of it is not arithmetic."""
    torch.manual_seed(0)
    image = ViTConfig(image_size=32, width=32, layers=1, heads=2, mlp_width=64, patch_size=8)
    return CLIP(CLIPConfig(16, image, TextConfig(width=32, layers=1, heads=2, mlp_width=64)), "small").eval()


def make_inputs(folder: Path) -> None:
    """Write a small model and twelve pictures of three classes."""
    small_clip().save_pretrained(folder / "model")
    rng = random.Random(0)
    for index in range(12):
        place = folder / "pictures" / f"class {index % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (32, 32), rng.randbytes(3 * 32 * 32)).save(place / f"{index}.png")


def make_artifact(inputs: Path) -> None:
    """Write the artifact that is exported, and its export, which searches."""
    run_job(inputs, inputs / "run")
    export(inputs / "run" / "artifact", inputs / "export", progress=None)


def run_job(inputs: Path, folder: Path) -> None:
    config = RunConfig(
        str(inputs / "model"),
        device="cpu",
        dataset=f"folder:{inputs / 'pictures'}",
        synthesis=synthesis_config("d4c", "quick", {"images": 4, "iterations": 8}),
        quantization=quantize_config(settings={"reconstruction": "block", "iterations": 10}),
    )
    run(config, folder, lambda title: nullcontext(lambda done, total: None))


def jobs(inputs: Path) -> list[Job]:
    """A run with reconstruction, an export, and the embeddings of a search."""
    return [
        Job("run", partial(run_job, inputs)),
        Job("export", partial(export, inputs / "run" / "artifact", progress=None)),
        Job("search", partial(search, inputs)),
    ]


def search(inputs: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    open_gallery(RuntimeCLIP(inputs / "export"), inputs / "pictures", folder / "embeddings.npz")


def started(work: Callable[[], object], log: Path) -> int:
    """Start work in a process of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        log.write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def finished(work: Callable[[], object], log: Path, after: float | None = None) -> bool:
    """Do work in a process that is killed after some seconds; whether it ended before.

    Raises:
        RuntimeError: The work failed by itself.
    """
    child = started(work, log)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(log.read_text().strip().splitlines()[-1] if log.exists() else f"exit code {code}")
    return code == 0


def content(folder: Path) -> dict[str, str]:
    """What the files of a result hold, by name, without times."""
    return {str(path.relative_to(folder)): told(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def told(file: Path) -> str:
    """A hash of a file; of JSON, the text without times."""
    if file.name == MANIFEST:
        return ""
    return json.dumps(timeless(json.loads(file.read_text()))) if file.suffix == ".json" else sha256(file)


def timeless(data: Any) -> Any:
    """JSON without the entries that hold times."""
    if isinstance(data, dict):
        return {name: timeless(value) for name, value in data.items() if name not in TIMED}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def attack(job: Job, kills: int, seed: int, scratch: Path) -> Count:
    """Kill a job so many times, in as many folders as it takes."""
    rng, log = random.Random(f"{job.name} {seed}"), scratch / "log"
    reference = scratch / "reference"
    finished(partial(job.work, reference), log)
    shutil.rmtree(reference)
    began = time.perf_counter()
    finished(partial(job.work, reference), log)
    seconds = time.perf_counter() - began
    expected, count = content(reference), Count(job.name, round(seconds, 2))
    while count.kills < kills:
        folder = scratch / "folder"
        folder.mkdir()
        moments = [rng.uniform(0, seconds) for _ in range(rng.randint(1, MOST))]
        try:
            for moment in moments:
                count.kills += not finished(partial(job.work, folder / "out"), log, moment)
            finished(partial(job.work, folder / "out"), log)
            compare(folder, expected)
        except (RuntimeError, AssertionError) as error:
            count.findings.append(f"after {[round(moment, 4) for moment in moments]} s: {error}")
            print(f"{job.name}: {count.findings[-1]}", flush=True)
        count.ends += 1
        shutil.rmtree(folder)
    shutil.rmtree(reference)
    return count


def compare(folder: Path, expected: dict[str, str]) -> None:
    """Raise AssertionError unless a job left what was expected and nothing else."""
    there = content(folder / "out")
    beside = [entry.name for entry in folder.iterdir() if entry.name != "out"]
    other = sorted(name for name in {*there, *expected} if there.get(name) != expected.get(name))
    if other or beside:
        raise AssertionError(f"other files {other}, left beside {beside}")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how many, of all jobs together")
    parser.add_argument("--jobs", type=words, default=list(JOBS), help=f"some of {','.join(JOBS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        log, inputs = scratch / "log", scratch / "inputs"
        # Each in a process of its own, so that this one has no threads, whose locks a fork would copy.
        finished(partial(make_inputs, inputs), log)
        finished(partial(make_artifact, inputs), log)
        counts = []
        chosen = [job for job in jobs(inputs) if job.name in arguments.jobs]
        for job in chosen:
            counts.append(attack(job, arguments.kills // len(chosen), arguments.seed, scratch))
            print(f"{job.name}: {counts[-1].kills} kills, {counts[-1].ends} ends", flush=True)
    found = sum(len(count.findings) for count in counts)
    print(f"{sum(count.kills for count in counts)} kills, {found} findings")
    if arguments.output:
        rows = [asdict(count) for count in counts]
        write_json(arguments.output, {"command": command("kills.measure"), "setup": setup("cpu"), "rows": rows})
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

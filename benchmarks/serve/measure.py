"""Requests a second of `d4c serve` beside the same server with the float model, on the loopback address.

    nice python -m benchmarks.serve.measure --model demo-vit --requests 10000 --seconds 240

Two servers run at once: an export at `--scheme`, and one of the same model whose towers are left in float32. Client
threads send pictures to `/embed/image`, in turns to one server and to the other, a turn of `TURN` requests each, so
that what else the machine does meets both. Figures of a server are ratios within a turn and its neighbor; a request
counts as lost unless it comes back with the embedding that the library gives. Memory is that of the server's process.
It stops by itself after `--requests` of both together, at most 10,000, or after `--seconds`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

import d4c
from benchmarks.common import records
from benchmarks.common.arguments import argument_parser
from benchmarks.common.rows import Row, write_report
from benchmarks.serve.table import page
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.runtime.runtime_clip import RuntimeCLIP

MOST_REQUESTS, CLIENTS, TURN, PICTURES = 10_000, 4, 250, 50
FLOAT = {"image.*": "float", "text.blocks.*": "float"}
"""Overrides that leave nothing but small parts of the text tower quantized, as an artifact must have something."""
TOLERANCE = 1e-3
"""Largest difference of an embedding to the library's, relative to its largest number."""


@dataclass
class Server:
    """A running server, and what its clients saw."""

    name: str
    port: int
    process: int
    expected: list[np.ndarray]
    seconds: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    lost: int = 0


@contextmanager
def serving(name: str, export: Path, expected: list[np.ndarray]) -> Iterator[Server]:
    """A server in a process of its own, until the block ends."""
    words = [sys.executable, "-m", "d4c", "serve", str(export), "--port", "0", "--json", "--quiet"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = urlsplit(json.loads(process.stdout.readline())["url"]).port
        assert port is not None
        yield Server(name, port, process.pid, expected)
    finally:
        process.terminate()
        process.wait(60)


def send(server: Server, pictures: Sequence[bytes], numbers: range) -> tuple[list[float], int]:
    """Seconds of each request, and how many were lost, of one client."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    seconds, lost = [], 0
    for number in numbers:
        i = number % len(pictures)
        started = time.perf_counter()
        try:
            connection.request("POST", "/embed/image", pictures[i])
            response = connection.getresponse()
            body = response.read()
        except (HTTPException, OSError):
            connection.close()
            lost += 1
            continue
        seconds.append(time.perf_counter() - started)
        row = np.array(json.loads(body).get("embeddings", [[np.nan]])[0])
        reference = server.expected[i]
        right = row.shape == reference.shape and np.abs(row - reference).max() <= TOLERANCE * np.abs(reference).max()
        lost += not right
    connection.close()
    return seconds, lost


def turn(server: Server, pictures: Sequence[bytes], requests: int) -> None:
    """Send requests from all clients, and record what came of it."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = [range(client, requests, CLIENTS) for client in range(CLIENTS)]
        results = list(pool.map(lambda part: send(server, pictures, part), parts))
    server.rates.append(requests / (time.perf_counter() - started))
    server.seconds.append([value for seconds, _ in results for value in seconds])
    server.lost += sum(lost for _, lost in results)
    server.megabytes.append(resident(server.process))


def resident(process: int) -> float:
    """Megabytes of memory that a process holds, as Linux counts them."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def exports(model: str, scheme: str, folder: Path) -> dict[str, Path]:
    """The export at a scheme, and that of the same model with blocks of float32 and what is before and after them."""
    clip = d4c.load(model)
    calibration = d4c.synthesize(clip, "leaves", images=16, seed=0)
    made = {}
    for name, overrides in ((scheme, None), ("float32", FLOAT)):
        quantized = d4c.quantize(clip, calibration, scheme, reconstruction="none", overrides=overrides)
        quantized.save_pretrained(folder / name)
        made[name] = d4c.export(folder / name, folder / f"{name}-onnx", check=False, progress=None).folder
    return made


def measure(model: str, scheme: str, requests: int, seconds: float, folder: Path) -> Row:
    """The figures of both servers."""
    made = exports(model, scheme, folder)
    data = demo_dataset()
    streams = [BytesIO() for _ in range(PICTURES)]
    for i, stream in enumerate(streams):
        data.picture(i).save(stream, "PNG")
    pictures = [stream.getvalue() for stream in streams]
    expected = {}
    for name, export in made.items():
        clip = RuntimeCLIP(export)
        expected[name] = [clip.encode_image([clip.preprocess(picture)])[0] for picture in pictures]
    ends = time.monotonic() + seconds
    with (
        serving(scheme, made[scheme], expected[scheme]) as ours,
        serving("float32", made["float32"], expected["float32"]) as theirs,
    ):
        for server in (ours, theirs):
            turn(server, pictures, PICTURES)  # what is made at the first requests
            for figures in (server.rates, server.seconds, server.megabytes):
                figures.clear()
        for i in range(requests // (2 * TURN)):
            for server in (ours, theirs) if i % 2 == 0 else (theirs, ours):
                turn(server, pictures, TURN)
            print(
                f"{2 * TURN * (i + 1)} requests, {ours.rates[-1] / theirs.rates[-1]:.2f}", file=sys.stderr, flush=True
            )
            if time.monotonic() > ends:
                break
        return {
            "model": model,
            "clients": CLIENTS,
            "rate": ratios(ours.rates, theirs.rates),
            "p95": ratios(*([percentile(part) for part in server.seconds] for server in (ours, theirs))),
            "servers": [summary(server) for server in (ours, theirs)],
        }


def percentile(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 95))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The median, the least and the largest ratio of neighboring turns."""
    values = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def summary(server: Server) -> Row:
    """Absolute figures, which depend on what else the machine did, and the growth of memory after the first turn."""
    return {
        "name": server.name,
        "requests": TURN * len(server.rates),
        "lost": server.lost,
        "requests_a_second": statistics.median(server.rates),
        "p95_seconds": percentile([value for part in server.seconds for value in part]),
        "megabytes": server.megabytes[-1],
        "growth": server.megabytes[-1] / server.megabytes[0],
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="demo-vit", help="an embedded model, a file or a folder")
    parser.add_argument("--scheme", default="W4A8")
    parser.add_argument("--requests", type=int, default=MOST_REQUESTS, help="of both servers together")
    parser.add_argument("--seconds", type=float, default=240, help="after which no further turn begins")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve.json")
    args = parser.parse_args()
    if not 2 * TURN <= args.requests <= MOST_REQUESTS:
        parser.error(f"{args.requests} requests, expected {2 * TURN} to {MOST_REQUESTS}.")
    with tempfile.TemporaryDirectory() as folder:
        row = measure(args.model, args.scheme, args.requests, args.seconds, Path(folder))
    packages = ("onnxruntime", "starlette", "uvicorn", "numpy")
    setup = records.setup("cpu", *packages) | {"instructions": records.instructions(), "seed": 0}
    write_report(args.out, row | {"setup": setup | {"command": records.command("serve.measure")}}, page)


if __name__ == "__main__":
    main()

"""The index of large galleries beside comparing every picture: matches that it misses, time, bytes.

    nice python -m benchmarks.picture_index.measure --pictures 100000

Embeddings are synthetic: clusters around one mean with channels of uneven size, and queries that lie beside all
pictures, as those of prompts do; the cosines of both kinds are recorded. Each query is answered in both ways in turn,
by one thread; time is the median over queries of the ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import records
from benchmarks.common.arguments import argument_parser
from benchmarks.common.rows import Row, write_report
from benchmarks.picture_index.table import page
from d4c.runtime.gallery import Gallery, Match
from d4c.runtime.picture_index import open_index
from d4c.runtime.queries import Query
from d4c.zeroshot.classification import unit_rows

WIDTH, CLUSTERS, QUERIES = 512, 500, 200
TOPS = (1, 10, 50)


def synthetic(pictures: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit embeddings of pictures and of queries."""
    random = np.random.default_rng(0)
    size = np.arange(1, WIDTH + 1) ** -0.5
    mean = 0.3 * random.standard_normal(WIDTH)
    gap = 0.15 * random.standard_normal(WIDTH)
    centers = size * random.standard_normal((CLUSTERS, WIDTH))

    def rows(count: int, shift: NDArray[np.float64], share: float) -> NDArray[np.float32]:
        noise = 0.8 * size * random.standard_normal((count, WIDTH))
        chosen = centers[random.integers(0, CLUSTERS, count)]
        return unit_rows((mean + shift + share * chosen + noise).astype(np.float32))

    return rows(pictures, np.zeros(WIDTH), 1.0), rows(QUERIES, gap, 0.5)


def timed(search: Callable[[Query, int], list[Match]], query: Query, top: int) -> tuple[float, set[str]]:
    started = time.perf_counter()
    matches = search(query, top)
    return time.perf_counter() - started, {match.path for match in matches}


def compare(exact: Gallery, fast: Gallery, queries: Sequence[Query], top: int) -> Row:
    """Share of the exact matches that the index finds, and time."""
    shares, ratios, seconds = [], [], []
    for query in queries:
        slow, expected = timed(exact.search, query, top)
        quick, found = timed(fast.search, query, top)
        shares.append(len(expected & found) / top)
        ratios.append(quick / slow)
        seconds.append(slow)
    return {
        "top": top,
        "recall": statistics.mean(shares),
        "ratio": statistics.median(ratios),
        "exact_seconds": statistics.median(seconds),
    }


def measure(pictures: int, file: Path) -> Row:
    """The figures of one gallery."""
    embeddings, rows = synthetic(pictures)
    started, spent = time.perf_counter(), time.process_time()
    index = open_index(file, range(pictures), embeddings)
    seconds, cpu = time.perf_counter() - started, time.process_time() - spent
    paths = tuple(f"{i:08}.jpg" for i in range(pictures))
    exact, fast = (Gallery(paths, embeddings, {}, 0, way) for way in (None, index))
    queries = [Query(str(i), row) for i, row in enumerate(rows)]
    return {
        "pictures": pictures,
        "width": WIDTH,
        "queries": QUERIES,
        "cosines": {
            "between_pictures": float((embeddings[:500] @ embeddings[500:1000].T).mean()),
            "of_queries": float((rows @ embeddings[:500].T).mean()),
        },
        "build_seconds": seconds,
        "build_cpu_seconds": cpu,
        "bytes_a_picture": file.stat().st_size / pictures,
        "rows": [compare(exact, fast, queries, top) for top in TOPS],
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "picture_index.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args.pictures, Path(folder) / "index")
    setup = records.setup("cpu", "usearch", "numpy") | {"instructions": records.instructions(), "seed": 0}
    write_report(args.out, report | {"setup": setup | {"command": records.command("picture_index.measure")}}, page)


if __name__ == "__main__":
    main()

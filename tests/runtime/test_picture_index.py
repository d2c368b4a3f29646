"""An index finds what a look at every picture finds, follows changes, and is remade where its file is of no use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from d4c.cli.entry import app
from d4c.runtime import gallery as gallery_module
from d4c.runtime import picture_index
from d4c.runtime.embeddings import Stamp
from d4c.runtime.gallery import Gallery, open_gallery
from d4c.runtime.picture_index import PictureIndex, index_file, open_index, picture_key
from d4c.runtime.queries import Query, word_query
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.zeroshot.classification import unit_rows

COUNT, WIDTH, TOP = 3000, 64, 10


@pytest.fixture(scope="module")
def embeddings() -> NDArray[np.float32]:
    """Rows in clusters around one mean, with channels of uneven size, as embeddings of pictures are."""
    random = np.random.default_rng(0)
    size = np.arange(1, WIDTH + 1) ** -0.5
    centers = random.standard_normal((60, WIDTH))[random.integers(0, 60, COUNT)]
    rows = 0.5 + size * (centers + 0.8 * random.standard_normal((COUNT, WIDTH)))
    return unit_rows(rows.astype(np.float32))


@pytest.fixture(scope="module")
def queries(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that lie beside all pictures, as those of prompts do."""
    random = np.random.default_rng(1)
    size = np.arange(1, WIDTH + 1) ** -0.5
    gap = 0.6 * random.standard_normal(WIDTH)
    rows = embeddings[:50] + size * (gap + random.standard_normal((50, WIDTH))) / 8
    return unit_rows(rows.astype(np.float32))


def opened(file: Path, embeddings: NDArray[np.float32], keys: Any = None, progress: Any = None) -> PictureIndex:
    index = open_index(file, list(range(len(embeddings)) if keys is None else keys), embeddings, progress)
    assert index is not None
    return index


def gallery(embeddings: NDArray[np.float32], index: PictureIndex | None) -> Gallery:
    return Gallery(tuple(f"{i:05}.png" for i in range(len(embeddings))), embeddings, {}, 0, index)


def test_an_index_finds_what_every_comparison_finds(
    embeddings: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    exact, fast = gallery(embeddings, None), gallery(embeddings, opened(tmp_path / "x", embeddings))
    shares = []
    for row in queries:
        query = Query("", row)
        expected, found = exact.search(query, TOP), fast.search(query, TOP)
        shares.append(len(set(expected) & set(found)) / TOP)
        assert len(found) == TOP
        assert found == sorted(found, key=lambda match: (-match.score, match.path))
    assert np.mean(shares) > 0.99
    assert len(fast.search(Query("", queries[0]), COUNT)) == COUNT  # more than an index is good for


def test_an_index_follows_what_comes_and_goes(embeddings: NDArray[np.float32], tmp_path: Path) -> None:
    opened(tmp_path / "x", embeddings[:1000])
    done: list[int] = []
    changed = opened(tmp_path / "x", embeddings[100:1200], range(100, 1200), lambda n, total: done.append(total))
    assert done == [200]
    assert changed.nearest(embeddings[1100], 1) == [1000]
    assert not {int(key) for key in changed.graph.keys} & set(range(100))
    opened(tmp_path / "x", embeddings[100:1200], range(100, 1200), lambda n, total: done.append(total))
    assert done == [200]


def test_many_holes_make_an_index_anew(embeddings: NDArray[np.float32], tmp_path: Path) -> None:
    opened(tmp_path / "x", embeddings[:1000])
    done: list[int] = []
    opened(tmp_path / "x", embeddings[300:1000], range(300, 1000), lambda n, total: done.append(total))
    assert done == [700]


def test_a_stopped_index_resumes(
    embeddings: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_index, "CHUNK", 100)

    def stop(done: int, _: int) -> None:
        if done == 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "x", embeddings[:500], progress=stop)
    done: list[int] = []
    opened(tmp_path / "x", embeddings[:500], progress=lambda n, total: done.append(total))
    assert done == [200, 200]


@pytest.mark.parametrize(
    "damage", [lambda content: b"x" * 99, lambda content: content[:-40], lambda content: b""], ids=["other", "cut", "0"]
)
def test_a_damaged_index_is_made_anew(
    damage: Callable[[bytes], bytes], embeddings: NDArray[np.float32], tmp_path: Path
) -> None:
    opened(tmp_path / "x", embeddings[:200])
    (tmp_path / "x").write_bytes(damage((tmp_path / "x").read_bytes()))
    assert opened(tmp_path / "x", embeddings[:200]).nearest(embeddings[7], 1) == [7]


def test_an_index_that_cannot_be_kept_is_used_all_the_same(embeddings: NDArray[np.float32]) -> None:
    with pytest.warns(UserWarning, match=r"/proc/d4c/x cannot be written .*made again every time"):
        assert opened(Path("/proc/d4c/x"), embeddings[:50]).nearest(embeddings[7], 1) == [7]


def test_without_usearch_every_picture_is_compared(
    embeddings: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.warns(UserWarning, match=r"compared with each of 50 pictures; pip install 'd4c\[index\]'"):
        assert open_index(tmp_path / "x", range(50), embeddings[:50]) is None


def test_a_picture_has_another_key_once_it_changed() -> None:
    keys = [picture_key(*case) for case in (("m", "a", Stamp(1, 2)), ("n", "a", Stamp(1, 2)), ("m", "b", Stamp(1, 2)))]
    assert len({*keys, picture_key("m", "a", Stamp(1, 3)), picture_key("m", "a\udcff", Stamp(1, 2))}) == 5


def test_the_command_uses_an_index_beyond_the_limit_and_says_so(
    exported: Path, model: RuntimeCLIP, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exact = open_gallery(model, pictures)
    monkeypatch.setattr(gallery_module, "EXACT_UP_TO", len(exact.paths) - 1)
    command = ["search", str(exported), str(pictures), "a cat", "--top", "3"]
    found = CliRunner().invoke(app, [*command, "--json"])
    matches = exact.search(word_query(model, "a cat"), 3)
    assert json.loads(found.stdout) == {
        "results": [{"query": "a cat", "matches": [{"path": m.path, "score": m.score} for m in matches]}],
        "embedded": 0,
        "skipped": {},
        "exact": False,
    }
    assert index_file(pictures / gallery_module.DEFAULT_NAME).is_relative_to(tmp_path / "cache" / "d4c")
    assert "10 pictures are searched through an index" in CliRunner().invoke(app, command).stderr

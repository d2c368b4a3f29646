"""Tasks in processes and on a cluster: one that is lost is done again."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from d4c import D4CError, SettingError
from d4c.comparison.compare import compare
from d4c.comparison.config import ComparisonConfig
from d4c.comparison.workers.local_workers import LocalWorkers, Task
from d4c.comparison.workers.ray_workers import RayWorkers

TASKS = '''
import os, signal
from d4c.errors import SettingError

def echo(value, device):
    return value, device

def lost_once(marker, device):
    """Kills its process the first time."""
    try:
        open(marker, "x").close()
    except FileExistsError:
        return "done again", device
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(device):
    os.kill(os.getpid(), signal.SIGKILL)

def refused(device):
    raise SettingError("The setting is wrong.")
'''


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Task]:
    """Tasks of a module that other processes can import."""
    (tmp_path / "made_up_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = [str(tmp_path), *sys.path]
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in paths if path))
    sys.modules.pop("made_up_tasks", None)
    made_up_tasks = importlib.import_module("made_up_tasks")
    return {
        "lost once": Task("a", made_up_tasks.lost_once, (str(tmp_path / "marker"),)),
        "deadly": Task("a cell", made_up_tasks.deadly, ()),
        "refused": Task("b", made_up_tasks.refused, ()),
        **{f"echo {i}": Task(f"echo {i}", made_up_tasks.echo, (i,)) for i in range(4)},
    }


def some(tasks: dict[str, Task], *names: str) -> list[Task]:
    return [tasks[name] for name in names]


def test_one_process_does_tasks_in_order(tasks: dict[str, Task]) -> None:
    results = list(LocalWorkers(1, "cpu").results(some(tasks, "echo 0", "echo 1")))
    assert results == [(0, (0, "cpu")), (1, (1, "cpu"))]


@pytest.mark.slow
def test_a_process_that_is_lost_is_replaced(tasks: dict[str, Task]) -> None:
    results = dict(LocalWorkers(2, "cpu").results(some(tasks, "echo 0", "lost once", "echo 1", "echo 2")))
    assert results == {0: (0, "cpu"), 1: ("done again", "cpu"), 2: (1, "cpu"), 3: (2, "cpu")}


@pytest.mark.slow
def test_a_task_that_kills_every_process_and_one_that_is_refused_end_the_work(tasks: dict[str, Task]) -> None:
    with pytest.raises(D4CError, match="lost 3 times while it worked on a cell"):
        list(LocalWorkers(2, "cpu").results(some(tasks, "deadly")))
    with pytest.raises(SettingError, match="The setting is wrong"):
        list(LocalWorkers(2, "cpu").results(some(tasks, "refused", "echo 0")))


@pytest.mark.slow
def test_a_cluster_of_two_workers_of_which_one_is_lost_measures_what_one_process_does(
    grid: ComparisonConfig, tasks: dict[str, Task], tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray")
    cluster = RayWorkers("local", "cpu", 2)
    try:
        results = dict(cluster.results(some(tasks, "echo 0", "lost once", "echo 1")))
        assert results == {0: (0, "cpu"), 1: ("done again", "cpu"), 2: (1, "cpu")}
        with pytest.raises(SettingError, match="The setting is wrong"):
            list(cluster.results(some(tasks, "refused")))
        spread = compare(grid, tmp_path / "spread", cluster)
    finally:
        ray.shutdown()
    alone = compare(grid, tmp_path / "alone")
    for cell, result in alone.results.items():
        other = spread.results[cell]["results"]
        for spec, data in result["results"].items():
            assert other[spec]["metrics"]["top1"] == data["metrics"]["top1"]
            assert other[spec]["metrics"]["count"] == data["metrics"]["count"]


def test_no_cluster_is_one_sentence() -> None:
    pytest.importorskip("ray")
    with pytest.raises(SettingError, match=r"There is no Ray cluster at '127\.0\.0\.1:1'"):
        RayWorkers("127.0.0.1:1", "cpu")

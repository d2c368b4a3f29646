"""What figures depend on, written beside them: command, device, versions, commit; and what a step of work took."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import d4c

PRIVATE = (
    "--models",
    "--model",
    "--data",
    "--out",
    "--cache",
    "--graphs",
    "--real",
    "--sets",
    "--set",
    "--reference",
)
"""Options whose values are paths of one machine."""


def command(module: str) -> str:
    """The command line that runs `module` of this package, with PATH for the paths of this machine."""
    words = ["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]
    return " ".join("PATH" if option in PRIVATE else word for option, word in zip(["", *words], words, strict=False))


def setup(device: str, *packages: str) -> dict[str, Any]:
    """Date, device, threads, versions of d4c, Python, PyTorch and the named packages, and commit."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions("torch", *packages),
        "commit": commit(),
    }


def device_name(device: str) -> str:
    """The name of a GPU, or of the processor with the number of its cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_processor('model name') or 'CPU'}, {os.cpu_count()} cores"


def instructions() -> list[str]:
    """Which of the processor's vector instructions for small numbers there are."""
    known = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"}
    return sorted(known & set(_processor("flags").split()))


def _processor(field: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


@cache
def commit() -> str | None:
    """Commit of the git checkout that d4c was imported from, followed by `-dirty` where the package differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(d4c.__file__).parent, capture_output=True, text=True).stdout

    try:
        # An installed package may lie inside of a checkout that does not hold it.
        if not git("ls-files", "__init__.py"):
            return None
        return git("rev-parse", "--short=12", "HEAD").strip() + ("-dirty" if git("status", "--porcelain", ".") else "")
    except FileNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str]:
    """Versions of d4c, Python and those of the packages that are installed."""
    installed = {"d4c": d4c.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def synchronize(device: str | torch.device) -> None:
    """Wait for a GPU to finish; a processor has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def measured(device: str) -> Iterator[dict[str, Any]]:
    """Seconds of what runs inside, by the clock and of all processors together, and the peak memory of a GPU."""
    figures: dict[str, Any] = {}
    synchronize(device)
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    started, spent = time.perf_counter(), time.process_time()
    yield figures
    synchronize(device)
    figures["seconds"] = time.perf_counter() - started
    figures["cpu_seconds"] = time.process_time() - spent
    figures["memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30 if gpu else None

"""Finds out whether the processor adds products of 8-bit integers in 16 bits (see `formats.pair_sums`)."""

from __future__ import annotations

import platform
from importlib import import_module
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def saturates() -> bool:
    """Whether this is an x86 processor without VNNI; False where that cannot be found out."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if platform.system() == "Linux":
        return _without_vnni_by_linux()
    return _without_vnni_by_numpy(intel_mac=platform.system() == "Darwin")


def _without_vnni_by_linux() -> bool:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return flags is not None and not {"avx512_vnni", "avx_vnni"} & set(flags)


def _without_vnni_by_numpy(intel_mac: bool) -> bool:
    """Whether NumPy knows that there is no VNNI.

    NumPy detects features on every system, but not the VNNI of laptops without AVX-512. Those have AVX2, and no Mac is
    among them. The features are in a private module, which moved in NumPy 2.0.
    """
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        try:
            has: dict[str, bool] = import_module(module).__cpu_features__
            certain = intel_mac or has["AVX512F"] or not has["AVX2"]
            return certain and not has["AVX512VNNI"]
        except (ImportError, AttributeError, KeyError):
            continue
    return False

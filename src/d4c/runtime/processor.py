"""What the processor cannot do exactly.

x86 processors without VNNI multiply 8-bit integers in pairs and add each pair in 16 bits: 255 * 127 + 255 * 127 does
not fit, and is cut off without a word. Weights up to 64 are safe with any 8-bit activation, those of 4 and 6 bits too.
"""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def saturates() -> bool:
    """Whether this is an x86 processor without VNNI; False where the system does not tell (other than Linux)."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return flags is not None and not {"avx512_vnni", "avx_vnni"} & set(flags)

"""What can be said of the installed dependencies without a network.

Every one of them is pinned in constraints.txt, has a license that d4c may be used with, and finds the versions that it
asks for. Known vulnerabilities take a network: `make audit`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import Distribution, distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
TOOLS = {"d4c", "pip", "setuptools", "wheel"}
"""What is not a dependency: d4c itself, and what a virtual environment brings."""
COPYLEFT = re.compile(r"\b(A?GPL|(Affero )?General Public License)", re.IGNORECASE)
WEAK = re.compile(r"\b(LGPL|Lesser|Library)\b", re.IGNORECASE)


def main() -> int:
    """Print what is wrong, one line each, and a summary; 1 if anything is."""
    installed = {canonical(d.metadata["Name"]): d for d in distributions()}
    dependencies = {name: d for name, d in sorted(installed.items()) if name not in TOOLS}
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    problems = [*unpinned(dependencies, pins), *unwelcome(dependencies)]
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    problems += check.stdout.splitlines() if check.returncode else []
    print("\n".join(problems) or "Every dependency is pinned, consistent and permissively licensed.")
    kinds = Counter(license_of(d) for d in dependencies.values())
    print(f"{len(dependencies)} packages: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return 1 if problems else 0


def canonical(name: str) -> str:
    """The name under which an index knows a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Version by package of a constraints file."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def unpinned(dependencies: dict[str, Distribution], pins: dict[str, str]) -> list[str]:
    """Packages at another version than constraints.txt names; a build such as 2.13.0+cpu counts as 2.13.0."""
    return [
        f"{name} {d.version} is installed, but constraints.txt names {pins.get(name, 'no version')}."
        for name, d in dependencies.items()
        if pins.get(name) != d.version.partition("+")[0]
    ]


def unwelcome(dependencies: dict[str, Distribution]) -> list[str]:
    """Packages whose license would spread to what uses them."""
    licenses = {name: license_of(d) for name, d in dependencies.items()}
    return [
        f"{name} is licensed as {text}, which d4c cannot depend on."
        for name, text in licenses.items()
        if COPYLEFT.search(text) and not WEAK.search(text)
    ]


def license_of(distribution: Distribution) -> str:
    """The license as the package states it, in a few words."""
    metadata = distribution.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    stated = metadata.get("License-Expression") or " and ".join(classifiers) or metadata.get("License") or ""
    return next((line for line in stated.splitlines() if line.strip()), "not stated").strip()[:60]


if __name__ == "__main__":
    sys.exit(main())

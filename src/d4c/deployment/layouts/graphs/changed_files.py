"""Changes the files of a layout as the options of an export ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from d4c.deployment.layouts.graphs.graph_file import GraphFile
from d4c.deployment.target import ExportOptions
from d4c.errors import SettingError

MASKED = -50.0
"""What stands for minus infinity where it is not a number that a processor has; e to the power of it is 2e-22."""


def changed(files: Sequence[GraphFile], options: ExportOptions, context: int) -> list[GraphFile]:
    """Return those files of a layout that are asked for, as they are asked for.

    Args:
        files: All files of the layout.
        options: The choices of a caller.
        context: Length of a prompt where it is fixed.

    Raises:
        SettingError: None is left.
    """
    changes: dict[str, Any] = {"features": options.features}
    if options.half is not None:
        changes["form"] = "float16" if options.half else "float32"
    if options.fixed_shapes:
        changes["masked"] = MASKED
    chosen = [replace(file, **changes) for file in files if options.tower in (None, *_only(file))]
    if not chosen:
        raise SettingError("This tool reads one file of both towers, and no file of one; leave out --tower.")
    if not options.fixed_shapes:
        return chosen
    fixed: dict[str, Any] = {"image_batch": 1, "text_batch": 1, "length": context}
    return [replace(file, ports=replace(file.ports, **fixed)) for file in chosen]


def _only(file: GraphFile) -> tuple[str, ...]:
    return file.towers if len(file.towers) == 1 else ()

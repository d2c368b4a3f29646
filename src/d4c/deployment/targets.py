"""The table of export targets. To add one, write a module with a `Target` and list it here.

Help texts come from the table, so nothing here imports torch or a target's libraries before an export.
"""

from __future__ import annotations

from d4c.deployment.layouts.clip_as_service import CLIP_AS_SERVICE
from d4c.deployment.layouts.fastembed import FASTEMBED
from d4c.deployment.layouts.immich import IMMICH
from d4c.deployment.layouts.openvino_files import OPENVINO
from d4c.deployment.layouts.optimum import OPTIMUM
from d4c.deployment.layouts.plain_graphs import GRAPHS
from d4c.deployment.layouts.transformers_js import TRANSFORMERS_JS
from d4c.deployment.onnx.onnx_target import ONNX
from d4c.deployment.target import ExportOptions, Target
from d4c.errors import SettingError

TARGETS = {
    target.name: target
    for target in (ONNX, GRAPHS, TRANSFORMERS_JS, OPTIMUM, OPENVINO, FASTEMBED, IMMICH, CLIP_AS_SERVICE)
}
DEFAULT_TARGET = ONNX.name


def find_target(name: str, options: ExportOptions) -> Target:
    """Return the target of a name; raise SettingError if there is none or it cannot do what is asked for."""
    if name not in TARGETS:
        raise SettingError(f"The target {name!r} is unknown; choose one of {', '.join(TARGETS)}.")
    for option in options.chosen():
        if option not in TARGETS[name].takes:
            able = [target.name for target in TARGETS.values() if option in target.takes]
            raise SettingError(
                f"The target {name!r} does not take {option}, since what reads it needs the files as they are; "
                f"choose --for {', '.join(able)}."
            )
    return TARGETS[name]


def target_help() -> str:
    """Return one line with every target and what reads it."""
    return "; ".join(f"{target.name} ({target.summary})" for target in TARGETS.values()) + "."

"""The table of export targets. To add one, write a module with a `Target` and list it here.

Help texts come from the table, so nothing here imports torch or a target's libraries before an export.
"""

from __future__ import annotations

from d4c.deployment.layouts.clip_as_service import CLIP_AS_SERVICE
from d4c.deployment.layouts.fastembed import FASTEMBED
from d4c.deployment.layouts.immich import IMMICH
from d4c.deployment.layouts.openvino_files import OPENVINO
from d4c.deployment.layouts.optimum import OPTIMUM
from d4c.deployment.layouts.transformers_js import TRANSFORMERS_JS
from d4c.deployment.onnx.onnx_target import ONNX
from d4c.deployment.target import Target
from d4c.errors import SettingError

TARGETS = {
    target.name: target for target in (ONNX, TRANSFORMERS_JS, OPTIMUM, OPENVINO, FASTEMBED, IMMICH, CLIP_AS_SERVICE)
}
DEFAULT_TARGET = ONNX.name


def find_target(name: str) -> Target:
    """Return the target of a name; raise SettingError if there is none."""
    if name not in TARGETS:
        raise SettingError(f"The target {name!r} is unknown; choose one of {', '.join(TARGETS)}.")
    return TARGETS[name]


def target_help() -> str:
    """Return one line with every target and what reads it."""
    return "; ".join(f"{target.name} ({target.summary})" for target in TARGETS.values()) + "."

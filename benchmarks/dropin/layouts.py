"""The folders that are compared: for each tool the float model, what its users get at 8 bits today, and ours.

The peers' int8 is ONNX Runtime's dynamic quantization of the float files, as transformers.js's own script makes its
`_quantized` files: unsigned weights where a graph has a convolution, else signed. They are per channel and of 7 bits
(`reduce_range`), which is exact on processors without VNNI and the more accurate of what the script offers there. Float
files get biases as additions, as other exporters write them and these tools know them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime import quantization as ort_tools
from onnxruntime.quantization.registry import IntegerOpsRegistry

import d4c
from d4c.calibration.prompts import generic_prompts
from d4c.models.clip import CLIP
from d4c.quantization.config import Reconstruction

FLOAT, DYNAMIC = "float32", "dynamic int8"
SCHEMES = ("W8A8", "W4A8")
FOLDERS = {FLOAT: "float32", DYNAMIC: "dynamic", **{scheme: scheme for scheme in SCHEMES}}
"""What is compared, and the name of its folder."""
TOOLS = {
    "transformers.js": "transformers.js in Node",
    "optimum": "optimum-onnx",
    "openvino": "optimum-intel (OpenVINO)",
    "fastembed": "fastembed",
    "immich": "immich's steps",
    "graphs": "ONNX Runtime",
}
"""The tools by the name of their layout."""
WITHOUT_VNNI = {f"{scheme}, --without-vnni": f"{scheme}-without-vnni" for scheme in SCHEMES}
"""Forms that only OpenVINO has, and the names of their folders."""
NO_DYNAMIC = ("openvino",)
"""Tools that do not read such files: OpenVINO has no kernels for them."""


@dataclass(frozen=True)
class Calibration:
    """How much an artifact is calibrated with: dead-leaves images, generic prompts, and what follows the ranges."""

    images: int
    prompts: int
    reconstruction: Reconstruction


def artifacts(clip: CLIP, folder: Path, how: Calibration) -> dict[str, Path]:
    """The model at each scheme, made unless it lies in the folder from an earlier call."""
    images = d4c.synthesize(clip, "leaves", images=how.images, seed=0)
    prompts = generic_prompts(how.prompts)
    for scheme in (scheme for scheme in SCHEMES if not (folder / scheme).is_dir()):
        quantized = d4c.quantize(clip, images, scheme, reconstruction=how.reconstruction, prompts=prompts)
        quantized.save_pretrained(folder / scheme)
    return {scheme: folder / scheme for scheme in SCHEMES}


def layouts(tool: str, clip: CLIP, made: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The folder of each form for a tool, written unless they lie in `folder` from an earlier call."""
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _write_layouts(tool, clip, made, unfinished)
        unfinished.rename(folder)
    names = FOLDERS | WITHOUT_VNNI
    return {form: folder / name for form, name in names.items() if (folder / name).is_dir()}


def _write_layouts(tool: str, clip: CLIP, made: dict[str, Path], folder: Path) -> None:
    sources: dict[str, CLIP | Path] = {FLOAT: clip, **made}
    out = {
        form: d4c.export(source, folder / FOLDERS[form], target=tool, check=False, progress=None).folder
        for form, source in sources.items()
    }
    if tool == "openvino":
        for (scheme, source), name in zip(made.items(), WITHOUT_VNNI.values(), strict=True):
            assert name.startswith(scheme)
            d4c.export(source, folder / name, target=tool, without_vnni=True, check=False, progress=None)
    if tool not in NO_DYNAMIC:
        dynamic_int8(out[FLOAT], folder / FOLDERS[DYNAMIC])


def dynamic_int8(source: Path, folder: Path) -> None:
    """A copy of a folder with each graph quantized, under the name by which transformers.js finds it."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.onnx"))
    in_browsers = (source / "onnx").is_dir()
    for file in loaded_files(source):
        operators = {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}
        path = folder / file.relative_to(source)
        ort_tools.quantize_dynamic(
            file,
            path.with_name(f"{path.stem}_quantized.onnx") if in_browsers else path,
            op_types_to_quantize=list(IntegerOpsRegistry),
            per_channel=True,
            reduce_range=True,
            weight_type=ort_tools.QuantType.QUInt8 if "Conv" in operators else ort_tools.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    if in_browsers:
        config = json.loads((folder / "config.json").read_text())
        config["transformers.js_config"]["dtype"] = "q8"
        (folder / "config.json").write_text(json.dumps(config))


def model_bytes(folder: Path) -> int:
    """Bytes of the files that both towers are loaded from."""
    return sum(file.stat().st_size for file in loaded_files(folder))


def loaded_files(folder: Path) -> list[Path]:
    """Graphs, but not the second form of both towers that some layouts have beside the one that is measured."""
    graphs = [file for file in folder.rglob("*") if file.suffix in (".onnx", ".bin", ".xml")]
    return [
        file
        for file in graphs
        if not file.stem.endswith(("_model_text", "_model_vision"))
        and not (file.parent.name == "onnx" and not file.stem.startswith(("text_model", "vision_model")))
    ]

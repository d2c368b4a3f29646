"""The verb `export`: from an artifact to ONNX files with everything that a runtime without torch needs.

image.onnx, text.onnx            see `towers` for their inputs and outputs
tokenizer.json, preprocessor_config.json   as in the artifact
export.json                      what the graphs were made of, shapes, logit scale, size and SHA-256 of each file
metrics.json                     sizes, and the parity of ONNX Runtime with PyTorch
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4c.deployment.saturating import saturating_layers
from d4c.errors import ArtifactError, SettingError, require
from d4c.files import atomic_folder, refuse_occupied, sha256, write_json
from d4c.progress import Progress
from d4c.quantization.artifact.folder import load_quantized
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.exported import FORMAT_VERSION
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.deployment.onnx.parity import TowerParity

COPIED = ("tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Export:
    """What was written: bytes of each graph, and the parity of each tower unless the check was left out."""

    folder: Path
    sizes: dict[str, int]
    parity: dict[str, TowerParity] | None

    def to_dict(self) -> dict[str, Any]:
        parity = None if self.parity is None else {tower: found.to_dict() for tower, found in self.parity.items()}
        return {"sizes": self.sizes, "parity": parity}


def export(
    artifact: str | Path,
    output: str | Path | None = None,
    *,
    format: str = "onnx",
    unpacked: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> Export:
    """Write both towers of a deployable artifact as ONNX graphs that runtimes execute with integer kernels.

    `output` is by default the artifact's folder with "-onnx" behind its name; it appears whole or not at all.
    Weights take the bits of the scheme on disk; `unpacked` stores them as int8 instead, which ONNX Runtime loads
    faster and with less memory (of 6-bit weights it keeps every step of the unpacking until it is done). Unless
    `check` is false, each layer and each block is compared with PyTorch in ONNX Runtime (see `parity`).

    Raises ArtifactError if the artifact is damaged, `output` is occupied or ONNX Runtime computes something else;
    SettingError for another format, a missing library, or an artifact of track "paper".
    """
    if format != "onnx":
        raise SettingError(f"The format {format!r} is unknown; 'onnx' is the one there is.")
    for library in ("onnx", "onnxruntime"):
        require(library, "onnx", "export needs")
    from d4c.deployment.onnx.tower_graphs import image_graph, text_graph

    source = Path(artifact).resolve()
    target = source.with_name(f"{source.name}-onnx") if output is None else Path(output)
    refuse_occupied(target, is_export, "an export")
    clip = load_quantized(artifact)
    _refuse_paper_track(clip)
    copied = {name: _read_json(source / name) for name in COPIED}
    graphs = {"image": image_graph(clip, unpacked), "text": text_graph(clip, unpacked)}
    parity: dict[str, TowerParity] = {}
    with atomic_folder(target) as new:
        for done, (tower, graph) in enumerate(graphs.items()):
            file = new / f"{tower}.onnx"
            file.write_bytes(graph.model(__version__).SerializeToString())
            if check:
                from d4c.deployment.onnx.parity import check_tower

                parity[tower] = check_tower(file, graph, clip, tower)
            if progress:
                progress(done + 1, len(graphs))
        for name in copied:
            shutil.copyfile(source / name, new / name)
        sizes = {f"{tower}.onnx": (new / f"{tower}.onnx").stat().st_size for tower in graphs}
        result = Export(target, sizes, parity if check else None)
        write_json(new / "metrics.json", result.to_dict())
        write_json(new / "export.json", _description(clip, new, unpacked))
    return result


def is_export(folder: Path) -> bool:
    """Whether `export` wrote this folder."""
    return (folder / "export.json").is_file()


def _refuse_paper_track(clip: QuantizedCLIP) -> None:
    for name, entry in clip.plan.items():
        per_tensor = all(args.strategy == "tensor" and not args.symmetric for args in entry.inputs)
        if not per_tensor or (entry.weights is not None and not entry.weights.symmetric):
            raise SettingError(
                f"The artifact of {clip.name!r} holds {name} in a format of track 'paper', which no integer kernel "
                "computes; quantize with track='deployable'."
            )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ArtifactError(f"{path} is missing or damaged; write the artifact again.") from None


def _description(clip: QuantizedCLIP, folder: Path, unpacked: bool) -> dict[str, Any]:
    from d4c.deployment.onnx.graph import OPSET

    text = clip.config.text
    return {
        "format_version": FORMAT_VERSION,
        "d4c": __version__,
        "name": clip.name,
        "scheme": clip.recipe.get("scheme"),
        "overrides": clip.recipe.get("overrides"),
        "opset": OPSET,
        "unpacked": unpacked,
        "embed_dim": clip.config.embed_dim,
        "image_size": clip.image_size,
        "context_length": text.context_length,
        "eos_id": text.eos_id,
        "begin_id": clip.text.begin_id,
        "logit_scale": clip.logit_scale,
        "saturating": saturating_layers(clip),
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(folder.iterdir())
        },
    }

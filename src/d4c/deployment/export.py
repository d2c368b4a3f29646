"""`export`: writes a folder with everything that a runtime without torch needs.

files of the target (ONNX: image.onnx, text.onnx)
tokenizer.json, tokenizer_config.json, preprocessor_config.json   as in the artifact
export.json    format, origin, shapes, logit scale, and size and SHA-256 of each file
metrics.json   sizes, and the parity with PyTorch
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4c.deployment.saturating import saturating_layers
from d4c.deployment.target import ExportOptions, Parity, Written
from d4c.deployment.targets import DEFAULT_FORMAT, find_target
from d4c.errors import SettingError, require
from d4c.models.tokenizer_files import FILES as TOKENIZER_FILES
from d4c.progress import WHOLE, Report, reporting
from d4c.quantization.artifact.folder import WEIGHTS
from d4c.quantization.artifact.read import read_artifact
from d4c.quantization.quantized import QuantizedCLIP
from d4c.reading.seal import file_hashes, write_sealed
from d4c.runtime.exported import FORMAT_VERSION
from d4c.storage.files import sha256, write_json
from d4c.storage.outputs import check_output, output_folder
from d4c.version import __version__

KIND = "export"
"""What the manifest of an export calls it."""
COPIED = (*TOKENIZER_FILES, "preprocessor_config.json")


@dataclass(frozen=True)
class Export:
    """A written export.

    Args:
        folder: Where it is.
        sizes: Bytes of each of the target's files.
        parity: Comparison with PyTorch by tower; None if the check was left out.
    """

    folder: Path
    sizes: dict[str, int]
    parity: dict[str, Parity] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form."""
        parity = None if self.parity is None else {tower: result.to_dict() for tower, result in self.parity.items()}
        return {"sizes": self.sizes, "parity": parity}


def export(
    artifact: str | Path,
    output: str | Path | None = None,
    *,
    format: str = DEFAULT_FORMAT,
    unpacked: bool = False,
    check: bool = True,
    progress: Report = "auto",
) -> Export:
    """Write both towers of a deployable artifact so that runtimes execute them with integer kernels.

    Args:
        artifact: Folder that `save_pretrained` wrote.
        output: Folder to write, by default the artifact's name followed by "-" and the format. It appears whole or not
            at all.
        format: One of `d4c.deployment.targets.TARGETS`.
        unpacked: Store weights as int8 instead of in the bits of the scheme, which ONNX Runtime loads faster and
            with less memory (it keeps every step of unpacking 6-bit weights until it is done).
        check: Compare each layer and each block with PyTorch, see `d4c.deployment.onnx.parity`.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The folder, sizes and parity.

    Raises:
        ArtifactError: The artifact is damaged, `output` is occupied or the written files compute something else.
        SettingError: The format is unknown, a library is missing or the artifact is of track "paper".
    """
    target = find_target(format)
    for library in target.libraries:
        require(library, target.name, "An export needs")
    source = Path(artifact).resolve()
    folder = source.with_name(f"{source.name}-{target.name}") if output is None else Path(output)
    check_output(folder, KIND)
    clip = read_artifact(artifact)
    _refuse_paper_track(clip)
    origin = sha256(source / WEIGHTS)
    with reporting(progress, f"export {target.name}") as report, output_folder(folder, KIND) as new:
        report(0, WHOLE)
        written = target.write(clip, new, ExportOptions(unpacked, check, origin), report)
        sizes = {file.name: file.stat().st_size for file in sorted(new.iterdir())}
        for name in COPIED:
            shutil.copyfile(source / name, new / name)
        exported = Export(folder, sizes, written.parity)
        write_json(new / "metrics.json", exported.to_dict())
        write_sealed(new / "export.json", _description(clip, new, target.name, origin, written))
    return exported


def is_export(folder: Path) -> bool:
    """Whether `export` wrote this folder."""
    return (folder / "export.json").is_file()


def _refuse_paper_track(clip: QuantizedCLIP) -> None:
    for name, entry in clip.plan.items():
        per_tensor = all(args.strategy != "channel" and not args.symmetric for args in entry.inputs)
        if not per_tensor or (entry.weights is not None and not entry.weights.symmetric):
            raise SettingError(
                f"The artifact of {clip.name!r} holds {name} in a format of track 'paper', which no integer kernel "
                "computes; quantize with track='deployable'."
            )


def _description(clip: QuantizedCLIP, folder: Path, format: str, origin: str, written: Written) -> dict[str, Any]:
    text = clip.config.text
    return {
        "format_version": FORMAT_VERSION,
        "format": format,
        "d4c": __version__,
        "artifact": origin,
        "name": clip.name,
        "model": clip.recipe.get("model"),
        "scheme": clip.recipe.get("scheme"),
        "overrides": clip.recipe.get("overrides"),
        "loud_channels": clip.loud_channels(),
        **written.settings,
        "embed_dim": clip.config.embed_dim,
        "image_size": clip.image_size,
        "context_length": text.context_length,
        "eos_id": text.eos_id,
        "begin_id": clip.text.begin_id,
        "logit_scale": clip.logit_scale,
        "full_range": clip.recipe.get("full_range"),
        "saturating": saturating_layers(clip),
        "files": file_hashes(folder, sorted(file.name for file in folder.iterdir())),
    }

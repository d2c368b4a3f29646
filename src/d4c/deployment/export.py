"""`export`: writes a folder with everything that a runtime without torch needs.

files of the target (onnx: image.onnx, text.onnx), and where it looks for them
tokenizer.json, tokenizer_config.json, preprocessor_config.json   as in the artifact
export.json    format, origin, shapes, logit scale, and size and SHA-256 of each file
metrics.json   sizes, and the parity with PyTorch
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4c.deployment.saturating import saturating_layers
from d4c.deployment.target import ExportOptions, Parity, Written
from d4c.deployment.targets import DEFAULT_TARGET, find_target
from d4c.errors import SettingError, require
from d4c.models.inputs.reader_files import FILES as READER_FILES
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


@dataclass(frozen=True)
class Export:
    """A written export.

    Args:
        folder: Where it is.
        sizes: Bytes of each of the target's files, but for those that every export has.
        parity: Comparison with PyTorch by tower, and with the towers by file; None if the check was left out.
    """

    folder: Path
    sizes: dict[str, int]
    parity: dict[str, Parity] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form."""
        parity = None if self.parity is None else {name: result.to_dict() for name, result in self.parity.items()}
        return {"sizes": self.sizes, "parity": parity}


def export(
    artifact: str | Path,
    output: str | Path | None = None,
    *,
    target: str = DEFAULT_TARGET,
    unpacked: bool = False,
    check: bool = True,
    progress: Report = "auto",
) -> Export:
    """Write both towers of a deployable artifact so that runtimes execute them with integer kernels.

    Args:
        artifact: Folder that `save_pretrained` wrote.
        output: Folder to write, by default the artifact's name followed by "-" and the target's. It appears whole or
            not at all.
        target: What will read the folder: one of `d4c.deployment.targets.TARGETS`.
        unpacked: Store weights as int8 instead of in the bits of the scheme, which ONNX Runtime loads faster and
            with less memory (it keeps every step of unpacking 6-bit weights until it is done).
        check: Compare each layer and each block with PyTorch, see `d4c.deployment.onnx.parity`.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The folder, sizes and parity.

    Raises:
        ArtifactError: The artifact is damaged, `output` is occupied or the written files compute something else.
        SettingError: The target is unknown, a library is missing or the artifact is of track "paper".
    """
    chosen = find_target(target)
    for library, extra in chosen.libraries.items():
        require(library, extra, "An export needs")
    source = Path(artifact).resolve()
    folder = source.with_name(f"{source.name}-{chosen.name}") if output is None else Path(output)
    check_output(folder, KIND)
    clip = read_artifact(artifact)
    _refuse_paper_track(clip)
    if chosen.name != DEFAULT_TARGET and not clip.config.has_plain_towers:
        raise SettingError(
            f"{clip.name!r} is not a CLIP with towers of OpenAI's kind, which the files for {chosen.name} describe; "
            "export it as graphs for d4c's own runtime, without --for."
        )
    origin = sha256(source / WEIGHTS)
    with reporting(progress, f"export {chosen.name}") as report, output_folder(folder, KIND) as new:
        report(0, WHOLE)
        written = chosen.write(clip, new, ExportOptions(unpacked, check, origin, source), report)
        files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        sizes = {name: (new / name).stat().st_size for name in files if Path(name).name not in READER_FILES}
        exported = Export(folder, sizes, written.parity)
        write_json(new / "metrics.json", exported.to_dict())
        description = _description(clip, chosen.name, origin, written)
        files_and_metrics = sorted([*files, "metrics.json"])
        write_sealed(new / "export.json", {**description, "files": file_hashes(new, files_and_metrics)})
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


def _description(clip: QuantizedCLIP, format: str, origin: str, written: Written) -> dict[str, Any]:
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
        "vocab_size": text.vocab_size,
        "tokenizer": text.tokenizer,
        "every_position_counts": text.every_position_counts,
        "eos_id": text.eos_id,
        "begin_id": clip.text.begin_id,
        "logit_scale": clip.logit_scale,
        "logit_bias": clip.logit_bias,
        "full_range": clip.recipe.get("full_range"),
        "saturating": saturating_layers(clip),
    }

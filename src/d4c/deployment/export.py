"""`export`: writes a folder with everything that a runtime without torch needs.

files of the target (onnx: image.onnx, text.onnx, or the one of a tower alone), and where it looks for them
tokenizer.json, tokenizer_config.json, preprocessor_config.json   as in the artifact
export.json    format, origin, shapes, logit scale, and size and SHA-256 of each file
metrics.json   sizes, and the parity with PyTorch
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from d4c.deployment.saturating import saturating_layers
from d4c.deployment.target import ExportOptions, Family, Parity, Written
from d4c.deployment.targets import DEFAULT_TARGET, find_target
from d4c.errors import SettingError, require
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.formats.siglip.siglip_configs import is_siglip
from d4c.models.inputs.reader_files import FILES as READER_FILES
from d4c.models.inputs.reader_files import save_reader_files
from d4c.progress import WHOLE, Report, reporting
from d4c.quantization.artifact.folder import WEIGHTS
from d4c.quantization.artifact.read import read_artifact
from d4c.quantization.quantized import QuantizedCLIP
from d4c.reading.folder_kind import refuse_other_folders
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
    artifact: str | Path | CLIP,
    output: str | Path | None = None,
    *,
    target: str = DEFAULT_TARGET,
    tower: Literal["image", "text"] | None = None,
    features: bool = False,
    fixed_shapes: bool = False,
    narrow_table: bool = False,
    webgpu: bool = False,
    without_vnni: bool = False,
    half: bool = False,
    unpacked: bool = False,
    check: bool = True,
    progress: Report = "auto",
) -> Export:
    """Write the towers of a deployable artifact so that runtimes execute them with integer kernels.

    Args:
        artifact: Folder that `save_pretrained` wrote, or a float model to write as it is, to compare with.
        output: Folder to write, by default the artifact's name followed by "-" and the target's. It appears whole or
            not at all.
        target: What will read the folder: one of `d4c.deployment.targets.TARGETS`.
        tower: Write nothing but one tower.
        features: The states between blocks are outputs as well.
        fixed_shapes: One picture, or one prompt of full length, at a time, and no infinite numbers, as NPUs want it.
        narrow_table: Round the token table of an artifact to 4 bits, half of what it has there.
        webgpu: Also write graphs with the same 4-bit weights for GPUs in browsers, and activations in floating point.
        without_vnni: Write linear layers for OpenVINO as convolutions, which compute the same in half the time on
            processors without VNNI; see `d4c.runtime.openvino_convolutions`.
        half: Write a float model in float16 instead of float32.
        unpacked: Store weights as int8 instead of in the bits of the scheme, which ONNX Runtime loads faster and
            with less memory (it keeps every step of unpacking 6-bit weights until it is done).
        check: Compare each layer and each block with PyTorch, see `d4c.deployment.onnx.parity`.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The folder, sizes and parity.

    Raises:
        ArtifactError: The artifact is damaged, `output` is occupied or the written files compute something else.
        SettingError: The target is unknown or cannot do what is asked for, a library is missing, or the artifact is of
            track "paper".
    """
    is_float = isinstance(artifact, CLIP)
    options = ExportOptions(
        unpacked,
        check,
        tower,
        features,
        fixed_shapes,
        narrow_table,
        webgpu,
        without_vnni,
        half if is_float else None,
    )
    chosen = find_target(target, options)
    of_artifacts = {"--webgpu": webgpu, "--narrow-table": narrow_table, "--without-vnni": without_vnni}
    for word in (word for word, value in of_artifacts.items() if value and is_float):
        raise SettingError(f"A float model has no quantized weights for {word}; give an artifact or leave out {word}.")
    for library, extra in chosen.libraries.items():
        require(library, extra, "An export needs")
    folder = _default_output(artifact, chosen.name) if output is None else Path(output)
    check_output(folder, KIND)
    with reporting(progress, f"export {chosen.name}") as report, TemporaryDirectory() as scratch:
        clip, origin, readers = _opened(artifact, Path(scratch))
        if family(clip) not in chosen.families:
            raise SettingError(
                f"{clip.name!r} is not a {' or '.join(chosen.families)} with towers of the published kind, which the "
                f"files for {chosen.name} describe; export it for d4c's own runtime, without --for, or with --for "
                "graphs."
            )
        if tower is not None:
            clip.require((tower,), f"An export of the {tower} tower", "leave the tower out")
        with output_folder(folder, KIND) as new:
            report(0, WHOLE)
            written = chosen.write(clip, new, replace(options, origin=origin, readers=readers), report)
            files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
            sizes = {name: (new / name).stat().st_size for name in files if Path(name).name not in READER_FILES}
            exported = Export(folder, sizes, written.parity)
            write_json(new / "metrics.json", exported.to_dict())
            description = _description(clip, chosen.name, origin, written)
            files_and_metrics = sorted([*files, "metrics.json"])
            write_sealed(new / "export.json", {**description, "files": file_hashes(new, files_and_metrics)})
    return exported


def family(clip: CLIP) -> Family:
    """Return the kind of a model's towers."""
    return "CLIP" if clip.config.has_plain_towers else "SigLIP" if is_siglip(clip.config) else "other"


def _default_output(artifact: str | Path | CLIP, target: str) -> Path:
    if isinstance(artifact, CLIP):
        raise SettingError("A float model has no folder that an export could lie beside; give the folder to write.")
    source = Path(artifact).resolve()
    return source.with_name(f"{source.name}-{target}")


def _opened(artifact: str | Path | CLIP, scratch: Path) -> tuple[CLIP, str, Path]:
    """The model, the hash of its weights, and the folder with the files that say how prompts and pictures are read."""
    if isinstance(artifact, CLIP):
        save_reader_files(scratch, artifact.config, artifact.tokenizer)
        return artifact, model_hash(artifact), scratch
    refuse_other_folders(Path(artifact))
    clip = read_artifact(artifact)
    _refuse_paper_track(clip)
    source = Path(artifact)
    return clip, sha256(source / WEIGHTS), source


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


def _description(clip: CLIP, format: str, origin: str, written: Written) -> dict[str, Any]:
    text = clip.config.text
    recipe = clip.recipe if isinstance(clip, QuantizedCLIP) else {}
    return {
        "format_version": FORMAT_VERSION,
        "format": format,
        "d4c": __version__,
        "artifact": origin,
        "name": clip.name,
        "model": recipe.get("model"),
        "scheme": recipe.get("scheme"),
        "overrides": recipe.get("overrides"),
        "loud_channels": clip.loud_channels() if isinstance(clip, QuantizedCLIP) else {},
        **written.settings,
        "towers": list(clip.towers),
        "embed_dim": clip.config.embed_dim,
        "image_size": clip.config.image.image_size,
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "tokenizer": text.tokenizer,
        "pad_id": text.pad_id,
        "every_position_counts": text.every_position_counts,
        "eos_id": text.eos_id,
        "begin_id": clip.text.begin_id,
        "logit_scale": clip.logit_scale if clip.log_logit_scale is not None else None,
        "logit_bias": clip.logit_bias,
        "full_range": recipe.get("full_range"),
        "wide_class_token": recipe.get("wide_class_token"),
        "saturating": saturating_layers(clip),
    }

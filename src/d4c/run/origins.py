"""What tells a model and a dataset apart from others without loading them, so that a finished run answers at once."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from d4c.evaluation.load_dataset import READERS
from d4c.files import sha256
from d4c.manifest import fingerprint

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
DEMO = Path(str(files("d4c.models") / "demo"))


def model_origin(source: str, pretrained: str | None) -> str | None:
    """A fingerprint of the content of every file that `d4c.load` may read for a source.

    None where the files are known only after a download or a look-up in another library's catalog: then the weights
    have to be loaded to be told apart.
    """
    if source.startswith("hf-hub:") or pretrained is not None:
        return None
    path = Path(source)
    demo = DEMO / f"{source}.safetensors"
    if demo in DEMO.glob("*.safetensors"):
        read = [demo]
    elif path.is_file():
        read = [path, *sorted(path.parent.glob("*.json"))]
    elif path.is_dir():
        read = sorted(file for file in path.iterdir() if file.suffix in (".json", *WEIGHTS))
    else:
        return None
    return fingerprint([[file.name, sha256(file)] for file in read])


def data_origin(spec: str) -> str | None:
    """A fingerprint of a dataset: the content of a file, or name, size and time of each file in a folder."""
    kind, _, where = spec.partition(":")
    if kind not in READERS:
        return None
    path = Path(where).expanduser() if READERS[kind].takes_path else DEMO / "eval_fluent3d.parquet"
    if path.is_file():
        return sha256(path)
    entries = sorted((str(file.relative_to(path)), file.stat()) for file in path.rglob("*") if file.is_file())
    return fingerprint([[name, stat.st_size, stat.st_mtime_ns] for name, stat in entries])

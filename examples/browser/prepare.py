"""Make the static site: the page, the exported image tower, onnxruntime-web, and the labels' embeddings.

npm install --omit=dev
python prepare.py ARTIFACT-onnx --webgpu ARTIFACT-graphs --output site
python -m http.server --directory site
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from d4c.errors import D4CError, DataError
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.storage.outputs import check_output, output_folder
from d4c.templates import EMOJI_TEMPLATES, PHOTO_TEMPLATES
from d4c.zeroshot.classification import label_embeddings

KIND = "site"
HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "page.js", "model.js", "pixels.js")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU_RUNTIME = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
WEBGPU_GRAPH = "image_q4.onnx"
TEMPLATES = (*PHOTO_TEMPLATES, *EMOJI_TEMPLATES)


def prepare(export: Path, labels: list[str], runtime: Path, output: Path, webgpu: Path | None = None) -> None:
    """Write the site to `output`, whole or not at all; an earlier one is replaced.

    `runtime` is the folder with the files of onnxruntime-web, `webgpu` one with a graph for GPUs. Raises DataError if
    one of them lacks a file or there are no labels, ArtifactError if `output` holds something else.
    """
    needed = RUNTIME if webgpu is None else RUNTIME + WEBGPU_RUNTIME
    lacking = [name for name in needed if not (runtime / name).is_file()]
    if lacking:
        raise DataError(f"{runtime} lacks {lacking[0]}; run npm install --omit=dev in {HERE}.")
    if webgpu is not None and not (webgpu / WEBGPU_GRAPH).is_file():
        raise DataError(f"{webgpu} lacks {WEBGPU_GRAPH}; make it with d4c export --for graphs --webgpu.")
    check_output(output, KIND)
    model = RuntimeCLIP(export)
    texts = label_embeddings(labels, TEMPLATES, model.tokenize, model.encode_text)
    settings = {
        "name": model.name,
        "size": model.image_size,
        "mean": model.exported.mean,
        "std": model.exported.std,
        "logit_scale": model.logit_scale,
        "webgpu": webgpu is not None,
        "labels": labels,
        "texts": [[round(float(number), 6) for number in row] for row in texts],
    }
    with output_folder(output, KIND) as new:
        for name in PAGE:
            shutil.copyfile(HERE / name, new / name)
        shutil.copyfile(export / "image.onnx", new / "image.onnx")
        if webgpu is not None:
            shutil.copyfile(webgpu / WEBGPU_GRAPH, new / WEBGPU_GRAPH)
        (new / "ort").mkdir()
        for name in needed:
            shutil.copyfile(runtime / name, new / "ort" / name)
        (new / "model.json").write_text(json.dumps(settings), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="folder that d4c export wrote")
    parser.add_argument("--webgpu", type=Path, help="folder that d4c export --for graphs --webgpu wrote")
    parser.add_argument("--labels", type=Path, default=HERE / "labels.txt", help="names to choose from, one a line")
    parser.add_argument("--output", type=Path, default=HERE / "site", help="folder to write")
    given = parser.parse_args()
    labels = [line.strip() for line in given.labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        prepare(given.export, labels, HERE / "node_modules" / "onnxruntime-web" / "dist", given.output, given.webgpu)
    except D4CError as error:
        sys.exit(f"error: {error}")
    print(f"python -m http.server --directory {given.output}")


if __name__ == "__main__":
    main()

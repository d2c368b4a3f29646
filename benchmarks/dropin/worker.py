"""One model in one tool, in a process of its own: python worker.py TOOL FOLDER, in an environment that has the tool.

Commands are lines of JSON on stdin, each answered by one on stdout:

    {"do": "load", "pictures": [path], "prompts": [text]}    {"idle": MB, "load": MB}: resident before, peak after
    {"do": "image" or "text", "batch": N}                    {"seconds": s, "memory": MB}: of one call; peak after
    {"do": "answer"}                                         {"image": embeddings, "text": embeddings}

Inputs are prepared before the clock starts, but in fastembed, whose calls take files. Nothing of d4c is imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Tool(Protocol):
    """A loaded model; both take the first `count` of the pictures and prompts that it was made with."""

    def image(self, count: int) -> Callable[[], Any]: ...
    def text(self, count: int) -> Callable[[], Any]: ...


class Transformers:
    """A model of transformers' kind with one graph: each call embeds a picture or a prompt more than it is for."""

    def __init__(self, model: Any, folder: str, pictures: Sequence[str], prompts: Sequence[str]) -> None:
        import transformers
        from PIL import Image

        reader: Any = transformers.AutoProcessor
        self.model, self.prompts = model, prompts
        self.processor = reader.from_pretrained(folder)
        self.pictures = [Image.open(path) for path in pictures]

    def _call(self, pictures: int, prompts: int, output: str) -> Callable[[], Any]:
        images, texts = self.pictures[:pictures], list(self.prompts[:prompts])
        inputs = self.processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True)
        return lambda: getattr(self.model(**inputs), output).detach().numpy()

    def image(self, count: int) -> Callable[[], Any]:
        return self._call(count, 1, "image_embeds")

    def text(self, count: int) -> Callable[[], Any]:
        return self._call(1, count, "text_embeds")


def optimum(folder: str, pictures: Sequence[str], prompts: Sequence[str]) -> Tool:
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    return Transformers(ORTModelForZeroShotImageClassification.from_pretrained(folder), folder, pictures, prompts)


def openvino(folder: str, pictures: Sequence[str], prompts: Sequence[str]) -> Tool:
    from optimum.intel import OVModelForZeroShotImageClassification

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = OVModelForZeroShotImageClassification.from_pretrained(folder, ov_config=settings)
    return Transformers(model, folder, pictures, prompts)


class Fastembed:
    """Embeds files and texts; what it does to them first is part of each call."""

    def __init__(self, folder: str, pictures: Sequence[str], prompts: Sequence[str]) -> None:
        from fastembed import ImageEmbedding, TextEmbedding

        self.pictures, self.prompts = pictures, prompts
        self.images = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=f"{folder}/image")
        self.texts = TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path=f"{folder}/text")

    def image(self, count: int) -> Callable[[], Any]:
        return lambda: np.array(list(self.images.embed(list(self.pictures[:count]), batch_size=32)))

    def text(self, count: int) -> Callable[[], Any]:
        return lambda: np.array(list(self.texts.embed(list(self.prompts[:count]), batch_size=32)))


class Sessions:
    """Two graphs in ONNX Runtime, opened and fed as a program does that reads the files beside them."""

    def __init__(
        self,
        folder: str,
        pictures: Sequence[str],
        prompts: Sequence[str],
        options: Any = None,
        provider: str | tuple[str, dict[str, str]] = "CPUExecutionProvider",
    ) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        root = Path(folder)
        visual, textual = (("image", "text"), ("visual/model", "textual/model"))[(root / "visual").is_dir()]
        self.visual, self.textual = (
            onnxruntime.InferenceSession(root / f"{name}.onnx", options, providers=[provider])
            for name in (visual, textual)
        )
        self.size = self.visual.get_inputs()[0].shape[-1]
        length = self.textual.get_inputs()[0].shape[-1]
        self.fixed = isinstance(length, int)
        self.pictures = pictures
        tokenizer = Tokenizer.from_file(str((root / textual).parent / "tokenizer.json"))
        tokenizer.enable_padding(length=length if self.fixed else None, pad_id=49407, pad_token="<|endoftext|>")
        self.tokenizer, self.prompts = tokenizer, prompts

    def image(self, count: int) -> Callable[[], Any]:
        rows = np.stack([_pixels(path, self.size) for path in self.pictures[:count]])
        return self._call(self.visual, rows)

    def text(self, count: int) -> Callable[[], Any]:
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(self.prompts[:count]))]
        return self._call(self.textual, np.array(rows, np.int32 if self.fixed else np.int64))

    def _call(self, session: Any, rows: Any) -> Callable[[], Any]:
        name = session.get_inputs()[0].name
        if not self.fixed:
            return lambda: session.run(None, {name: rows})[0]
        return lambda: np.concatenate([session.run(None, {name: row[None]})[0] for row in rows])


def immich(folder: str, pictures: Sequence[str], prompts: Sequence[str]) -> Tool:
    """As its machine learning opens sessions on a CPU since 2.7; shapes are fixed to one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads, options.intra_op_num_threads = 1, 2
    provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
    return Sessions(folder, pictures, prompts, options, provider)


MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def _pixels(path: str, size: int) -> Any:
    """The pixels of a square RGB picture."""
    from PIL import Image

    with Image.open(path) as picture:
        resized = picture.resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(resized, np.float32) / 255
    return ((values - MEAN) / STD).transpose(2, 0, 1)


TOOLS: dict[str, Callable[[str, Sequence[str], Sequence[str]], Tool]] = {
    "optimum": optimum,
    "openvino": openvino,
    "fastembed": Fastembed,
    "immich": immich,
    "graphs": Sessions,
}


def memory(field: str) -> float:
    """Megabytes of this process: VmRSS, what it holds, or VmHWM, the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024 / 1e6


def imported(tool: str) -> None:
    """Import what a tool is made of, so that memory afterwards is the model's."""
    modules = {"optimum": "optimum.onnxruntime", "openvino": "optimum.intel", "fastembed": "fastembed"}
    __import__(modules.get(tool, "onnxruntime"))
    if tool in ("optimum", "openvino"):
        import transformers

        _ = transformers.AutoProcessor


def main() -> None:
    name, folder = sys.argv[1:]
    stdout = sys.stdout
    tool: Any = None
    pictures: list[str] = []
    prompts: list[str] = []
    for line in sys.stdin:
        command = json.loads(line)
        with redirect_stdout(sys.stderr):
            match command["do"]:
                case "load":
                    pictures, prompts = command["pictures"], command["prompts"]
                    imported(name)
                    idle = memory("VmRSS")
                    tool = TOOLS[name](folder, pictures, prompts)
                    answer: dict[str, Any] = {"idle": idle, "load": memory("VmHWM")}
                case "answer":
                    answer = {"image": tool.image(len(pictures))().tolist(), "text": tool.text(len(prompts))().tolist()}
                case part:
                    run = getattr(tool, part)(command["batch"])
                    started = time.perf_counter()
                    run()
                    seconds = time.perf_counter() - started
                    answer = {"seconds": seconds, "held": memory("VmRSS"), "peak": memory("VmHWM")}
        print(json.dumps(answer), file=stdout, flush=True)


if __name__ == "__main__":
    main()

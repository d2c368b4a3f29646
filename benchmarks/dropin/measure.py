"""Bytes, memory, time and agreement of d4c's files in the tools that they are for, beside what loads there today.

    make tools
    python -m benchmarks.dropin.measure --part speed
    python -m benchmarks.dropin.measure --part agreement

The tools' own default files cannot be downloaded here, so the float model is d4c's in the same layout (`--float32`),
and the int8 of others is made of it on the spot (see `layouts.py`).

Speed: ViT-B/32 in full size with random weights, since bytes, memory and time depend on shapes alone. Each form of the
model is loaded by the tool in a process of its own; then the processes get calls in turn, in alternating order. Time is
the median over rounds of the ratio to float32 in the same round, of calls that follow one of the same form. Memory is
of the process, less what it held with the tool imported and no model: the most while it loaded, and what it holds after
calls of one picture and of one prompt. Tools with one graph for both towers embed one prompt beside pictures, and one
picture beside prompts. fastembed's calls read files.
Agreement: demo models, pictures of the emoji pack and a prompt for each name; the share whose nearest prompt is that of
float32 in the same tool. Results are merged into `--out`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.common import records
from benchmarks.common.arguments import argument_parser, require_names, words
from benchmarks.common.models import make_clip
from benchmarks.common.rows import Row, read_report, write_report
from benchmarks.dropin.layouts import FLOAT, TOOLS, Calibration, artifacts, layouts, model_bytes
from benchmarks.dropin.table import page
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.pictures import as_rgb
from d4c.zeroshot.classification import unit_rows

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = ROOT / "build" / "dropin" / "bin" / "python"
NODE_MODULES = ROOT / "tests" / "deployment" / "layouts" / "node" / "node_modules"
CALLS = (("image", 1), ("image", 32), ("text", 1))
PROMPT = "a {} icon"
LARGE = 5
"""Rounds of one input for each round of 32."""
SPEED_MODEL = "ViT-B-32"
FEW = Calibration(4, 16, "none")
"""Where only shapes count, any ranges will do."""
ENOUGH = Calibration(32, 64, "gptq")
AGREEMENT_MODELS = ("demo-vit", "demo-rn")


class Worker:
    """A process that has loaded a model in a tool; what it is told and answers are lines of JSON."""

    def __init__(self, command: Sequence[str], complaints: IO[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        self.command, self.complaints = command, complaints

    def __call__(self, **command: Any) -> Row:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.complaints.seek(0)
            raise RuntimeError(f"{' '.join(self.command)} ended: {self.complaints.read()[-2000:]}")
        answer: Row = json.loads(line)
        return answer


@contextmanager
def working(tool: str, folder: Path) -> Iterator[Worker]:
    """A worker until the block ends."""
    if tool == "transformers.js":
        command = ["node", str(HERE / "worker.mjs"), str(folder), str(NODE_MODULES)]
    else:
        command = [str(PYTHON), str(HERE / "worker.py"), tool, str(folder)]
    with tempfile.TemporaryFile("w+") as complaints:
        worker = Worker(command, complaints)
        with worker.process as process:
            yield worker
            assert process.stdin is not None
            process.stdin.close()


def save_pack(folder: Path, size: int) -> tuple[list[str], list[str]]:
    """Square RGB pictures of the emoji pack as files, and a prompt for each."""
    data = demo_dataset()
    folder.mkdir()
    paths = []
    for i in range(len(data)):
        path = folder / f"{i}.png"
        as_rgb(data.picture(i)).resize((size, size)).save(path)
        paths.append(str(path))
    return paths, [PROMPT.format(name.lower()) for name in data.classes]


def measure_speed(
    tool: str, folders: Mapping[str, Path], pictures: Sequence[str], prompts: Sequence[str], rounds: int
) -> list[Row]:
    """The figures of each form in a tool."""
    with ExitStack() as stack:
        workers = {form: stack.enter_context(working(tool, folder)) for form, folder in folders.items()}
        rows: dict[str, Row] = {}
        for form, worker in workers.items():
            loaded = worker(do="load", pictures=pictures[:32], prompts=prompts[:1])
            worker(do="image", batch=1)
            held = worker(do="text", batch=1)["held"]
            memory = {"load": loaded["load"] - loaded["idle"], "use": held - loaded["idle"], "idle": loaded["idle"]}
            rows[form] = {"form": form, "bytes": model_bytes(folders[form]), "memory": memory}
        for part, batch in CALLS:
            seconds = in_turn(workers, part, batch, rounds if batch == 1 else max(1, rounds // LARGE))
            for form, times in seconds.items():
                rows[form][f"{part}, batch {batch}"] = ratio(times, seconds[FLOAT])
            print(f"  {part} {batch}: {[rows[form][f'{part}, batch {batch}']['median'] for form in rows]}", flush=True)
    return list(rows.values())


def in_turn(workers: Mapping[str, Worker], part: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each worker in each round, in the second of two calls: the first fills the caches that others took."""
    seconds: dict[str, list[float]] = {form: [] for form in workers}
    for i in range(rounds):
        for form in list(workers)[:: 1 if i % 2 == 0 else -1]:
            workers[form](do=part, batch=batch)
            seconds[form].append(workers[form](do=part, batch=batch)["seconds"])
    return seconds


def ratio(times: Sequence[float], reference: Sequence[float]) -> Row:
    rounds = [one / other for one, other in zip(times, reference, strict=True)]
    low, high = np.percentile(rounds, [25, 75])
    return {"median": statistics.median(rounds), "quartiles": [float(low), float(high)], "fastest": min(times)}


def measure_agreement(
    tool: str, folders: Mapping[str, Path], pictures: Sequence[str], prompts: Sequence[str]
) -> list[Row]:
    """Pictures whose class is that of float32 in the same tool."""
    classes = {}
    for form, folder in folders.items():
        with working(tool, folder) as worker:
            worker(do="load", pictures=pictures, prompts=prompts)
            answer = worker(do="answer")
        image, text = (unit_rows(np.array(answer[part], np.float32)) for part in ("image", "text"))
        classes[form] = (image @ text.T).argmax(-1)
    truth = np.arange(len(pictures))
    return [
        {
            "form": form,
            "same_class": float(100 * (rows == classes[FLOAT]).mean()),
            "top1": float(100 * (rows == truth).mean()),
        }
        for form, rows in classes.items()
    ]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--part", choices=("speed", "agreement"), required=True)
    parser.add_argument("--tools", type=words, default=list(TOOLS), help=", ".join(TOOLS))
    parser.add_argument("--agreement-models", type=words, default=list(AGREEMENT_MODELS))
    parser.add_argument("--rounds", type=int, default=15, help=f"of calls with one input; a {LARGE}th with 32")
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps the quantized models and their exports for the next call"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "dropin.json")
    args = parser.parse_args()
    require_names(parser, "tool", args.tools, TOOLS)
    if not PYTHON.exists() or not NODE_MODULES.is_dir():
        parser.error("The tools are not installed; run make tools.")
    speed = args.part == "speed"
    with tempfile.TemporaryDirectory() as scratch:
        for model in [SPEED_MODEL] if speed else args.agreement_models:
            clip = make_clip(model, "cpu", 0)
            folder = (args.cache or Path(scratch)) / f"{model}-{args.part}"
            pictures, prompts = save_pack(Path(scratch) / model, clip.image_size)
            made = artifacts(clip, folder, FEW if speed else ENOUGH)
            for tool in args.tools:
                print(f"{model} in {tool}", file=sys.stderr, flush=True)
                folders = layouts(tool, clip, made, folder / tool)
                if speed:
                    rows = measure_speed(tool, folders, pictures, prompts, args.rounds)
                else:
                    rows = measure_agreement(tool, folders, pictures, prompts)
                cell = {"model": model, "setup": setup(tool), "rows": rows}
                report = read_report(args.out, {"speed": {}, "agreement": {}})
                report[args.part][tool if speed else f"{tool}, {model}"] = cell
                write_report(args.out, report, page)


def setup(tool: str) -> Row:
    """What the figures of a tool depend on."""
    versions = records.setup("cpu", "onnxruntime", "openvino", "numpy")
    command = records.command("dropin.measure")
    return versions | {
        "instructions": records.instructions(),
        "seed": 0,
        "command": command,
        "tool": tool_version(tool),
    }


def tool_version(tool: str) -> str:
    """The package and version of a tool in the environment that it runs in."""
    if tool == "transformers.js":
        package = json.loads((NODE_MODULES / "@huggingface" / "transformers" / "package.json").read_text())
        return f"{tool} {package['version']}"
    name = {"optimum": "optimum-onnx", "openvino": "optimum-intel"}.get(tool, tool)
    name = "onnxruntime" if tool in ("immich", "graphs") else name
    code = f"from importlib.metadata import version; print('{name}', version('{name}'))"
    return subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

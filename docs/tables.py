"""The tables of README.md and of the pages, made from the committed results.

A table stands between the comments `<!-- table: NAME -->` and `<!-- end -->`. `python docs/tables.py` writes all of
them anew; a test fails while one differs from the results.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
PAGES = [ROOT / "README.md", *sorted(Path(__file__).parent.glob("*.md"))]
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
BENCH_MODELS = ("bench-vit", "bench-rn")
FORM_KEYS = ("model", "scheme", "reconstruction", "label", "sigma")
BENCH_DATA = ("tiny-imagenet-val", "cifar10-test")
PUBLISHED_ITERATIONS = 3000
SCHEMES = ("W8A8", "W4A8", "W6A6", "W4A4")
PEERS = {
    "float32": ("ONNX Runtime", "float32"),
    "**d4c W4A8**": ("ONNX Runtime", "d4c W4A8, GPTQ"),
    "**d4c W8A8**": ("ONNX Runtime", "d4c W8A8"),
    "**d4c W8A8** in OpenVINO": ("OpenVINO", "d4c W8A8"),
    "ONNX Runtime's dynamic int8": ("ONNX Runtime", "dynamic int8"),
    "ONNX Runtime's static int8": ("ONNX Runtime", "static int8 (QDQ)"),
    "OpenVINO's NNCF, static int8": ("OpenVINO", "NNCF int8"),
    "torchao in PyTorch, dynamic int8": ("PyTorch", "torchao dynamic int8"),
}
TIMED_TOWERS = ("ViT-B/32 image", "RN50 image", "ViT-B/32 text")
TIMED_FORMS = ("float32", "d4c W8A8", "d4c W4A8")
TIMED_HEADS = ("MB", "RAM: load", "RAM: use", "VNNI: 1", "32", "without: 1", "32", "1 thread: 1", "32")
DROPIN = {
    "transformers.js": "transformers.js in Node",
    "graphs": "ONNX Runtime",
    "optimum": "optimum-onnx",
    "fastembed": "fastembed",
    "openvino": "optimum-intel",
    "immich": "immich's steps",
}
DROPIN_MODEL = "demo-vit"
DROPIN_CALLS = ("image, batch 1", "image, batch 32", "text, batch 1")
DROPIN_HEADS = ("MB", "RAM: load", "RAM: use", "picture", "32 pictures", "prompt", "same class %")
PEER_COLUMNS = ("MB", "time", "top-1 %", "same class %")


def peers() -> str:
    """Size, time at batch 1 and fidelity of image towers beside what one would use instead."""
    cells = _read("runtime", "runtime")
    towers = ("ViT-B/32", "RN50")
    heads = [f"{tower}: {what}" if what == "MB" else what for tower in towers for what in PEER_COLUMNS]
    rows = []
    for label, (runtime, candidate) in PEERS.items():
        row = [label]
        for tower in towers:
            # Learned rounding changes the weights' values, neither the size of a graph nor its speed.
            timed = _find(cells[f"{tower} image, batch 1"]["rows"], runtime, candidate.removesuffix(", GPTQ"))
            metrics = _find(cells[f"{tower} image, fidelity"]["rows"], runtime, candidate)["metrics"]
            row += [
                f"{timed['bytes'] / 1e6:.0f}",
                f"{timed['to_onnxruntime_float']['median']:.2f}",
                f"{metrics['top1']['value']:.1f}",
                f"{metrics['fidelity']['same_class']['value']:.0f}",
            ]
        rows.append(row)
    return _markdown(["", *heads], rows)


def processors() -> str:
    """Towers in both runtimes with VNNI and without: memory, and time at batch 1 and 32 on two threads and on one."""
    with_vnni, without = _read("runtime", "runtime"), _read("runtime", "without_vnni")
    rows = []
    for tower, runtime, form in itertools.product(TIMED_TOWERS, ("ONNX Runtime", "OpenVINO"), TIMED_FORMS):
        without_form = f"{form} as convolutions" if runtime == "OpenVINO" and form != "float32" else form
        memory = _find(without[f"{tower}, memory"]["rows"], runtime, without_form)["memory"]
        times = [_find(with_vnni[f"{tower}, batch {batch}"]["rows"], runtime, form) for batch in (1, 32)]
        times += [
            _find(without[f"{tower}, batch {batch}{on}"]["rows"], runtime, without_form)
            for on in ("", " on 1 thread")
            for batch in (1, 32)
        ]
        rows.append(
            [
                f"{tower}, {runtime}",
                form if form == "float32" else f"**{form}**",
                f"{times[-1]['bytes'] / 1e6:.0f}",
                *(f"{memory[what]:.0f}" for what in ("load", "use")),
                *(f"{row['to_onnxruntime_float']['median']:.2f}" for row in times),
            ]
        )
    return _markdown(["", "", *TIMED_HEADS], rows)


def dropin() -> str:
    """Both towers in each tool: bytes, memory, time at batch 1 and 32, and agreement with float32."""
    return _markdown(["", "", *DROPIN_HEADS], [row for tool in DROPIN for row in _dropin_rows(tool)])


def dropin_small() -> str:
    """The same in the first tool alone."""
    rows = [row[1:] for row in _dropin_rows("transformers.js")]
    return _markdown(["ViT-B/32 in transformers.js", *DROPIN_HEADS], rows)


def _dropin_rows(tool: str) -> list[list[str]]:
    report = _read("dropin", "dropin")
    same = {row["form"]: row["same_class"] for row in report["agreement"][f"{tool}, {DROPIN_MODEL}"]["rows"]}
    return [
        [
            DROPIN[tool],
            f"**d4c {row['form']}**" if row["form"].startswith(SCHEMES) else row["form"],
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['memory']['load']:.0f}",
            f"{row['memory']['use']:.0f}",
            *(f"{row[call]['median']:.2f}" for call in DROPIN_CALLS if call in row),
            f"{same[row['form']]:.0f}",
        ]
        for row in report["speed"].get(tool, {"rows": []})["rows"]
    ]


def calibration() -> str:
    """Top-1 by scheme and calibration images, with blocks learned."""
    methods = {"noise": "noise", "d4c": "D4C", "real": "photographs"}
    rows = [
        [f"{model}, {scheme}", *(_top1(model, scheme, "block", method) for method in methods)]
        for model in BENCH_MODELS
        for scheme in SCHEMES
    ]
    return _markdown(["", *methods.values()], _with_float(rows))


def reconstructions() -> str:
    """Top-1 by scheme and reconstruction, with D4C images, by the newest code that the forms were measured with."""
    measured = _lines("forms", "forms")
    kinds = {"none": "ranges only", "gptq": "GPTQ", "block": "block"}
    code = measured[-1]["label"]
    rows = [
        [f"{model}, {scheme}", *(_form(measured, (model, scheme, kind, code, 0.0)) for kind in kinds)]
        for model in BENCH_MODELS
        for scheme in SCHEMES
    ]
    return _markdown(["", *kinds.values()], _with_float(rows))


def forms() -> str:
    """Top-1 of the even form and of one with sigma 1, by the code before there was a canonical form and with it."""
    measured = _lines("forms", "forms")
    codes = list(dict.fromkeys(row["label"] for row in measured))
    columns = [(code, sigma) for code in (codes[0], codes[-1]) for sigma in (0.0, 1.0)]
    heads = ["before: as trained", "before: rewritten", "now: as trained", "now: rewritten"]
    kinds = {"gptq": "GPTQ", "block": "block"}
    rows = []
    for model, scheme, kind in itertools.product(BENCH_MODELS, SCHEMES, kinds):
        cells = (_form(measured, (model, scheme, kind, *column)) for column in columns)
        rows.append([f"{model}, {scheme}, {kinds[kind]}", *cells])
    return _markdown(["", *heads], rows)


def _form(measured: list[dict[str, Any]], key: tuple[object, ...]) -> str:
    cells = [row for row in measured if tuple(row[name] for name in FORM_KEYS) == key]
    return " / ".join(f"{mean(cell['results'][data]['top1']['both'] for cell in cells):.1f}" for data in BENCH_DATA)


def siglip() -> str:
    """Points of top-1 that both towers of the small SigLIP and of bench-vit lose, on the set that loses more."""
    methods = {"noise": "noise", "leaves": "dead leaves", "d4c": "D4C"}
    methods |= {"d4c-sigmoid": "D4C, sigmoid", "real": "photographs"}
    goals = dict(zip(SCHEMES, (0.2, 0.7, 0.7, 5.0), strict=True))
    kinds = {"gptq": "GPTQ", "block": "block"}
    measured = _lines("siglip", "siglip")
    rows = []
    for model, kind, scheme in itertools.product(("small-siglip", "bench-vit"), kinds, SCHEMES):
        row = [f"{model}, {scheme}, {kinds[kind]}", f"{goals[scheme]:.1f}"]
        for method in methods:
            cell = {"model": model, "scheme": scheme, "reconstruction": kind, "method": method}
            results = [line["results"] for line in measured if line | cell == line]
            losses = [[r[data]["float_top1"] - r[data]["top1"]["both"] for r in results] for data in BENCH_DATA]
            row.append(f"{max(map(mean, losses)):.2f}" if results else "")
        rows.append(row)
    return _markdown(["", "goal", *methods.values()], rows)


def demo() -> str:
    """What `make demo` printed on one machine."""
    rows = []
    for row in _read("demo_run", "demo_run")["rows"]:
        close = row.get("fidelity")
        same = "" if close is None else f"{close['same_class']['value']:.0f}"
        cosine = "" if close is None else f"{close['cosine']:.3f}"
        name = row["name"] if row["scheme"] is None else f"{row['scheme']}, {row['name']}"
        rows.append([name, f"{row['bytes'] / 1e6:.1f}", _interval(row["top1"]), same, cosine])
    return _markdown(["", "MB", "top-1 %", "same class as float %", "cosine to float"], rows)


def synthesis_time() -> str:
    """Seconds of a published synthesis on one GPU, beside the authors' loop."""
    rows = []
    for name in ("h200", "vit_l_14"):
        for row in _read("synthesis", name)["rows"]:
            times = [row["ours"], row["reference"] or {}]
            seconds = [
                f"{PUBLISHED_ITERATIONS * time['seconds'] + time.get('setup', 0):.0f}" if time else "" for time in times
            ]
            rows.append([row["model"], *seconds])
    return _markdown(["", "d4c, bf16: s", "the authors' code, float32: s"], rows)


def quantization_time() -> str:
    """Seconds and memory of quantizing both towers of a full-size model on one GPU."""
    kinds = {"none": "ranges only", "gptq": "GPTQ", "block": "block"}
    rows = []
    for row in _quantization("time"):
        repeat = row["repeats"][0]
        label = f"{row['model']}, {row['scheme']}, {kinds[row['reconstruction']]}"
        rows.append([label, f"{repeat['seconds']:.0f}", f"{repeat['memory_gib']:.1f}"])
    return _markdown(["", "s", "GiB of GPU memory"], rows)


def siglip_time() -> str:
    """Seconds and memory of each stage for SigLIPs of published sizes on one GPU."""
    stages = ("synthesis", "quantization, GPTQ", "quantization, blocks", "packing", "export")
    measured = _lines("siglip", "full_size")
    rows = []
    for model in dict.fromkeys(line["model"] for line in measured):
        lines = {line["stage"]: line for line in measured if line["model"] == model}
        row = [model]
        for line in (lines.get(stage) for stage in stages):
            seconds = line and line.get("extrapolated_seconds", line["seconds"])
            row.append(f"{seconds:.0f} ({line['memory_gib']:.0f})" if line else "")
        rows.append([*row, f"{lines['export']['bytes'] / 1e6:.0f}" if "export" in lines else ""])
    return _markdown(["s (GiB of GPU memory)", *stages, "export: MB"], rows)


def gpu_runtime() -> str:
    """Images per second of an image tower on one GPU."""
    candidates = ("bf16, torch.compile", "d4c W8A8", "d4c W4A8")
    rows = []
    for model in (model for run in _read("gpu_runtime", "gpu_runtime")["runs"] for model in run["models"]):
        found = {row["candidate"]: row for row in model["rows"]}
        speeds = [found[name] for name in candidates]
        rows.append([f"{model['model']}, images per second"])
        rows[-1] += [f"{row['images_a_second']:,.0f} ({row['times_bf16']:.2f} ×)" for row in speeds]
        rows.append([f"{model['model']}, MB (float32: {model['float32_bytes'] / 1e6:,.0f})"])
        rows[-1] += [f"{row['bytes'] / 1e6:.0f}" for row in speeds]
    return _markdown(["image tower, batch 256", *candidates], rows)


def text_tower() -> str:
    """Error and kept classes of a text tower with and without spikes, by placement, at 8 bits."""
    names = {
        "per tensor, min-max": "one scale per tensor, min-max",
        "RepQ-ViT, min-max": "RepQ-ViT's placement, min-max",
        "RepQ-ViT, MSE": "RepQ-ViT's placement, MSE",
        "D4C, min-max": "the D4C paper's placement, min-max",
        "D4C, MSE": "the D4C paper's placement, MSE",
        "ours": "**d4c**",
    }
    cells = [row for row in _read("text_tower", "spikes")["spikes"]["rows"] if row["scheme"] == "W8A8"]
    rows = []
    for placement, label in names.items():
        rows.append([label])
        for form in ("plain", "spiked"):
            seeds = [row for row in cells if (row["placement"], row["form"]) == (placement, form)]
            rows[-1] += [f"{mean(1000 * (1 - row['cosine']) for row in seeds):.2f}"]
            rows[-1] += [f"{mean(row['same_class'] for row in seeds):.1f}"]
    return _markdown(["W8A8", "demo-vit: error", "same class %", "with spikes: error", "same class %"], rows)


def datasets() -> str:
    """What `--dataset` takes."""
    from d4c.evaluation.load_dataset import READERS

    return _markdown(["spec", "what it reads"], [[f"`{r.form}`", _plain(r.summary)] for r in READERS.values()])


def methods() -> str:
    """What `--method` takes."""
    from d4c.synthesis.methods.table import METHODS

    return _markdown(["method", "what it makes"], [[f"`{m.name}`", _plain(m.summary)] for m in METHODS.values()])


FAMILIES = {
    "OpenAI's ResNets": r"RN\d.*",
    "CLIPA": r".*CLIPA.*",
    "SigLIP": r"ViT-.*-SigLIP(-.*)?",
    "SigLIP 2": r"ViT-.*-SigLIP2(-.*)?",
    "MetaCLIP 2": r".*-worldwide.*",
    "ViTs of OpenAI, LAION and DataComp": r"ViT-.*",
    "MobileCLIP": r"MobileCLIP.*",
    "Perception Encoder": r"PE-Core.*",
    "EVA": r"EVA.*",
    "ViTamin": r"ViTamin.*",
    "ConvNeXt": r"convnext.*",
    "CoCa": r"coca.*",
    "text towers of Hugging Face": r"(xlm-)?roberta.*|mt5.*|nllb.*",
    "others": r".*",
}
"""Patterns of the names that open_clip gives to its configurations; the first that matches counts."""


def zoo() -> str:
    """Which configurations of open_clip load, by family."""
    families: dict[str, list[dict[str, Any]]] = {label: [] for label in FAMILIES}
    for row in _read("zoo", "zoo")["rows"]:
        families[next(label for label, names in FAMILIES.items() if re.fullmatch(names, row["name"]))].append(row)
    rows = []
    for label, members in families.items():
        refused = [row for row in members if row["refusal"]]
        reasons = "; ".join(dict.fromkeys(map(_obstacle, refused)))
        rows.append([label, f"{len(members) - len(refused)} of {len(members)}", reasons])
    return _markdown(["family", "loads", "in the way"], rows)


def _obstacle(row: dict[str, Any]) -> str:
    """What keeps a configuration from being loaded, in a few words."""
    if row["decoder"]:
        return "a decoder and its pooling"
    if row["text"]:
        return "the text tower"
    if row["image"]:
        return "the image tower of timm"
    setting = re.search(r" has (\w+) = ", row["refusal"])
    return f"`{setting[1]}`" if setting else str(row["refusal"])


TABLES: dict[str, Callable[[], str]] = {
    "peers": peers,
    "processors": processors,
    "dropin": dropin,
    "dropin_small": dropin_small,
    "calibration": calibration,
    "reconstructions": reconstructions,
    "demo": demo,
    "forms": forms,
    "siglip": siglip,
    "synthesis_time": synthesis_time,
    "quantization_time": quantization_time,
    "siglip_time": siglip_time,
    "gpu_runtime": gpu_runtime,
    "text_tower": text_tower,
    "datasets": datasets,
    "methods": methods,
    "zoo": zoo,
}


def filled(text: str) -> str:
    """The text with every table as the results have it today."""
    return TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def _find(rows: Sequence[dict[str, Any]], runtime: str, candidate: str) -> dict[str, Any]:
    return next(row for row in rows if (row["runtime"], row["candidate"]) == (runtime, candidate))


def _read(topic: str, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((BENCHMARKS / topic / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _lines(topic: str, name: str) -> list[dict[str, Any]]:
    lines = (BENCHMARKS / topic / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _quantization(part: str) -> list[dict[str, Any]]:
    return [row for row in _lines("quantization", "quantization") if row["part"] == part]


def _top1(model: str, scheme: str, reconstruction: str, method: str) -> str:
    cell = {"model": model, "scheme": scheme, "reconstruction": reconstruction, "method": method}
    cells = [row for row in _quantization("accuracy") if row | cell == row]
    return " / ".join(f"{mean(row['results'][data]['top1']['value'] for row in cells):.1f}" for data in BENCH_DATA)


def _with_float(rows: list[list[str]]) -> list[list[str]]:
    """The rows, each model's float accuracy in front of its own."""
    lines: list[list[str]] = []
    for row in rows:
        model = row[0].partition(",")[0]
        label = f"{model}, float"
        if all(line[0] != label for line in lines):
            results = next(cell["results"] for cell in _quantization("accuracy") if cell["model"] == model)
            lines.append([label, " / ".join(f"{results[data]['float_top1']:.1f}" for data in BENCH_DATA)])
            lines[-1] += [""] * (len(row) - 2)
        lines.append(row)
    return lines


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.1f} ({value['low']:.0f} to {value['high']:.0f})"


def _plain(text: str) -> str:
    """Text whose angle brackets and asterisks mean themselves."""
    return text.replace("<", "&lt;").replace("*", r"\*")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    figures = [all(row[i][:1].isdigit() or not row[i] for row in rows) for i in range(len(heads))]
    lines = [heads, ["---:" if right else "---" for right in figures], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")

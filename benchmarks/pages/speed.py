"""Tables of sizes, times and memory, beside other tools and of each stage."""

from __future__ import annotations

import itertools

from benchmarks.pages.accuracy import SCHEMES
from benchmarks.pages.results import find, markdown, quantization_rows, read_lines, read_result

PUBLISHED_ITERATIONS = 3000
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
    cells = read_result("runtime", "runtime")
    towers = ("ViT-B/32", "RN50")
    heads = [f"{tower}: {what}" if what == "MB" else what for tower in towers for what in PEER_COLUMNS]
    rows = []
    for label, (runtime, candidate) in PEERS.items():
        row = [label]
        for tower in towers:
            # Learned rounding changes the weights' values, neither the size of a graph nor its speed.
            timed = find(cells[f"{tower} image, batch 1"]["rows"], runtime, candidate.removesuffix(", GPTQ"))
            metrics = find(cells[f"{tower} image, fidelity"]["rows"], runtime, candidate)["metrics"]
            row += [
                f"{timed['bytes'] / 1e6:.0f}",
                f"{timed['to_onnxruntime_float']['median']:.2f}",
                f"{metrics['top1']['value']:.1f}",
                f"{metrics['fidelity']['same_class']['value']:.0f}",
            ]
        rows.append(row)
    return markdown(["", *heads], rows)


def processors() -> str:
    """Towers in both runtimes with VNNI and without: memory, and time at batch 1 and 32 on two threads and on one."""
    with_vnni, without = read_result("runtime", "runtime"), read_result("runtime", "without_vnni")
    rows = []
    for tower, runtime, form in itertools.product(TIMED_TOWERS, ("ONNX Runtime", "OpenVINO"), TIMED_FORMS):
        without_form = f"{form} as convolutions" if runtime == "OpenVINO" and form != "float32" else form
        memory = find(without[f"{tower}, memory"]["rows"], runtime, without_form)["memory"]
        times = [find(with_vnni[f"{tower}, batch {batch}"]["rows"], runtime, form) for batch in (1, 32)]
        times += [
            find(without[f"{tower}, batch {batch}{on}"]["rows"], runtime, without_form)
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
    return markdown(["", "", *TIMED_HEADS], rows)


def dropin() -> str:
    """Both towers in each tool: bytes, memory, time at batch 1 and 32, and agreement with float32."""
    return markdown(["", "", *DROPIN_HEADS], [row for tool in DROPIN for row in _dropin_rows(tool)])


def dropin_small() -> str:
    """The same in the first tool alone."""
    rows = [row[1:] for row in _dropin_rows("transformers.js")]
    return markdown(["ViT-B/32 in transformers.js", *DROPIN_HEADS], rows)


def _dropin_rows(tool: str) -> list[list[str]]:
    report = read_result("dropin", "dropin")
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


def synthesis_time() -> str:
    """Seconds of a published synthesis on one GPU, beside the authors' loop."""
    rows = []
    for name in ("h200", "vit_l_14"):
        for row in read_result("synthesis", name)["rows"]:
            times = [row["ours"], row["reference"] or {}]
            seconds = [
                f"{PUBLISHED_ITERATIONS * time['seconds'] + time.get('setup', 0):.0f}" if time else "" for time in times
            ]
            rows.append([row["model"], *seconds])
    return markdown(["", "d4c, bf16: s", "the authors' code, float32: s"], rows)


def quantization_time() -> str:
    """Seconds and memory of quantizing both towers of a full-size model on one GPU."""
    kinds = {"none": "ranges only", "gptq": "GPTQ", "block": "block"}
    rows = []
    for row in quantization_rows("time"):
        repeat = row["repeats"][0]
        label = f"{row['model']}, {row['scheme']}, {kinds[row['reconstruction']]}"
        rows.append([label, f"{repeat['seconds']:.0f}", f"{repeat['memory_gib']:.1f}"])
    return markdown(["", "s", "GiB of GPU memory"], rows)


def siglip_time() -> str:
    """Seconds and memory of each stage for SigLIPs of published sizes on one GPU."""
    stages = ("synthesis", "quantization, GPTQ", "quantization, blocks", "packing", "export")
    measured = read_lines("siglip", "full_size")
    rows = []
    for model in dict.fromkeys(line["model"] for line in measured):
        lines = {line["stage"]: line for line in measured if line["model"] == model}
        row = [model]
        for line in (lines.get(stage) for stage in stages):
            seconds = line and line.get("extrapolated_seconds", line["seconds"])
            row.append(f"{seconds:.0f} ({line['memory_gib']:.0f})" if line else "")
        rows.append([*row, f"{lines['export']['bytes'] / 1e6:.0f}" if "export" in lines else ""])
    return markdown(["s (GiB of GPU memory)", *stages, "export: MB"], rows)


def gpu_runtime() -> str:
    """Images per second of an image tower on one GPU."""
    candidates = ("bf16, torch.compile", "d4c W8A8", "d4c W4A8")
    rows = []
    for model in (model for run in read_result("gpu_runtime", "gpu_runtime")["runs"] for model in run["models"]):
        found = {row["candidate"]: row for row in model["rows"]}
        speeds = [found[name] for name in candidates]
        rows.append([f"{model['model']}, images per second"])
        rows[-1] += [f"{row['images_a_second']:,.0f} ({row['times_bf16']:.2f} ×)" for row in speeds]
        rows.append([f"{model['model']}, MB (float32: {model['float32_bytes'] / 1e6:,.0f})"])
        rows[-1] += [f"{row['bytes'] / 1e6:.0f}" for row in speeds]
    return markdown(["image tower, batch 256", *candidates], rows)

"""What one linear layer takes in OpenVINO in each form that a quantized one can have, beside float32.

    python -m benchmarks.runtime.products --threads 1

Six MLPs of ViT-B/32 one after the other, without activations in between, so that weights come from memory as in a
tower; all forms in one process, in turn. Ratios are to float32 in the same round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from benchmarks.common import records
from benchmarks.common.arguments import argument_parser, integers
from benchmarks.common.rows import Row, write_report
from benchmarks.common.tables import conditions, table
from benchmarks.runtime.speed import OtherLoad
from d4c.runtime.openvino_convolutions import use_convolutions

WIDTH, HIDDEN, PAIRS = 768, 3072, 6
LOW, HIGH, LEVELS = -2.0, 1.984375, 256
"""Ends of the range of activations, 256 codes with the zero point 128."""
FLOAT = "float32"


def float_weight(codes: Any, scale: Any) -> Any:
    return ops.constant((codes * scale).astype(np.float32))


def byte_weight(codes: Any, scale: Any) -> Any:
    return ops.multiply(ops.convert(ops.constant(codes), "f32"), ops.constant(scale))


def nibble_weight(codes: Any, scale: Any) -> Any:
    stored = openvino.Tensor(openvino.Type.i4, list(codes.shape))
    flat = (codes.reshape(-1) >> 4).astype(np.uint8) & 15
    stored.data.reshape(-1)[:] = (flat[0::2] | flat[1::2] << 4).view(stored.data.dtype)
    return ops.multiply(ops.convert(ops.constant(stored), "f32"), ops.constant(16 * scale))


FORMS: dict[str, tuple[Callable[[Any, Any], Any], bool, bool]] = {
    FLOAT: (float_weight, False, False),
    "integers, linear": (byte_weight, True, False),
    "integers, as convolutions": (byte_weight, True, True),
    "8-bit weights alone": (byte_weight, False, False),
    "4-bit weights alone": (nibble_weight, False, False),
}
"""How weights are stored, whether activations are quantized, and whether layers become convolutions."""


def layers(form: str) -> openvino.Model:
    """The layers in a form, with random weights."""
    weight, quantized, convolutions = FORMS[form]
    generator = np.random.default_rng(0)
    x = inputs = ops.parameter([1, -1, WIDTH], np.float32)
    for k, n in ((WIDTH, HIDDEN), (HIDDEN, WIDTH)) * PAIRS:
        codes = generator.integers(-64, 65, (k, n)).astype(np.int8)
        scale = (generator.uniform(0.5, 1.5, (1, n)) / 1500).astype(np.float32)
        if quantized:
            ends = [np.float32(LOW), np.float32(HIGH)]
            x = ops.fake_quantize(x, *ends, *ends, LEVELS)
        product = ops.matmul(x, weight(codes, scale), False, False)
        x = ops.add(product, ops.constant(generator.standard_normal(n).astype(np.float32)))
    model = openvino.Model([x], [inputs], form)
    if convolutions:
        use_convolutions(model)
    return model


def kernels(compiled: Any) -> list[str]:
    """What OpenVINO multiplies with."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = {"FullyConnected", "Convolution", "MatMul"}
    return sorted({str(info["primitiveType"].value) for info in infos if str(info["layerType"].value) in kinds})


def measure(rows: int, threads: int, rounds: int) -> list[Row]:
    """A row of results for each form."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = {form: openvino.Core().compile_model(layers(form), "CPU", settings) for form in FORMS}
    x = np.random.default_rng(1).standard_normal((1, rows, WIDTH)).astype(np.float32)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for i in range(rounds + 1):
        for form, model in compiled.items():
            started = time.perf_counter()
            model(x)
            if i:  # the first one warms up
                seconds[form].append(time.perf_counter() - started)
    return [
        {
            "form": form,
            "rows": rows,
            "kernels": kernels(compiled[form]),
            "median": statistics.median(one / other for one, other in zip(times, seconds[FLOAT], strict=True)),
            "of_fastest": min(times) / min(seconds[FLOAT]),
            "fastest": min(times),
        }
        for form, times in seconds.items()
    ]


def page(report: Row) -> str:
    """A row for each form, a column for each number of rows."""
    counts = list(dict.fromkeys(row["rows"] for row in report["rows"]))
    body = []
    for form in FORMS:
        mine = {row["rows"]: row for row in report["rows"] if row["form"] == form}
        shares = (f"{mine[count]['median']:.2f} ({mine[count]['of_fastest']:.2f})" for count in counts)
        body.append([form, ", ".join(mine[counts[0]]["kernels"]), *shares])
    setup = report["setup"]
    lines = [
        "# Linear layers in OpenVINO, by form",
        "",
        f"{2 * PAIRS} layers of {WIDTH} and {HIDDEN} channels, time as a share of float32: median of the ratios in a "
        "round, and in parentheses the ratio of the fastest calls. Columns are rows that are multiplied at once: a "
        "prompt has about 10, a picture in ViT-B/32 50.",
        "",
        *table(["form", "kernels", *map(str, counts)], body, texts=2),
        f"{setup['date']}, {setup['threads']} threads, {setup['rounds']} rounds, {100 * setup['other_load']:.0f} % of "
        f"the processors taken by other processes, {conditions(setup)}, instructions "
        f"{', '.join(setup['instructions'])}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=integers, default=[1, 10, 50, 320], help="such as 10,50")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "products.json")
    args = parser.parse_args()
    load = OtherLoad()
    rows = [row for count in args.rows for row in measure(count, args.threads, args.rounds)]
    setup = records.setup("cpu", "openvino", "numpy") | {"instructions": records.instructions()}
    setup |= {"command": records.command("runtime.products"), "threads": args.threads, "rounds": args.rounds}
    write_report(args.out, {"setup": setup | {"other_load": load.share()}, "rows": rows}, page)


if __name__ == "__main__":
    main()

"""README and documentation: every code block runs, every table is that of the results, every name exists.

A block is `python` or `sh`; `text` is output. The blocks of a page run in the order in which they stand, in one folder
and one namespace, exactly as printed. What is smaller than in a reader's run is in `small_sizes`: the preset quick
makes 4 images in 2 iterations, the preset default learns for 2 steps, quantize takes 8 prompts, doctor 4 images and 16
prompts, the demo dataset has 30 classes, and the demo models have two blocks a tower. A block after a comment `<!-- not
run: REASON -->` needs what a test does not have (a network, a GPU, hours): Python is compiled, and each command line is
parsed by the program that it is for, as all others are before they run.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import typer
from PIL import Image

import d4c
from benchmarks.pages.fill import filled
from d4c import cli
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import READERS
from d4c.evaluation.readers.demo_pack import DEMO
from d4c.quantization import quantize as quantize_module
from d4c.quantization.config import PRESETS as QUANTIZATION
from d4c.quantization.config import Reconstruction
from d4c.quantization.formats.scheme import Track
from d4c.quantization.placement import default_overrides
from d4c.synthesis.config import PRESETS as SYNTHESIS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *NOTEBOOKS]
LARGEST_NOTEBOOK = 300_000
"""Bytes of a notebook with its outputs."""
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="a source distribution has no documentation")


@dataclass(frozen=True)
class Command:
    """The words of a command line, and the file that takes its output."""

    words: tuple[str, ...]
    file: str | None = None


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and why it is not run if it is not."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[Command]:
        """Each command line, with the variables that the block sets put in."""
        variables: dict[str, str] = {}
        commands = []
        for line in self.text.replace("\\\n", " ").splitlines():
            line = re.sub(r"\$(\w+)", lambda match: variables[match[1]], line)
            if assignment := re.fullmatch(r'([A-Z]+)="([^"]*)"', line):
                variables[assignment[1]] = assignment[2]
            elif words := shlex.split(line, comments=True):
                end = words.index(">") if ">" in words else len(words)
                commands.append(Command(tuple(words[:end]), "".join(words[end + 1 :]) or None))
        return commands


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def blocks_of(page: Path) -> list[Block]:
    if page.suffix == ".ipynb":
        return [
            Block(page.name, number, "python", "".join(cell["source"]), None)
            for number, cell in enumerate(code_cells(page), 1)
        ]
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, match.start()) + 1, match["language"], match["text"], match["reason"])
        for match in BLOCK.finditer(text)
    ]


PAGES_WITH_CODE = [page for page in PAGES if any(block.language in ("python", "sh") for block in blocks_of(page))]


FIRST = 100
"""The first of 30 emoji that pages are tried with: animals, which the tutorial looks at."""


def few(spec: str, path: Path) -> Dataset:
    dataset = DEMO.read(spec, path)
    assert isinstance(dataset, Dataset)
    some = dataset.classes[FIRST : FIRST + 30]
    return replace(dataset, classes=some, labels=dataset.labels[:30], read=lambda i: dataset.read(FIRST + i))


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYNTHESIS, "quick", replace(SYNTHESIS["quick"], images=4, iterations=2, group_size=4))
    monkeypatch.setitem(QUANTIZATION, "default", replace(QUANTIZATION["default"], iterations=2, batch_size=2))
    monkeypatch.setattr(quantize_module, "PROMPTS", 8)
    monkeypatch.setattr("d4c.quantization.doctor.examine.IMAGES", 4)
    monkeypatch.setattr("d4c.quantization.doctor.examine.PROMPTS", 16)
    monkeypatch.setitem(READERS, "demo", replace(DEMO, read=few))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, two_blocks: None) -> Path:
    """A folder with what pages take for granted: a picture, a folder of pictures, a set of images and its products."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "pictures").mkdir()
    for i, path in enumerate(("cat.jpg", "pictures/first.jpg", "pictures/second.png")):
        Image.new("RGB", (80, 60), (80 * i, 120, 40)).save(folder / path)
    clip = d4c.load("demo-vit")
    images = d4c.synthesize(clip, "leaves", images=4)
    images.save(folder / "runs" / "images")
    settings: dict[str, Any] = {"reconstruction": "none", "prompts": ["a cat"] * 32}
    d4c.quantize(clip, images, "W4A8", **settings).save_pretrained(folder / "runs" / "artifact")
    d4c.export(folder / "runs" / "artifact", folder / "runs" / "model", check=False)
    return folder


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.filterwarnings("ignore:The text ranges rest on")
@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: page.name)
def test_code_of_a_page_runs(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    namespace: dict[str, Any] = {}
    for block in blocks_of(page):
        where = f"{block.page}:{block.line}"
        if block.language == "python":
            code = compile(block.text, where, "exec")
            if block.reason is None:
                exec(code, namespace)
        elif block.language == "sh":
            for command in block.commands:
                check_command(command.words, monkeypatch)
                if block.reason is None and command.words[0] == "d4c":
                    run_command(command, where, monkeypatch)
        else:
            assert block.language == "text", f"{where}: a block is python, sh or text"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda page: page.name)
def test_a_notebook_runs_whole_and_says_what_its_text_says(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks_of(notebook):
        exec(compile(block.text, f"{block.page}:{block.line}", "exec"), namespace)
    change = namespace["after"].fidelity.change
    assert change.low < 0 < change.high
    assert namespace["probabilities"].argmax() == namespace["labels"].index("owl")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda page: page.name)
def test_a_notebook_is_committed_as_it_was_executed_and_small(notebook: Path) -> None:
    assert notebook.stat().st_size < LARGEST_NOTEBOOK
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output.get("name", output["output_type"]) for output in outputs} == {"stdout", "execute_result"}
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/plain"} <= kinds <= {"image/png", "image/jpeg", "text/plain"}


def check_command(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that a command line is for takes it."""
    match words:
        case ["d4c", *arguments]:
            parse_d4c(arguments)
        case ["torchrun", _, "-m", "d4c", *arguments]:
            parse_d4c(arguments)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), target
        case ["pip", "install", *arguments]:
            check_pip(arguments)
        case ["python", "-m", module, *arguments] if module.startswith("benchmarks."):
            parse_benchmark(module, arguments, monkeypatch)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None, module
        case ["python", script, *_]:
            assert (ROOT / script).is_file(), script
        case ["curl", *_, address]:
            site = (ROOT / "src/d4c/runtime/serving/site.py").read_text(encoding="utf-8")
            assert f'Route("{urlsplit(address).path}"' in site, address
        case _:
            pytest.fail(f"nobody checks {shlex.join(words)}")


def parse_d4c(words: Sequence[str]) -> None:
    group: Any = typer.main.get_command(cli.app)
    name, *arguments = words
    context = group.make_context("d4c", [], resilient_parsing=True)
    group.commands[name].make_context(name, arguments, parent=context)


def check_pip(words: Sequence[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"\[(.*)\]", word):
            assert set(extra.split(",")) <= set(extras), word


class Parsed(Exception):
    """A benchmark has read its command line, which is all that a test asks of it."""


def parse_benchmark(module: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        parse(parser)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module, *words])
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.syspath_prepend(ROOT)
        with pytest.raises(Parsed):
            runpy.run_module(module, run_name="__main__")


def run_command(command: Command, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(Path(word).expanduser()) if word[0] == "~" else word for word in command.words]
    monkeypatch.setattr(sys, "argv", words)
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 0, where
    if command.file:
        Path(command.file).write_text(out.getvalue())


def test_the_example_of_each_command_is_one() -> None:
    group: Any = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        program, *words = shlex.split(command.epilog.removeprefix("Example: "))
        assert (program, words[0]) == ("d4c", name)
        parse_d4c(words)


def test_a_block_is_read_as_a_reader_would() -> None:
    text = 'B="d4c evaluate"\n$B demo-vit \\\n  --json > out.json  # a comment\n'
    assert Block("page", 1, "sh", text, None).commands == [
        Command(("d4c", "evaluate", "demo-vit", "--json"), "out.json")
    ]


@pytest.mark.parametrize(
    "words", [["d4c", "run", "--fast"], ["d4c", "fly"], ["make", "tea"], ["pip", "install", ".[x]"]]
)
def test_a_wrong_command_line_is_noticed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((Exception, SystemExit)):
        check_command(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m benchmarks.pages.fill"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def links(page: Path) -> Iterator[Path]:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            yield (page.parent / target).resolve()


def test_links_of_the_readme_lead_somewhere() -> None:
    assert [path for path in links(ROOT / "README.md") if not path.exists()] == []


@pytest.mark.parametrize("model", ["demo-vit", "demo-rn"])
@pytest.mark.parametrize("track", get_args(Track))
def test_every_exception_of_a_track_is_on_the_page(track: Track, model: str) -> None:
    page = (DOCS / "quantization.md").read_text(encoding="utf-8")
    assert [pattern for pattern in default_overrides(d4c.load(model), track) if f"`{pattern}`" not in page] == []


def test_every_kind_of_reconstruction_is_on_the_page() -> None:
    page = (DOCS / "quantization.md").read_text(encoding="utf-8")
    assert [kind for kind in get_args(Reconstruction) if f"`{kind}`" not in page] == []


def test_everything_public_is_on_the_page() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    names = [name for name in d4c.__all__ if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"^::: d4c\.(\w+\.)*{name}$", page, re.M)] == []


@pytest.mark.parametrize("flags", [[], ["-W", "error"]], ids=["plain", "warnings are errors"])
def test_importing_the_package_is_cheap_and_silent(flags: list[str]) -> None:
    program = "import sys, d4c; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""What `make docs` generates: the page of commands, and one for each notebook and each committed table of results."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from d4c.cli import app

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
COMMANDS = "<!-- commands -->"
"""Where docs/cli.md takes in the commands."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    assert config.nav is not None
    pages = [{label: f"results/{name}.md"} for name, label in _labels().items()]
    config.nav.append({"All results": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make a page of each table under benchmarks/, and of each notebook with its outputs, as they were committed."""
    for name, path in committed_tables().items():
        files.append(File.generated(config, f"results/{name}.md", content=path.read_text(encoding="utf-8")))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = notebook.src_uri.removesuffix(".ipynb")
        for path, content in notebook_page(Path(notebook.abs_src_path or ""), name).items():
            files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the commands into their page."""
    return markdown.replace(COMMANDS, command_reference()) if page.file.src_uri == "cli.md" else markdown


def committed_tables() -> dict[str, Path]:
    """The committed tables by the name of their page; one that is only half of a page is not one of its own."""
    paths = sorted(BENCHMARKS.glob("*/results/*.md"))
    return {_page_name(path): path for path in paths if path.read_text(encoding="utf-8").startswith("# ")}


def notebook_page(file: Path, name: str) -> dict[str, str | bytes]:
    """A notebook as Markdown, and the pictures among its outputs, by path; nothing is executed."""
    where = {"unique_key": name, "output_files_dir": f"images/{name}"}
    text, resources = MarkdownExporter().from_filename(str(file), where)
    return {f"{name}.md": text.replace("![png]", "![What the code above shows]"), **resources["outputs"]}


def _labels() -> dict[str, str]:
    """What the navigation calls the page of each table: its title, and which one where several share it."""
    paths = committed_tables()
    titles = {
        name: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for name, path in paths.items()
    }
    shared = {title for title, count in Counter(titles.values()).items() if count > 1}
    return {
        name: f"{title}: {paths[name].stem.replace('_', ' ')}" if title in shared else title
        for name, title in titles.items()
    }


def _page_name(path: Path) -> str:
    topic = path.parent.parent.name
    return topic if path.stem == topic else f"{topic}_{path.stem}"


def command_reference() -> str:
    """Every command of the command line with its arguments and options, as Markdown."""
    root: Any = typer.main.get_command(app)
    context = root.make_context("d4c", [], resilient_parsing=True)
    return "\n\n".join(_command(name, root.commands[name], context) for name in root.list_commands(context))


def _command(name: str, command: Any, parent: Any) -> str:
    context = command.context_class(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"## d4c {name}", _prose(command.help), f"```text\nd4c {name} {usage}\n```"]
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    arguments = [
        (param.make_metavar(context), param.help or "")
        for param in command.get_params(context)
        if param.param_type_name == "argument" and not param.get_help_record(context)
    ]
    rows = [
        f"| <code>{_cell(escape(left, quote=False))}</code> | {_cell(_prose(right))} |"
        for left, right in [*arguments, *records]
    ]
    parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]))
    if command.epilog:
        parts.append(f"```sh\n{inspect.cleandoc(command.epilog).removeprefix('Example: ')}\n```")
    return "\n\n".join(parts)


def _prose(text: str | None) -> str:
    """Help text as Markdown: its paragraphs, whose signs mean themselves."""
    return escape(re.sub(r"\s*\n(?!\n)\s*", " ", inspect.cleandoc(text or "")), quote=False).replace("*", r"\*")


def _cell(text: str) -> str:
    """Text that does not end its cell of a table."""
    return text.replace("|", "&#124;")

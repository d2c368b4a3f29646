"""The program: its commands, exit codes, and how errors end it."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from d4c.cli import comparing, making, measuring, reporting, using
from d4c.cli.console import plain_warnings, say, show_error
from d4c.errors import D4CError, quantize_extra, reason_of, system_error
from d4c.interrupt import STATUS, Interrupt
from d4c.version import __version__


class _Commands(TyperGroup):
    """All commands, whose usage errors are sentences as everywhere."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # how pydantic, within typer, names its class
            raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    (making.run, "d4c run --model demo-vit --preset quick -o runs/demo"),
    (making.synthesize, "d4c synthesize --model demo-vit --preset quick -o images"),
    (making.quantize, "d4c quantize --model demo-vit --calibration images -o artifact"),
    (measuring.evaluate, "d4c evaluate artifact --reference demo-vit"),
    (comparing.compare, "d4c compare --model demo-vit --methods noise,leaves --schemes W4A4 -o grid"),
    (reporting.report, "d4c report runs/demo"),
    (using.export, "d4c export artifact -o exported"),
    (using.search, 'd4c search exported ~/Pictures "a dog in the snow"'),
    (using.serve, "d4c serve exported --pictures ~/Pictures"),
    (measuring.inspect, "d4c inspect images -o inspection"),
    (measuring.doctor, "d4c doctor demo-vit --scheme W4A4"),
    (measuring.sensitivity, "d4c sensitivity --model demo-vit --calibration images"),
)
for _function, _example in COMMANDS:
    app.command(epilog=f"Example: {_example}")(_function)

RESUMABLE = ("run", "synthesize", "quantize", "compare", "search")


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def version(
    _show: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Data-free low-bit quantization of CLIP models."""


def main() -> None:
    """Entry point: exit code 0 done, 1 an error that one sentence explains, 2 wrong usage, 130 stopped by Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Windows' code pages lack letters that names have
    with plain_warnings():
        code = 0
        try:
            with quantize_extra():
                app()
        except BaseException as error:
            code = _explain(error)
        sys.exit(code or _flush())


def _explain(error: BaseException) -> int:
    """Say why a command ended, in one sentence, and return its exit code."""
    code = _exit_code(error)
    # Ctrl-C in the wrong moment comes out of some libraries as another error.
    if code and (Interrupt.happened or isinstance(error, KeyboardInterrupt) or code == STATUS):
        _say_stopped()
        return STATUS
    if isinstance(error, SystemExit):
        return code
    if isinstance(error, D4CError):
        show_error(str(error))
    elif (problem := system_error(error)) is not None:
        show_error(_sentence_about(problem))
    else:
        raise error
    return 1


def _exit_code(error: BaseException) -> int:
    if not isinstance(error, SystemExit):
        return 1
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _sentence_about(problem: OSError) -> str:
    where = f" {problem.filename}" if problem.filename else ""
    advice = "; free some space and repeat the command" if problem.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"The system refused{where}: {problem.strerror or reason_of(problem)}{advice}."


def _flush() -> int:
    """Flush the result and return the exit code: a full disk may show only now, and a reader may be gone."""
    if sys.stdout is None:  # closed from the start, as `>&-` does
        return 0
    try:
        sys.stdout.flush()
    except OSError as problem:
        # Python would try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            show_error(_sentence_about(problem))
        return 1
    return 0


def _say_stopped() -> None:
    resumes = sys.argv[1:2] and sys.argv[1] in RESUMABLE
    say("Stopped; the same command resumes where it stopped." if resumes else "Stopped.")

"""The program: its commands, exit codes, and how errors end it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from d4c.cli import making, measuring, using
from d4c.cli.console import plain_warnings, say, show_error
from d4c.errors import D4CError, quantize_extra
from d4c.version import __version__

app = typer.Typer(
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
    (using.export, "d4c export artifact -o exported"),
    (using.search, 'd4c search exported ~/Pictures "a dog in the snow"'),
    (measuring.inspect, "d4c inspect images -o inspection"),
    (measuring.doctor, "d4c doctor demo-vit --scheme W4A4"),
    (measuring.sensitivity, "d4c sensitivity --model demo-vit --calibration images"),
)
for _function, _example in COMMANDS:
    app.command(epilog=f"Example: {_example}")(_function)

RESUMABLE = ("run", "synthesize", "quantize")
INTERRUPTED = 130


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
    with plain_warnings():
        try:
            with quantize_extra():
                app()
        except D4CError as error:
            show_error(str(error))
            sys.exit(1)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            show_error(f"The system refused{where}: {error.strerror}.")
            sys.exit(1)
        except KeyboardInterrupt:
            _say_stopped()
            sys.exit(INTERRUPTED)
        except SystemExit as stop:
            if stop.code == INTERRUPTED:
                _say_stopped()
            raise


def _say_stopped() -> None:
    resumes = sys.argv[1:2] and sys.argv[1] in RESUMABLE
    say("Stopped; the same command resumes where it stopped." if resumes else "Stopped.")

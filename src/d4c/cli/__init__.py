"""The command line: thin functions, one for each command, with no logic of their own."""

from d4c.cli.entry import app, main

__all__ = ["app", "main"]

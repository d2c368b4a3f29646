"""Ctrl-C: the first one ends the work with a sentence, whatever it interrupts; a second one ends the process at once.

Nothing is lost by either, since files appear whole or not at all.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from types import FrameType

STATUS = 130
"""Exit status of a program that Ctrl-C stopped."""
AGAIN = 0.05
"""Seconds after which Ctrl-C is repeated when it fell into a callback, where exceptions get lost."""


class Interrupt:
    """Whether Ctrl-C was pressed, which libraries may turn into errors of their own."""

    happened = False


def listen() -> None:
    """Raise KeyboardInterrupt at the first Ctrl-C, unless the process was started so as to ignore it."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
        sys.unraisablehook = _lost


def let_go() -> None:
    """Let Ctrl-C end the process without a word, when everything is done or was stopped already."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def forget() -> None:
    """Let the process end with its exit status after a Ctrl-C in code that was being made, as of dataclasses.

    Python keeps in mind that KeyboardInterrupt left a call of `exec`, even if it is caught outside, and would end by a
    signal; the next call makes it forget.
    """
    exec("pass")


def _stop(_number: int, _frame: FrameType | None) -> None:
    Interrupt.happened = True
    let_go()
    raise KeyboardInterrupt


def _lost(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that was lost, as in `__del__` or in the callback of a weak reference."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        listen()
        threading.Timer(AGAIN, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)

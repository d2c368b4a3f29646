"""The first Ctrl-C is an exception, the second one the end, and none counts where it is to be ignored."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, time
from d4c.interrupt import Interrupt, forget, let_go, listen
def press():
    os.kill(os.getpid(), signal.SIGINT)
    print("alive", flush=True)
"""

CASES = {
    "once": ("listen()\ntry: press()\nexcept KeyboardInterrupt: print(Interrupt.happened, flush=True)", "True\n", 0),
    "twice": ("listen()\ntry: press()\nexcept KeyboardInterrupt: press()", "", -2),
    "in a callback": (
        """
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): pass
listen()
try:
    Deaf()
    print("lost", flush=True)
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("raised", flush=True)
""",
        "lost\nraised\n",
        0,
    ),
    "in code that is made": ("listen()\ntry: exec('press()')\nexcept KeyboardInterrupt: forget()", "", 0),
    "done": ("listen()\nlet_go()\npress()", "", -2),
    "ignored": ("signal.signal(signal.SIGINT, signal.SIG_IGN)\nlisten()\npress()\nlet_go()\npress()", "alive\n" * 2, 0),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize(("lines", "printed", "code"), CASES.values(), ids=CASES)
def test_what_ctrl_c_does(lines: str, printed: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + lines], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (printed, "", code)

"""d4c serve: where it listens, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from d4c import cli
from d4c.errors import SettingError
from d4c.runtime.serving.limits import Limits
from d4c.runtime.serving.server import hosts_of, listen, url_of


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(SettingError, match=r"cannot be used .*choose others"):
        listen("127.0.0.1", first.getsockname()[1])


def test_a_name_that_leads_nowhere_is_named() -> None:
    with pytest.raises(SettingError, match=r"no\.such\.host\.invalid port 0 cannot be used"):
        listen("no.such.host.invalid", 0)


def test_only_a_server_of_this_machine_alone_knows_its_names() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert hosts_of("127.0.0.1", listener) == {"127.0.0.1", "localhost"}
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listen("0.0.0.0", 0) as listener:
        assert hosts_of("0.0.0.0", listener) is None


@pytest.mark.parametrize("name", ["megabytes", "seconds", "queue", "workers"])
@pytest.mark.parametrize("value", [0, -1, 100_001, float("nan")])
def test_limits_are_bounded(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"The limit {name} is {value}, expected more than 0"):
        Limits(**{name: value})


@pytest.mark.parametrize("module", ["prometheus_client", "starlette", "uvicorn"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    failed = CliRunner().invoke(cli.app, ["serve", str(exported)])
    assert str(failed.exception) == f"A server needs {module}, which is not installed; run pip install 'd4c[serve]'."


def test_ctrl_c_ends_a_server_in_one_sentence_and_it_needs_no_torch(exported: Path, pictures: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from d4c.__main__ import main; main()"
    words = ["serve", str(exported), "--pictures", str(pictures), "--port", "0", "--json", "--quiet"]
    server = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())
        assert said["pictures"] == 10
        with urlopen(said["url"] + "/health", timeout=60) as reply:
            assert json.load(reply) == {"model": said["model"], "pictures": 10}
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    finally:
        server.kill()
    assert (server.returncode, out, err) == (130, "", "Stopped.\n")

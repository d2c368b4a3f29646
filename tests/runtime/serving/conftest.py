"""A server on the loopback address, which the tests talk to as any client does."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from d4c.runtime.gallery import Gallery, open_gallery
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.serving.limits import Limits
from d4c.runtime.serving.server import hosts_of, listen, make_server
from d4c.runtime.serving.site import Site


class Reply(NamedTuple):
    """The status of a response, its body as JSON where it is, and its headers in lower case."""

    status: int
    content: Any
    headers: dict[str, str]


class Client:
    """Calls a server; every call has a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, method: str, address: str, body: bytes = b"", **headers: str) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, address, body, headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        kind = response.headers.get("content-type", "")
        content = json.loads(data) if kind == "application/json" else data
        return Reply(response.status, content, {name.lower(): value for name, value in response.headers.items()})


# Per module: other tests move the clock of the process, by which the loop of a running server keeps time.
@pytest.fixture(scope="module")
def start(model: RuntimeCLIP) -> Iterator[Callable[..., Client]]:
    """Start a server of the session's model, or of another one."""
    running = []

    def start(
        limits: Limits | None = None,
        gallery: Gallery | None = None,
        folder: Path | None = None,
        served: RuntimeCLIP = model,
    ) -> Client:
        limits = limits or Limits()
        listener = listen("127.0.0.1", 0)
        server = make_server(Site(served, gallery, folder, limits, hosts_of("127.0.0.1", listener)), limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread, listener))
        return Client(listener.getsockname()[1])

    yield start
    for server, thread, listener in running:
        server.should_exit = server.force_exit = True  # without waiting for clients that left connections open
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def served_folder(emoji: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that the server searches."""
    folder = tmp_path_factory.mktemp("served") / "pictures"
    folder.mkdir()
    for name, picture in emoji.items():
        picture.save(folder / f"{name}.png")
    shutil.copyfile(folder / f"{name}.png", folder.parent / "secret.png")
    return folder


@pytest.fixture(scope="module")
def served_gallery(model: RuntimeCLIP, served_folder: Path) -> Gallery:
    """The same pictures in the library."""
    return open_gallery(model, served_folder)


@pytest.fixture(scope="module")
def client(start: Callable[..., Client], served_folder: Path, served_gallery: Gallery) -> Client:
    """A client of a server with pictures."""
    return start(None, served_gallery, served_folder)

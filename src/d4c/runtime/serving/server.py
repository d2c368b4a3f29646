"""Runs a site on a socket until it is told to stop; what was begun is finished first."""

from __future__ import annotations

import math
import socket
from ipaddress import ip_address

import uvicorn

from d4c.errors import SettingError
from d4c.runtime.serving.limits import Limits
from d4c.runtime.serving.site import Site

LONGEST_HEAD = 64 << 10
"""Bytes of the first line and the headers of a request; labels stand in its address."""
CONNECTIONS = 8
"""Open connections for each place in the queue; the next ones are turned away."""


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of a server.

    Args:
        host: Address or name of this machine.
        port: Port; 0 for any that is free.

    Raises:
        SettingError: The address cannot be used.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingError(
            f"{host} port {port} cannot be used ({error.strerror}); choose others with --host and --port."
        ) from None


def url_of(listener: socket.socket) -> str:
    """The address to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def hosts_of(host: str, listener: socket.socket) -> set[str] | None:
    """The names by which a server of this machine alone may be called; None for one that others reach as well."""
    address = listener.getsockname()[0]
    return {"localhost", host, address} if ip_address(address).is_loopback else None


def make_server(site: Site, limits: Limits) -> uvicorn.Server:
    """Return a server; its `run(sockets=[...])` ends at Ctrl-C, SIGTERM or when its `should_exit` is set."""
    return uvicorn.Server(
        uvicorn.Config(
            site,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS * limits.queue,
            timeout_graceful_shutdown=math.ceil(limits.seconds),
            h11_max_incomplete_event_size=LONGEST_HEAD,
        )
    )

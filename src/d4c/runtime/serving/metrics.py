"""Counts and times of requests in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper ends of the ranges of seconds that are counted."""


class Metrics:
    """What one server has done.

    Args:
        pending: Gives the number of requests that are in work.
        pictures: Number of pictures that can be searched.
    """

    def __init__(self, pending: Callable[[], float], pictures: int) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter("d4c_requests", "Requests by path and status.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "d4c_request_seconds", "Seconds until the answer, by path.", ["path"], registry=registry, buckets=BUCKETS
        )
        Gauge("d4c_pending", "Requests that are read, wait or are computed.", registry=registry).set_function(pending)
        Gauge("d4c_pictures", "Pictures that can be searched.", registry=registry).set(pictures)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count one request; `path` is that of a route, so that strangers cannot invent new ones."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Everything that was counted."""
        return generate_latest(self._registry)

"""What a request may take of the server: bytes, pixels, time, and a place in a queue of bounded length."""

from __future__ import annotations

from dataclasses import dataclass

from d4c.errors import SettingError

PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded."""
TEXTS, LABELS, TEMPLATES, LETTERS, MATCHES = 256, 1000, 100, 2000, 1000
"""The most texts, labels, templates, letters of one of them, and matches of a request."""


@dataclass(frozen=True)
class Limits:
    """Bounds of what all requests together may take.

    Args:
        megabytes: Size of the largest body.
        seconds: Time in which a request is read and answered.
        queue: Requests that are read, wait or are computed at one time; the next ones are refused.
        workers: Requests that are computed at one time.
    """

    megabytes: int = 20
    seconds: float = 30
    queue: int = 64
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("megabytes", "seconds", "queue", "workers"):
            if not 0 < getattr(self, name) <= 100_000:
                raise SettingError(
                    f"The limit {name} is {getattr(self, name)}, expected more than 0 and at most 100000; change it."
                )

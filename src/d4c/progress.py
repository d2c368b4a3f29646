"""How long work reports how far it has come."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the steps done and their total: with 0 before the first one, and at least every two seconds from then on.

A step is whatever the work counts: iterations, stages, images."""

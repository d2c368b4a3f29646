"""`Missing`: what stands in a report where a section needs something that is not there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Missing:
    """A section that could not be made.

    Attributes:
        reason: One sentence that says what is missing, and how to add it.
    """

    reason: str

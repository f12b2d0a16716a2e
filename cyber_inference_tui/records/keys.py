"""API keys with names and limits."""

from __future__ import annotations

from enum import StrEnum


class Priority(StrEnum):
    """The share that a request gets while others wait."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

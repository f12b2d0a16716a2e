"""What the doctor says."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad it is; a later one is worse."""

    OK = "ok"
    HINT = "hint"
    """Worth knowing: everything works without it."""
    WARNING = "warning"
    """Something will work badly, or not at all for some models or clients."""
    ERROR = "error"
    """The service does not start, or no model can be loaded."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at: what it is like, and what to do about it."""

    check: str
    """What it is about: one of a few fixed words, such as ``llama-server``."""
    level: Level
    message: str
    fix: str | None = None
    """The way out; ``None`` only where nothing is wrong."""


def exit_code(findings: tuple[Finding, ...]) -> int:
    """What the command ends with: 0 if there is no error.

    5 if all errors are the configuration's, 6 if all are llama-server's, else 1.
    """
    wrong = {finding.check for finding in findings if finding.level is Level.ERROR}
    if not wrong:
        return 0
    if wrong == {"configuration"}:
        return 5
    return 6 if wrong == {"llama-server"} else 1

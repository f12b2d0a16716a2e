"""The findings of the doctor."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """The severity of a finding; later levels are worse."""

    OK = "ok"
    HINT = "hint"
    """Everything works without a change."""
    WARNING = "warning"
    """Something works badly, or not at all for some models or clients."""
    ERROR = "error"
    """The service does not start, or no model can be loaded."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check, and the remedy."""

    check: str
    """The subject: one of a few fixed words, such as ``llama-server``."""
    level: Level
    message: str
    fix: str | None = None
    """The remedy; ``None`` only if nothing is wrong."""

    @classmethod
    def ok(cls, check: str, message: str) -> Finding:
        """Make a finding that needs no fix."""
        return cls(check=check, level=Level.OK, message=message)

    @classmethod
    def hint(cls, check: str, message: str, fix: str) -> Finding:
        """Make a finding of the level ``hint``."""
        return cls(check=check, level=Level.HINT, message=message, fix=fix)

    @classmethod
    def warning(cls, check: str, message: str, fix: str) -> Finding:
        """Make a finding of the level ``warning``."""
        return cls(check=check, level=Level.WARNING, message=message, fix=fix)

    @classmethod
    def error(cls, check: str, message: str, fix: str | None) -> Finding:
        """Make a finding of the level ``error``."""
        return cls(check=check, level=Level.ERROR, message=message, fix=fix)


def exit_code(findings: tuple[Finding, ...]) -> int:
    """Return the exit code of the command: 0 = there is no error.

    5 = all errors are in the configuration, 6 = all errors are about llama-server, else 1.
    """
    wrong = {finding.check for finding in findings if finding.level is Level.ERROR}
    if not wrong:
        return 0
    if wrong == {"configuration"}:
        return 5
    return 6 if wrong == {"llama-server"} else 1

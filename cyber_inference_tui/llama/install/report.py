"""Reports of an installation to another process: progress as marked lines of JSON, and the result.

The mark is a control character, which ``clean_line`` removes from all other output: no program can
print a report by accident. (RFC 7464 uses the same mark.)
"""

from __future__ import annotations

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.text import clean_line

_MARK = "\x1e"


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of progress. Absent fields are not known yet."""

    source: str | None = None
    step: str | None = None
    progress: float | None = None
    """0 to 1 of the source's whole work."""
    error: str | None = None
    """The reason of a failure, in the last line."""

    def line(self) -> str:
        """Return the line to print, without a line end."""
        return _MARK + msgspec.json.encode(self).decode()


def read_report(line: bytes) -> Report | None:
    """Return the report in a line; ``None`` = it is another line."""
    if not line.startswith(_MARK.encode()):
        return None
    try:
        return msgspec.json.decode(line[1:], type=thread_safe(Report))
    except msgspec.MsgspecError:
        return None


class ProgressMeter:
    """Turns calls of ``Progress`` into reports."""

    def __init__(self) -> None:
        self._source: str | None = None
        self._step: str | None = None
        self._from = 0.0
        self._upto: float | None = None
        self._done: float | None = None

    def begin(self, source: str) -> None:
        """Begin with another source."""
        self._source, self._step = source, None
        self._from, self._upto, self._done = 0.0, 0.0, None

    def step(self, text: str, upto: float | None) -> None:
        """Begin the next step; the one before counts as done."""
        self._step = clean_line(text, limit=500)
        if self._upto is not None:
            self._from = max(self._from, self._upto)
        self._upto = upto
        self._done = None if upto is None else self._from

    def advance(self, done: int, total: int | None) -> None:
        """Set the progress of the step."""
        if total and self._upto is not None:
            share = min(max(done / total, 0.0), 1.0)
            self._done = self._from + max(0.0, self._upto - self._from) * share

    @property
    def report(self) -> Report:
        """The present state."""
        done = None if self._done is None else round(self._done, 3)
        return Report(source=self._source, step=self._step, progress=done)


class BuildName(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies a build."""

    version: str
    source: str
    """``github``, ``debian`` or ``source``."""


class InstallResult(msgspec.Struct, frozen=True, kw_only=True):
    """The llama-server in use after ``install-llama`` (its ``--json``)."""

    path: str
    version: str
    source: str
    """``github``, ``debian`` or ``source``; ``setting`` or ``path`` for one that was not installed
    by us."""
    devices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    installed: bool = False
    """Whether it was installed now; otherwise it was there already."""
    replaced: BuildName | None = None
    """The build that was in use before. It is kept for ``--rollback``."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``install-llama --check``."""

    installed: InstallResult | None
    newest: BuildName
    """The newest build of the source."""
    up_to_date: bool | None
    """``None`` = the build in use comes from another source."""

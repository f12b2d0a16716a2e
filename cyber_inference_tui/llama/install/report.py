"""How far an installation is, told from one process to another: marked lines of JSON.

The mark is a control character, which ``clean_line`` takes out of everything else that is
printed: no program at work can tell a report by accident. (RFC 7464 uses the same one.)
"""

from __future__ import annotations

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.text import clean_line

_MARK = "\x1e"


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. What is absent has not been told (yet)."""

    source: str | None = None
    step: str | None = None
    progress: float | None = None
    """0 to 1 of the source's whole work."""
    error: str | None = None
    """Why it failed; the last line, then."""

    def line(self) -> str:
        """As it is printed, without a line's end."""
        return _MARK + msgspec.json.encode(self).decode()


def read_report(line: bytes) -> Report | None:
    """The report in a line; ``None`` when it is any other line."""
    if not line.startswith(_MARK.encode()):
        return None
    try:
        return msgspec.json.decode(line[1:], type=thread_safe(Report))
    except msgspec.MsgspecError:
        return None


class ProgressMeter:
    """Makes reports of what a ``Progress`` is told."""

    def __init__(self) -> None:
        self._source: str | None = None
        self._step: str | None = None
        self._from = 0.0
        self._upto: float | None = None
        self._done: float | None = None

    def begin(self, source: str) -> None:
        """Another source, from its beginning."""
        self._source, self._step = source, None
        self._from, self._upto, self._done = 0.0, 0.0, None

    def step(self, text: str, upto: float | None) -> None:
        """The next step; what it took until here counts as done."""
        self._step = clean_line(text, limit=500)
        if self._upto is not None:
            self._from = max(self._from, self._upto)
        self._upto = upto
        self._done = None if upto is None else self._from

    def advance(self, done: int, total: int | None) -> None:
        """So much of the step."""
        if total and self._upto is not None:
            share = min(max(done / total, 0.0), 1.0)
            self._done = self._from + max(0.0, self._upto - self._from) * share

    @property
    def report(self) -> Report:
        """What is known now."""
        done = None if self._done is None else round(self._done, 3)
        return Report(source=self._source, step=self._step, progress=done)


class BuildName(msgspec.Struct, frozen=True, kw_only=True):
    """One build of one source."""

    version: str
    source: str
    """``github``, ``debian`` or ``source``."""


class InstallResult(msgspec.Struct, frozen=True, kw_only=True):
    """The llama-server in use after ``install-llama`` (its ``--json``)."""

    path: str
    version: str
    source: str
    """``github``, ``debian`` or ``source``; ``setting`` or ``path`` for one that was there."""
    devices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    installed: bool = False
    """Whether it is new; otherwise it was there already."""
    replaced: BuildName | None = None
    """What was in use before and is kept: ``--rollback`` goes back to it."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ``install-llama --check`` tells."""

    installed: InstallResult | None
    newest: BuildName
    """The newest build that the source has."""
    up_to_date: bool | None
    """``None`` when the one in use does not come from that source."""

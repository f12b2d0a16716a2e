"""The audit log: who logged in, and who changed what, as one JSON object per line.

``audit.log`` is the newest file, ``audit.log.1`` the one before it, and so on. They are in the
directory of the logs and have its limits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.llama.log_files import LogLimits, append
from cyber_inference_tui.settings.load import LoadedSettings
from cyber_inference_tui.storage import Storages

AUDIT_FILE: Final = "audit.log"
_MAX_SHOWN = 2_000
"""Characters of a value; longer ones are cut."""

_logger = logging.getLogger(__name__)


class Caller(NamedTuple):
    """Who asks for a change, and from where."""

    by: str
    """A login by its token's id, or ``service token``, ``no login``, ``configuration file`` …"""
    address: str | None = None


CONFIGURATION_FILE: Final = Caller("configuration file")
_SERVICE: Final = Caller("service")
_caller: ContextVar[Caller] = ContextVar("caller", default=_SERVICE)


@contextlib.contextmanager
def acting(caller: Caller) -> Iterator[None]:
    """Note events of this task, and of tasks that it starts, as those of ``caller``."""
    before = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(before)


class AuditLog:
    """Appends to the file ``path``.

    ``limits`` are those of a log: the size of a file and the number of files.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        limits: Callable[[], LogLimits] = LogLimits,
    ) -> None:
        self._path = path
        self._now = now
        self._limits = limits
        self._storages = Storages()
        self._writing = threading.Lock()

    async def note(self, event: str, caller: Caller | None = None, **details: Any) -> None:
        """Write an event: of ``caller``, else of the one for whom this task acts."""
        await self.note_all(event, [details], caller)

    async def note_all(
        self, event: str, all_details: Sequence[dict[str, Any]], caller: Caller | None = None
    ) -> None:
        """Write the same event with several details; a disk that takes nothing is only logged."""
        caller = caller or _caller.get()
        lines = [self._line(event, caller, details) for details in all_details]
        try:
            await self._storages.ask_async(self._path.parent, partial(self._append, lines))
        except (OSError, StorageError) as error:
            for line in lines:
                _logger.warning("the audit log cannot be written (%s): %s", error, line)

    def write(self, event: str, caller: Caller, **details: Any) -> None:
        """Write an event without an event loop. Blocks; raises ``OSError``."""
        self._append([self._line(event, caller, details)])

    def _line(self, event: str, caller: Caller, details: dict[str, Any]) -> str:
        shown = {name: _shown(value) for name, value in details.items()}
        at = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # ASCII, so that no text from outside can control the terminal of a reader.
        return json.dumps({"at": at, "event": event, **caller._asdict(), **shown}, default=str)

    def _append(self, lines: Sequence[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        with self._writing:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            limits = self._limits()
            size = self._path.stat().st_size if self._path.exists() else 0
            if size and size + len(data) > limits.max_size:
                self._rotate(limits.keep)
            append(self._path, data)

    def _rotate(self, keep: int) -> None:
        """Rename each file to that of the one before it, and delete those beyond ``keep``."""
        files = [self._path]
        while (older := self._path.with_name(f"{AUDIT_FILE}.{len(files)}")).exists():
            files.append(older)
        for number in range(len(files), 0, -1):
            file = files[number - 1]
            if number >= keep:
                file.unlink()
            else:
                file.rename(self._path.with_name(f"{AUDIT_FILE}.{number}"))


def _shown(value: Any) -> Any:
    text = json.dumps(value, default=str)
    return value if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def changed_settings(before: LoadedSettings, after: LoadedSettings) -> list[dict[str, Any]]:
    """Return the key and both values of each setting that differs, with masks for secrets."""
    old, new = (
        {record.key: record.value for record in loaded.records(reveal=True)}
        for loaded in (before, after)
    )
    old_shown, new_shown = (
        {record.key: record.value for record in loaded.records()} for loaded in (before, after)
    )
    return [
        {"key": key, "before": old_shown.get(key), "value": new_shown.get(key)}
        for key in old | new
        if old.get(key) != new.get(key)
    ]

"""Keeps what was written for each client, so that it can be taken back.

A folder per client in the data directory has ``connected.json`` and the files' original contents.
Everything here blocks.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.connect.client import ClientFile
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConflictError, CyberError, NotFoundError
from cyber_inference_tui.files import read_file, replace_file, rewrite_file

FOLDER = "connect"
_RECORD = "connected.json"
_MOST_BYTES = 16 << 20


class WrittenFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was written for a client."""

    path: str
    before: str | None
    """The original content, the name of a file beside this record; ``None``: there was no file."""
    after: bytes
    """The content that was written."""
    folders: tuple[str, ...] = ()
    """The folders that were made for it, the innermost first."""


class ConnectedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A client that was connected."""

    client: str
    url: str
    model: str
    at: datetime
    files: tuple[WrittenFile, ...]


@dataclass(frozen=True)
class Change:
    """A change of a file: the contents before and after it; ``None`` = there is no file."""

    path: Path
    before: bytes | None
    after: bytes | None
    original: bytes | None = None
    """The content without anything that was written for the client."""

    def difference(self, secrets: Sequence[str] = ()) -> list[str]:
        """Return the change as a unified diff, with each of ``secrets`` masked."""
        lines = difflib.unified_diff(
            _text(self.before or b"").splitlines(),
            _text(self.after or b"").splitlines(),
            "/dev/null" if self.before is None else str(self.path),
            "/dev/null" if self.after is None else str(self.path),
            n=2,
            lineterm="",
        )
        shown = list(lines)
        for secret in filter(None, secrets):
            shown = [line.replace(secret, f"{secret[:3]}…") for line in shown]
        return shown


class Connected:
    """The records of connected clients in a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER

    def record(self, client: str) -> ConnectedRecord | None:
        """Return what was written for a client; ``None`` if it is not connected."""
        try:
            data = read_file(self._folder / client / _RECORD, _MOST_BYTES)
            return msgspec.json.decode(data, type=thread_safe(ConnectedRecord))
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise CyberError(
                f"{self._folder / client / _RECORD} is damaged: {error}.",
                hint="The files beside it are the client's original settings.",
            ) from error

    def backup(self, client: str, file: WrittenFile) -> Path | None:
        """Return the path of a file's original content."""
        return self._folder / client / file.before if file.before else None

    def planned(self, client: str, files: Sequence[ClientFile]) -> list[Change]:
        """Return the changes that connect a client, in place of any that connected it before.

        Raises ``ConflictError`` for a file that cannot be changed.
        """
        record = self.record(client)
        written = {file.path: file for file in record.files} if record else {}
        changes = []
        for file in files:
            before = _content(file.path)
            original = before
            known = written.pop(str(file.path), None)
            if known is not None:
                # If the user has changed what was written, that is the new original.
                with contextlib.suppress(ConflictError):
                    original = self._without(client, known, before)
            after = file.after(_text(original or b"")).encode("utf-8", "surrogateescape")
            changes.append(Change(file.path, before, after, original))
        changes += [self._undoing(client, known) for known in written.values()]
        return changes

    def undoing(self, client: str) -> list[Change]:
        """Return the changes that take back what was written for a client.

        Files that nobody has changed since get their original content to the byte; of others
        only the written lines are taken back. Raises ``NotFoundError`` if the client is not
        connected, and ``ConflictError`` if written lines were changed.
        """
        return [self._undoing(client, known) for known in self._known(client).files]

    def _known(self, client: str) -> ConnectedRecord:
        record = self.record(client)
        if record is None:
            raise NotFoundError(
                f"{client} is not connected.", hint="`connect --list` shows the clients."
            )
        return record

    def _undoing(self, client: str, known: WrittenFile) -> Change:
        path = Path(known.path)
        before = _content(path)
        original = self._without(client, known, before)
        return Change(path, before, original, original)

    def _without(self, client: str, known: WrittenFile, present: bytes | None) -> bytes | None:
        """Return the ``present`` content without what was written."""
        backup = self.backup(client, known)
        original = read_file(backup, _MOST_BYTES) if backup else None
        if present is None or present == original:  # it is gone, or was never written
            return present
        if present == known.after:
            return original
        reversed_ = reverted(_text(original or b""), _text(known.after), _text(present))
        if reversed_ is None:
            where = f" Its original is {backup}." if backup else ""
            raise ConflictError(
                f"{known.path} was changed where connect had written.{where}",
                hint="Please take out the lines by hand.",
            )
        if not reversed_ and original is None:
            return None
        return reversed_.encode("utf-8", "surrogateescape")

    def write(self, record: ConnectedRecord, changes: Sequence[Change]) -> ConnectedRecord:
        """Make the ``changes`` and remember them; return the record with its files.

        The record is written first, so that an interrupted change can be undone.
        """
        folder = self._folder / record.client
        old = self.record(record.client)
        made = {file.path: file.folders for file in old.files} if old else {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            files = []
            for number, change in enumerate(changes):
                if change.after is None or change.after == change.original:
                    continue
                name = None
                if change.original is not None:
                    name = f"{number}-{change.path.name}"
                    replace_file(folder / name, change.original, mode=0o600, flush=True)
                path = str(change.path)
                folders = made.get(path) or tuple(map(str, _missing(change.path.parent)))
                files.append(
                    WrittenFile(path=path, before=name, after=change.after, folders=folders)
                )
            record = msgspec.structs.replace(record, files=tuple(files))
            data = msgspec.json.format(msgspec.json.encode(record))
            replace_file(folder / _RECORD, data, mode=0o600, flush=True)
            for change in changes:
                _make(change)
            kept = {file.before for file in files}
            for file in old.files if old else ():
                if file.before and file.before not in kept:
                    (folder / file.before).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(error) from error
        return record

    def undo(self, client: str, changes: Sequence[Change]) -> None:
        """Make the ``changes`` that take back what was written, and forget the client."""
        record = self._known(client)
        try:
            for change in changes:
                _make(change)
            for file in record.files:
                for folder in file.folders:
                    with contextlib.suppress(OSError):  # it is in use, or gone
                        Path(folder).rmdir()
            # The record last: until then the command can be repeated.
            for file in record.files:
                if (backup := self.backup(client, file)) is not None:
                    backup.unlink(missing_ok=True)
            (self._folder / client / _RECORD).unlink()
        except OSError as error:
            raise _unwritable(error) from error
        with contextlib.suppress(OSError):
            (self._folder / client).rmdir()
            self._folder.rmdir()


def reverted(original: str, written: str, present: str) -> str | None:
    """Return ``present`` with the change from ``original`` to ``written`` taken back, by lines.

    ``None`` if ``present`` differs from ``written`` where ``written`` differs from ``original``.
    """
    old, new, now = (text.splitlines(keepends=True) for text in (original, written, present))
    # The line of `present` for each line of `written` that is still there.
    kept: dict[int, int] = {}
    for first, at, size in difflib.SequenceMatcher(None, new, now, False).get_matching_blocks():
        kept.update({first + step: at + step for step in range(size)})
    result = list(now)
    steps = difflib.SequenceMatcher(None, old, new, False).get_opcodes()
    for tag, old_from, old_to, new_from, new_to in reversed(steps):
        if tag == "equal":
            continue
        places = [kept.get(line) for line in range(new_from, new_to)]
        start = (
            places[0] if places else kept.get(new_from, len(now) if not new[new_from:] else None)
        )
        if start is None or places != list(range(start, start + len(places))):
            return None
        result[start : start + len(places)] = old[old_from:old_to]
    return "".join(result)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _content(path: Path) -> bytes | None:
    try:
        data = read_file(path, _MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CyberError(
            f"{path} cannot be read: {error.strerror}.", hint="Check who may read it."
        ) from error
    if len(data) > _MOST_BYTES:
        raise ConflictError(f"{path} is too large for a settings file.")
    return data


def _missing(folder: Path) -> list[Path]:
    """Return the folders on the path that do not exist, the innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def _make(change: Change) -> None:
    if change.after == change.before:
        return
    target = Path(os.path.realpath(change.path))  # a link to a file kept elsewhere stays
    if change.after is None:
        target.unlink(missing_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    rewrite_file(target, change.after)


def _unwritable(error: OSError) -> CyberError:
    return CyberError(
        f"{error.filename} cannot be written: {error.strerror}.", hint="Check who may write there."
    )

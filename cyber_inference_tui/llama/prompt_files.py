"""The files of kept prompts: a folder for each model, with a note of what is valid in it.

Everything here blocks and belongs in a thread. A file counts only if the note has its size and its
SHA-256, and the note only if it is of the server that is started now: same model files, build and
settings. All else in a folder is deleted when the model's server starts. The files hold what people
wrote, so only this user may read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.files import read_file, replace_file

MOST_BYTES: Final = 8 << 30
"""Of all models together; the oldest files go first."""
MOST_AGE: Final = 7 * 86_400.0
"""Seconds since a prompt was saved."""
FREE_BYTES: Final = 2 << 30
"""That much of the disk stays free."""

PROOF: Final = "proof"
"""The name of a file that is only written to be restored."""
_NOTE: Final = "kept.json"
_NEW: Final = ".new"
"""The end of the name of a file that llama-server is writing."""
_FORMAT: Final = 1
"""Raise it when a note has other fields: older ones are ignored then."""
_MOST_NOTE: Final = 1 << 16


class KeptPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The file with the prompt of one slot."""

    slot: int
    tokens: int
    size_bytes: int
    sha256: str
    saved_at: float
    """In seconds since 1970."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """The kept prompts of a model, and whether they work."""

    server: str
    """Identifies the files, the build and the settings that the rest is valid for."""
    format: int = _FORMAT
    works: bool | None = None
    """Whether a restored prompt is used again; ``None`` = not proven yet."""
    reason: str = ""
    """Why it does not work, or why the last try failed."""
    failures: int = 0
    """Tries that failed in a row."""
    prompts: tuple[KeptPrompt, ...] = ()


def name_of(slot: int) -> str:
    """Return the name of the file with a slot's prompt."""
    return f"slot-{slot}"


def new_name_of(slot: int) -> str:
    """Return the name under which llama-server writes it."""
    return name_of(slot) + _NEW


def look(folder: Path, server: str) -> Note:
    """Return the note of a folder; a blank one if it has none for this ``server``."""
    blank = Note(server=server)
    try:
        data = read_file(folder / _NOTE, _MOST_NOTE)
        note = msgspec.json.decode(data, type=thread_safe(Note))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return blank
    if (note.server, note.format) != (server, _FORMAT):
        return blank
    there = tuple(one for one in note.prompts if _is_there(folder, one))
    return msgspec.structs.replace(note, prompts=there)


def _is_there(folder: Path, prompt: KeptPrompt) -> bool:
    try:
        return (folder / name_of(prompt.slot)).lstat().st_size == prompt.size_bytes
    except OSError:
        return False


def open_folder(folder: Path, server: str, now: float) -> Note:
    """Make a folder ready for a server and return its note. Raises ``OSError``.

    Whatever is not of this server, is too old or was not finished is deleted.
    """
    for one in (folder.parent, folder):
        one.mkdir(mode=0o700, parents=True, exist_ok=True)
        one.chmod(0o700)
    note = look(folder, server)
    fresh = tuple(one for one in note.prompts if 0 <= now - one.saved_at < MOST_AGE)
    note = msgspec.structs.replace(note, prompts=fresh)
    _clear(folder, keep={_NOTE, *(name_of(one.slot) for one in fresh)})
    return note


def write_note(folder: Path, note: Note) -> None:
    """Keep a note, and only the files that it names. Raises ``OSError``."""
    replace_file(folder / _NOTE, msgspec.json.encode(note), mode=0o600)
    _clear(folder, keep={_NOTE, *(name_of(one.slot) for one in note.prompts)})


def intact(folder: Path, prompts: Iterable[KeptPrompt]) -> tuple[KeptPrompt, ...]:
    """Return the prompts whose files are as they were written."""
    return tuple(one for one in prompts if _is_intact(folder / name_of(one.slot), one))


def _is_intact(path: Path, prompt: KeptPrompt) -> bool:
    try:
        return _digest(path) == (prompt.size_bytes, prompt.sha256)
    except OSError:
        return False


def take_over(folder: Path, slot: int, tokens: int, now: float) -> KeptPrompt:
    """Give the file that llama-server has written for a slot its name. Raises ``OSError``."""
    path = folder / new_name_of(slot)
    path.chmod(0o600)
    os.utime(path, (now, now))
    size, sha256 = _digest(path)
    path.replace(folder / name_of(slot))
    return KeptPrompt(slot=slot, tokens=tokens, size_bytes=size, sha256=sha256, saved_at=now)


def sweep(root: Path, now: float) -> None:
    """Delete files that are too old, and the oldest until the rest fits into ``MOST_BYTES``.

    Their notes stay, and with them what is known to work.
    """
    found = []
    for path in root.glob("*/slot-*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            found.append((status.st_mtime, status.st_size, path))
    total = 0
    for modified, size, path in sorted(found, reverse=True):
        total += size
        if now - modified >= MOST_AGE or total > MOST_BYTES:
            with contextlib.suppress(OSError):
                path.unlink()


def room(root: Path) -> int:
    """Return the bytes that may be written. Raises ``OSError``."""
    return min(MOST_BYTES, shutil.disk_usage(root).free - FREE_BYTES)


def delete_all(root: Path) -> None:
    """Delete everything. Raises ``OSError`` if something stays."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)


def _clear(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()


def _digest(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()

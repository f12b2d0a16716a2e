"""The saved conversations of this machine: one file each, if the person wants it."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.chat.transcript import FORMAT, SavedChat, to_json

CHATS_KEPT = 200
CHAT_BYTES = 16 * 1024 * 1024
"""A larger file is not read; three conversations within their bounds are smaller."""
_SWITCH = "saving"
"""This empty file says that conversations are saved."""


@dataclass(frozen=True, slots=True)
class SavedSummary:
    """A saved chat in a list."""

    name: str
    at: datetime
    question: str
    """The first one, cut."""
    models: tuple[str, ...]
    questions: int


class SavedChats:
    """The saved chats in ``folder``. Its methods block, and raise ``CyberError``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def is_on(self) -> bool:
        """Return whether conversations are saved."""
        return (self.folder / _SWITCH).exists()

    def switch(self, *, on: bool) -> None:
        """Save conversations from now on, or no longer."""
        if on:
            self._write(_SWITCH, b"")
        else:
            self.delete(_SWITCH)

    @staticmethod
    def new_name(now: datetime) -> str:
        """Return the name of the file of a chat that begins now."""
        return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}.json"

    def save(self, name: str, chat: SavedChat) -> None:
        """Write a chat, and delete the oldest ones beyond the bound."""
        self._write(name, to_json(chat))
        for path, _ in self._files()[CHATS_KEPT:]:
            self.delete(path.name)

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        with self._lock:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                replace_file(path, data, mode=0o600)
            except OSError as error:
                raise CyberError(write_problem(path, error)) from error

    def _files(self) -> list[tuple[Path, float]]:
        """Return the files and the times of their last changes, the newest first."""
        try:
            found = [(path, path.stat().st_mtime) for path in self.folder.glob("*.json")]
        except OSError as error:
            raise CyberError(f"{self.folder} cannot be read: {error.strerror}.") from error
        return sorted(found, key=lambda one: -one[1])

    def summaries(self) -> list[SavedSummary]:
        """Return the readable chats, the newest first."""
        found = []
        for path, changed in self._files()[:CHATS_KEPT]:
            try:
                chat = self._read(path)
            except (OSError, msgspec.MsgspecError):
                continue
            if chat.talks and chat.format == FORMAT:
                found.append(
                    SavedSummary(
                        path.name,
                        datetime.fromtimestamp(changed, UTC),
                        clean_line(" ".join(chat.question[:400].split()), limit=200),
                        tuple(clean_line(talk.model, limit=200) for talk in chat.talks),
                        max(len(talk.turns) for talk in chat.talks),
                    )
                )
        return found

    def read(self, name: str) -> SavedChat:
        """Return a chat."""
        path = self.folder / name
        try:
            return self._read(path)
        except OSError as error:
            raise CyberError(f"{path} cannot be read: {error.strerror}.") from error
        except msgspec.MsgspecError as error:
            raise CyberError(f"{path} is no saved conversation: {error}.") from error

    @staticmethod
    def _read(path: Path) -> SavedChat:
        return msgspec.json.decode(read_file(path, CHAT_BYTES), type=thread_safe(SavedChat))

    def delete(self, name: str) -> None:
        """Delete a chat; one that is gone already is deleted."""
        path = self.folder / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CyberError(f"{path} cannot be deleted: {error.strerror}.") from error

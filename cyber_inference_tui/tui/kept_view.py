"""The view that a person chose, kept between starts: orders, filters and layouts, by page.

The file is on the machine of the app, beside the user's keys, also when the service is elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TypeVar

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.text import clean_line

Value = TypeVar("Value", str, bool, int, list[str])
_Pages = dict[str, dict[str, str | bool | int | list[str]]]

MAX_BYTES = 64 * 1024
MAX_CHARACTERS = 200
"""Characters of a kept text; a longer one is not kept."""


class KeptView:
    """The kept values by page and name; without ``path`` they last until the app ends."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._changed: _Pages = {}
        self._writing = threading.Lock()
        self.problem = ""
        """Why the file could not be read, in one sentence."""
        self._values: _Pages = {}
        if path is not None:
            try:
                self._values = _read(path)
            except CyberError as error:
                self.problem = str(error)

    def get(self, page: str, name: str, default: Value) -> Value:
        """Return a kept value, or ``default`` if there is none of its type."""
        value = self._values.get(page, {}).get(name)
        return value if type(value) is type(default) else default

    def put(self, page: str, **values: str | bool | int | list[str]) -> bool:
        """Keep ``values`` for a page; return whether ``save`` has to be called for them."""
        first = not self._changed
        known = self._values.setdefault(page, {})
        for name, value in values.items():
            fits = not isinstance(value, str) or len(value) <= MAX_CHARACTERS
            if fits and known.get(name) != value:
                known[name] = value
                self._changed.setdefault(page, {})[name] = value
        return first and bool(self._changed)

    async def save(self, *, after: float = 0.0) -> None:
        """Write what has changed in ``after`` seconds; ``CyberError`` if the file cannot be."""
        await asyncio.sleep(after)
        changed, self._changed = self._changed, {}
        if changed and self._path is not None:
            await asyncio.to_thread(self._write, self._path, changed)

    def _write(self, path: Path, changed: _Pages) -> None:
        """Write the changes into the file, which another app may have written meanwhile."""
        with self._writing:
            try:
                pages = _read(path)
            except CyberError:
                pages = {}
            for page, values in changed.items():
                pages.setdefault(page, {}).update(values)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, msgspec.json.format(msgspec.json.encode(pages)) + b"\n")
            except OSError as error:
                raise CyberError(write_problem(path, error)) from None


def _read(path: Path) -> _Pages:
    try:
        data = read_file(path, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CyberError(f"{path} is larger than {MAX_BYTES} bytes.")
        return msgspec.json.decode(data, type=thread_safe(_Pages))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CyberError(f"{path}: {error.strerror}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = clean_line(str(error), limit=200)
        raise CyberError(f"{path} is damaged and is ignored: {reason}.") from None

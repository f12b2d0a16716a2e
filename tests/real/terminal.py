"""A real terminal: a tmux of our own, its keys and its screen."""

from __future__ import annotations

import os
import shlex
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.tools import tool
from tests.waiting import LIMIT, eventually

# The size would come from the variables, and stay, if a test runner has set them.
_NOT_OURS = ("CYBER_", "XDG_", "LLAMA_", "HF_", "TMUX", "TEXTUAL", "SSH", "COLUMNS", "LINES")


class Terminal:
    """A program in a terminal. Use as ``with``; at the end the terminal is closed: a hang-up."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str] = {},
        size: tuple[int, int] = (120, 40),
    ) -> None:
        self._tmux = [tool("tmux"), "-L", f"cyber-{uuid.uuid4().hex[:12]}", "-f", "/dev/null"]
        self._arguments = list(arguments)
        self._folder = folder
        self._environ = dict(environ)
        self._size = size

    def __enter__(self) -> Terminal:
        home = self._folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        # Not even tmux gets what a person has set; TERM inside is tmux's own.
        keep = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
        own = {"HOME": str(home), "OLLAMA_MODELS": str(home / "ollama"), "LC_ALL": "C.UTF-8"}
        environ = {**keep, **own, **self._environ}
        columns, lines = self._size
        command = f"{shlex.join(self._arguments)}; echo ended with $?; exec sleep 1000"
        self._run(
            "new-session", "-d", "-s", "main", "-x", str(columns), "-y", str(lines), command,
            environ=environ,
        )  # fmt: skip
        self._run("set-option", "-g", "status", "off")
        self._run("set-option", "-s", "set-clipboard", "on")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the terminal: what runs in it is hung up."""
        subprocess.run(
            [*self._tmux, "kill-server"], check=False, capture_output=True, timeout=LIMIT
        )

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names (``Enter``, ``Escape``, ``C-p``), or single characters."""
        for key in keys:
            self._run("send-keys", "-t", "main", key)

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._run("send-keys", "-t", "main", "-l", text)

    def resize(self, columns: int, lines: int) -> None:
        """Another size."""
        self._run("resize-window", "-t", "main", "-x", str(columns), "-y", str(lines))

    def screen(self) -> str:
        """What is on the screen."""
        return self._run("capture-pane", "-t", "main", "-p")

    def copied(self) -> str:
        """What was last put on the clipboard."""
        return self._run("show-buffer")

    def wait_for(self, *texts: str, limit: float = LIMIT) -> str:
        """The screen, once all ``texts`` are on it."""
        shown = ""

        def look() -> str:
            nonlocal shown
            shown = self.screen()
            return shown if all(text in shown for text in texts) else ""

        try:
            return eventually(look, limit=limit, interval=0.05, what=f"{texts}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{shown}") from None

    def wait_without(self, text: str, *, limit: float = LIMIT) -> str:
        """The screen, once ``text`` is no longer on it."""
        try:
            return eventually(
                lambda: shown if text not in (shown := self.screen()) else "",
                limit=limit,
                interval=0.05,
                what=f"a screen without {text!r}",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{self.screen()}") from None

    def _run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=None if environ is None else dict(environ),
            timeout=LIMIT,
        )
        return done.stdout

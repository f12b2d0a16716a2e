"""Opens a file in the user's editor while the app is suspended."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from cyber_inference_tui.errors import CyberError

_FALLBACKS = ("sensible-editor", "nano", "vim", "vi")


def editor_command(environ: Mapping[str, str]) -> list[str]:
    """Return ``$VISUAL``, ``$EDITOR`` or an installed editor; raise ``CyberError`` if none."""
    for name in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(environ.get(name, ""))
        except ValueError as error:
            raise CyberError(f"{name} is not a command: {error}.", hint=f"Set {name}.") from error
        if words:
            return words
    for name in _FALLBACKS:
        if found := shutil.which(name, path=environ.get("PATH")):
            return [found]
    raise CyberError("No editor was found.", hint="Set EDITOR.")


def run_editor(app: App[Any], path: Path) -> None:
    """Open ``path`` in the editor and wait until it closes; raise ``CyberError`` on failure."""
    command = editor_command(os.environ)
    try:
        # A repaint while the app is suspended would wait for the terminal forever.
        with app.batch_update(), app.suspend():
            ended = subprocess.run([*command, str(path)], check=False)  # the user's program
    except SuspendNotSupported:
        raise CyberError("No editor can be opened in this terminal.") from None
    except OSError as error:
        raise CyberError(
            f"The editor {command[0]} cannot be started: {error.strerror}.", hint="Set EDITOR."
        ) from error
    finally:
        app.refresh()
    if ended.returncode != 0:
        raise CyberError(f"{command[0]} ended with {ended.returncode}.")

"""A client program: where its settings are, and what they should be."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cyber_inference_tui.connect import json_text, settings_change, toml_text, yaml_text
from cyber_inference_tui.connect.connection import Connection
from cyber_inference_tui.errors import ConflictError


class Api(StrEnum):
    """The API that a client uses."""

    CHAT = "chat completions"
    RESPONSES = "responses"
    MESSAGES = "messages"


@dataclass(frozen=True)
class Form:
    """The notation of a settings file; both functions raise ``ValueError``."""

    read: Callable[[str], Any]
    with_changes: Callable[[str, Any], str]


JSON = Form(json_text.read, json_text.with_changes)
TOML = Form(toml_text.read, toml_text.with_changes)
YAML = Form(yaml_text.read, yaml_text.with_changes)


@dataclass(frozen=True)
class Home:
    """The user's home directory and variables."""

    path: Path
    environ: Mapping[str, str]
    platform: str = sys.platform

    def folder(self, variable: str, usual: Path) -> Path:
        """Return the folder that a variable names, else the usual one."""
        named = self.environ.get(variable)
        return Path(named).expanduser() if named else usual

    @property
    def config(self) -> Path:
        """The folder for the settings of programs that follow the XDG rules."""
        return self.folder("XDG_CONFIG_HOME", self.path / ".config")

    @property
    def app_data(self) -> Path:
        """The folder for the settings of programs that follow the platform's own rules."""
        if self.platform == "darwin":
            return self.path / "Library" / "Application Support"
        return self.config


@dataclass(frozen=True)
class ClientFile:
    """A settings file, and the values that it should have."""

    path: Path
    form: Form
    changes: Any

    def after(self, before: str) -> str:
        """Return the text of the file with the values.

        Raises ``ConflictError`` if the file is not valid, or only a change to more of it would set
        them.
        """
        try:
            present = self.form.read(before)
            changes = settings_change.settled(present, self.changes)
            after = self.form.with_changes(before, changes)
            if self.form.read(after) == settings_change.merged(present, changes):
                return after
            reason = "the values have no place of their own"
        except ValueError as error:
            reason = str(error)
        raise ConflictError(
            f"{self.path} cannot be changed: {reason}.",
            hint="--print shows the values: please add them by hand.",
        )

    def differences(self, text: str) -> list[str]:
        """Return the names of the values that the file does not have. Raises ``ValueError``."""
        present = self.form.read(text)
        changes = settings_change.settled(present, self.changes)
        wanted = settings_change.merged(present, changes)
        if present == wanted:
            return []
        return settings_change.changed(present, wanted)


@dataclass(frozen=True)
class Client:
    """A client program. Either ``files`` are written, or ``printed`` is shown."""

    name: str
    """The name on the command line."""
    title: str
    api: Api
    programs: tuple[str, ...] = ()
    """The names of its programs: it is installed if one is in ``PATH``."""
    folder: str = ""
    """A folder in the home directory that shows that it is installed, without a program."""
    files: Callable[[Connection, Home], tuple[ClientFile, ...]] = lambda connection, home: ()
    printed: Callable[[Connection], str] | None = None
    least_context: int = 0
    """Tokens that it needs to work well."""
    notes: Callable[[Connection], tuple[str, ...]] = lambda connection: ()
    """The steps that remain to be done by hand."""

    def lack_of_context(self, connection: Connection) -> str:
        """Return a sentence if the model has less context than the client needs, else nothing."""
        model = connection.model
        if model.context >= self.least_context:
            return ""
        return (
            f"{model.id} has {model.context:,} tokens of context; {self.title} needs about "
            f"{self.least_context:,}. Set context_size and parallel in its table of the settings, "
            "then connect again."
        )


def exports(variables: Mapping[str, str]) -> str:
    """Return the lines of a shell that set environment variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())

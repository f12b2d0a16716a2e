"""Writes tuned settings to the configuration, and takes them back.

``tuned.json`` in the data directory has the settings before the last tuning of each model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConflictError, CyberError, NotFoundError
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.records.tuning import TuneUndone
from cyber_inference_tui.service.configuration import Configuration
from cyber_inference_tui.settings.schema import MODEL_KEYS

TUNED_FILE = "tuned.json"
MARK = "Tuned on "
"""The beginning of the comments in the configuration."""
_MAX_BYTES = 1 << 20


class _Value(msgspec.Struct, frozen=True):
    """A setting before and after a tuning; ``None`` = the file did not have it."""

    before: Any
    after: Any


_Models = dict[str, dict[str, _Value]]


class TunedSettings:
    """The settings that tunings have changed."""

    def __init__(self, data_dir: Path, configuration: Configuration) -> None:
        self._path = data_dir / TUNED_FILE
        self._configuration = configuration

    async def write(self, model_id: str, values: Mapping[str, Any], comment: str) -> None:
        """Write better settings to the model's table, and put them into effect.

        ``comment`` follows ``MARK``. Raises ``CyberError``.
        """
        former = {name: self._present(model_id, name) for name in values}
        known = await asyncio.to_thread(self._read)
        known[model_id] = {name: _Value(former[name], values[name]) for name in values}
        await asyncio.to_thread(self._store, known)
        await self._configuration.set_in_model(
            model_id, values, comment=f"{MARK}{comment}", mark=MARK
        )

    async def undo(self, model_id: str) -> TuneUndone:
        """Return a model to the settings before its last tuning.

        What somebody has changed since then stays. Raises ``NotFoundError`` if there is nothing to
        undo.
        """
        known = await asyncio.to_thread(self._read)
        if model_id not in known:
            raise NotFoundError(f"No tuning has changed the settings of {model_id}.")
        tuned = known.pop(model_id)
        changed = tuple(
            name
            for name, value in tuned.items()
            if _plain(self._present(model_id, name)) != _plain(value.after)
        )
        values = {name: value.before for name, value in tuned.items() if name not in changed}
        if not values:
            raise ConflictError(
                f"All settings that the tuning of {model_id} wrote have been changed since then."
            )
        await self._configuration.set_in_model(model_id, values, comment="", mark=MARK)
        await asyncio.to_thread(self._store, known)
        return TuneUndone(model=model_id, values=values, changed_since=changed)

    def _present(self, model_id: str, name: str) -> Any:
        """Return a setting of the model's own table; ``None`` = it does not have it."""
        value = self._configuration.value(self._configuration.model_key(model_id, name))
        return None if value == MODEL_KEYS[name].default else value

    def _read(self) -> _Models:
        """Return what is stored. Blocks. A file that cannot be read has nothing to undo."""
        try:
            data = read_file(self._path, _MAX_BYTES)
            return msgspec.json.decode(data, type=thread_safe(_Models))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}

    def _store(self, known: _Models) -> None:
        """Store it, whole or not at all. Blocks; raises ``CyberError``."""
        try:
            replace_file(self._path, msgspec.json.encode(known), mode=0o600)
        except OSError as error:
            raise CyberError(write_problem(self._path, error)) from error


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    return list(value) if isinstance(value, tuple) else value

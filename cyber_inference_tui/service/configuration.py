"""The configuration of a running service: reload it when its file changes, and edit it.

A key is ``host``, or ``models."ID".context_size`` as TOML writes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import ConfigError, GuardedSettingError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import (
    ConfigCheckRecord,
    ConfigValueRecord,
    SettingEffect,
)
from cyber_inference_tui.service.audit_log import CONFIGURATION_FILE, AuditLog, changed_settings
from cyber_inference_tui.settings.credentials import CREDENTIALS, check_credentials_kept
from cyber_inference_tui.settings.edit import (
    check_valid,
    key_in,
    set_table,
    set_value,
    set_values,
    unset_value,
    with_key,
)
from cyber_inference_tui.settings.environment import without_settings
from cyber_inference_tui.settings.example import toml_value
from cyber_inference_tui.settings.load import (
    CurrentSettings,
    LoadedSettings,
    SettingSource,
    check_value,
    load_text,
    read_config,
    usual_models_dir,
)
from cyber_inference_tui.settings.masks import unmasked_value
from cyber_inference_tui.settings.schema import KEYS, Key, ModelSettings, Settings, TablePath
from cyber_inference_tui.settings.watch import FileWatch

_WATCH_INTERVAL = 1.0
_SETTLE_INTERVAL = 0.25
"""Seconds between two looks at a file that has just changed and may still be written."""
_SETTLE_LOOKS = 20

_EXPLICIT = 'set api_keys = [] or admin_password = ""'

_logger = logging.getLogger(__name__)


class Configuration:
    """Changes the settings while the service runs.

    It replaces what ``current`` holds. ``apply`` puts changed settings into effect; then, and when
    a changed file is refused, ``publish`` is called with the data of a ``config`` event.
    ``would_restart`` is ``Scheduler.would_restart``. ``bound_host`` returns the address that the
    service listens on: if others reach it, its key and its password cannot be taken away. ``audit``
    gets what changes in the file, by a request or by a person.
    """

    def __init__(
        self,
        current: CurrentSettings,
        *,
        bound_host: Callable[[], str],
        environ: Mapping[str, str],
        flags: Mapping[str, Any],
        apply: Callable[[Settings], Awaitable[None]],
        publish: Callable[[dict[str, str | None]], None],
        audit: AuditLog,
        would_restart: Callable[[Settings, Callable[[LocalModel], LocalModel]], list[str]],
    ) -> None:
        self._current = current
        self.loaded = current.loaded
        """As the file is now. What needs a restart is in force as it was at the start."""
        # Made here and not in ``watch``: an edit in between would never be seen.
        self._file_watch = FileWatch(self._path)
        self._text = _text_of(self._path)
        """The text of the file when it was last read."""
        self._was_gone = False
        """The file was gone or empty when it was last looked at."""
        self._bound_host = bound_host
        self._environ = environ
        self._flags = flags
        self._apply = apply
        self._publish = publish
        self._audit = audit
        self._would_restart = would_restart

    async def watch(self) -> None:
        """Reload the file whenever it has changed; runs until cancelled."""
        while True:
            await self._file_watch.wait(_WATCH_INTERVAL)
            for _ in range(_SETTLE_LOOKS):
                await asyncio.sleep(_SETTLE_INTERVAL)
                if not await asyncio.to_thread(self._file_watch.changed):
                    break
            try:
                await self.reload()
            except ConfigError as error:
                _logger.error("the changed configuration is refused: %s", error)
                self._publish({"error": str(error)})

    async def reload(self) -> None:
        """Put the settings of the file into force. Raises ``ConfigError`` and changes nothing.

        A file that is gone, empty or cut off is refused: the likely cause is an editor, a sync tool
        or a lost mount, and the defaults would open the service to others.
        """
        await self._load_file(edited=False)

    async def _load_file(self, *, edited: bool) -> None:
        """Reload; a file that this service has just ``edited`` may be empty."""
        text = await asyncio.to_thread(_text_of, self._path)
        edited = edited and self._path.exists()
        if not edited:
            self._check_not_gone(text)
        new = await asyncio.to_thread(
            load_text, text, self._path, environ=self._environ, flags=self._flags
        )
        if not edited:
            self._check_whole(text, new)
        self._check_kept(new.settings)
        before, self._text, self._was_gone = self._text, text, False
        changed = new.settings != self.loaded.settings
        self.loaded = new
        self._current.replace(self._applicable(new))
        if before != text:
            changes = await asyncio.to_thread(self._changes, before, text)
            await self._audit.note_all(
                "setting_changed", changes, None if edited else CONFIGURATION_FILE
            )
        if not changed:
            return
        await self._apply(self._current.settings)
        self._publish({"error": None})
        _logger.info("the configuration was reloaded from %s", new.config_path)

    def _changes(self, before: str, after: str) -> list[dict[str, Any]]:
        """Return the settings that another text of the file has changed, for the audit log."""
        try:
            old = self._of_file_alone(before)
        except ConfigError:
            # It became invalid just before the service read it for the first time.
            old = self._of_file_alone("")
        return changed_settings(old, self._of_file_alone(after))

    def _applicable(self, new: LoadedSettings) -> LoadedSettings:
        began = self._current.settings
        kept = {name: getattr(began, name) for name, key in KEYS.items() if not key.live}
        if new.sources["models_dir"] is SettingSource.DEFAULT:
            kept["models_dir"] = usual_models_dir(began.data_dir)
        settings = msgspec.structs.replace(new.settings, **kept)
        return msgspec.structs.replace(new, settings=settings)

    def values(self) -> list[ConfigValueRecord]:
        """Return every setting with its value and source; secrets are masked."""
        return self.loaded.records()

    def value(self, key: str) -> Any:
        """Return a setting as the file has it now; raises ``NotFoundError`` for an unknown key."""
        _, table, known = self._named(key)
        return self.loaded.value(known, table)

    async def set(self, key: str, value: Any, *, by_owner: bool = False) -> ConfigValueRecord:
        """Write a setting to the configuration file and apply it.

        A guarded one changes only ``by_owner``; otherwise it raises ``GuardedSettingError``.
        """
        key, table, known = self._named(key)
        value = self._unmasked(key, known, table, value)
        check_valid(self._path, key, value)
        _check_owner(key, known, by_owner=by_owner)
        if not table and known.name in CREDENTIALS and not check_value(known.name, value):
            self._check_kept_without(known)
        await to_its_end(self._edit(partial(set_value, self._path, key, value)))
        return self.loaded.record(known, table)

    async def unset(self, key: str, *, by_owner: bool = False) -> ConfigValueRecord:
        """Remove a setting from the configuration file, so that its default applies again."""
        key, table, known = self._named(key)
        _check_owner(key, known, by_owner=by_owner)
        if not table and known.name in CREDENTIALS:
            self._check_kept_without(known)
        await to_its_end(self._edit(partial(unset_value, self._path, key)))
        return self.loaded.record(known, table)

    async def set_in_model(
        self, model_id: str, values: Mapping[str, Any | None], *, comment: str, mark: str
    ) -> None:
        """Set keys of a model's table, with a comment above them (``edit.set_values``).

        They are the service's own decisions, so that guarded keys are among them.
        """
        keys = {self.model_key(model_id, name): value for name, value in values.items()}
        edit = partial(set_values, self._path, keys, comment=comment, mark=mark)
        await to_its_end(self._edit(edit))

    def model_key(self, model_id: str, name: str) -> str:
        """Return a key of a model's table as the file has it."""
        return self._named(f"models.{toml_value(model_id)}.{name}")[0]

    async def set_table(self, kind: str, name: str, values: Mapping[str, Any] | None) -> None:
        """Replace the table ``[kind."name"]`` in the file, or remove it, and apply the change."""
        await to_its_end(self._edit(partial(set_table, self._path, kind, name, values)))

    async def _edit(self, edit: Callable[[], None]) -> None:
        """Edit the file and apply it: all of it, or nothing."""
        await asyncio.to_thread(self._check_before_writing)
        await asyncio.to_thread(edit)
        await self._load_file(edited=True)

    async def check(self, key: str, value: Any, *, by_owner: bool = False) -> ConfigCheckRecord:
        """Return what ``set`` would do, or raise what it would raise; writes nothing."""
        key, table, known = self._named(key)
        value = self._unmasked(key, known, table, value)
        check_valid(self._path, key, value)
        _check_owner(key, known, by_owner=by_owner)
        written, after = await asyncio.to_thread(self._preview, key, value)
        self._check_kept(after.settings)
        applicable = self._applicable(after).settings
        restarted = self._would_restart(applicable, lambda model: reconfigured(model, applicable))
        record = written.record(known, table)
        return ConfigCheckRecord(
            key=record.key,
            value=record.value,
            effect=_effect(self.loaded, written, after, known, table, restarted=bool(restarted)),
            models=tuple(restarted),
        )

    def _preview(self, key: str, value: Any) -> tuple[LoadedSettings, LoadedSettings]:
        """Return the settings of the changed file alone, and those that would apply. Blocks."""
        text = self._check_before_writing()
        text = with_key(text, self._path, key, value)
        return (
            self._of_file_alone(text),
            load_text(text, self._path, environ=self._environ, flags=self._flags),
        )

    def _of_file_alone(self, text: str) -> LoadedSettings:
        return load_text(text, self._path, environ=without_settings(self._environ), flags={})

    def _check_before_writing(self) -> str:
        """Return the file's text if it may be edited. Blocks; raises ``ConfigError``."""
        text = _text_of(self._path)
        self._check_not_gone(text)
        if self._was_gone:
            new = load_text(text, self._path, environ=self._environ, flags=self._flags)
            self._check_whole(text, new)
        return text

    def _check_not_gone(self, text: str) -> None:
        if self._text.strip() and not text.strip():
            self._was_gone = True
            what = "is empty" if text or self._path.exists() else "is gone"
            raise ConfigError(
                f"{self._path}: {what}: the settings stay as they were.",
                hint="Put it back, or restart the service to have the defaults.",
            )

    def _check_whole(self, text: str, new: LoadedSettings) -> None:
        """Raise ``ConfigError`` for a file that looks like a part of the previous one.

        Such a file is a beginning, still being written or cut off. If a key or a password
        is missing, it is also a file that sets nothing, or that replaces a missing file.
        """
        old = self.loaded.settings
        left_out = [
            name
            for name in CREDENTIALS
            if getattr(old, name)
            and not getattr(new.settings, name)
            and new.sources[name] is SettingSource.DEFAULT
        ]
        is_beginning = len(text) < len(self._text) and self._text.startswith(text)
        if is_beginning and (left_out or not text.endswith("\n")):
            raise ConfigError(
                f"{self._path}: is cut off after line {text.count(chr(10))}: the settings stay as"
                " they were.",
                hint=f"Put the rest back. To take out a key or a password at its end, {_EXPLICIT}.",
            )
        sets_nothing = not new.settings.models and SettingSource.FILE not in new.sources.values()
        if left_out and (sets_nothing or self._was_gone):
            what = f"was gone, and is back without {' and '.join(left_out)}"
            if sets_nothing:
                what = "sets nothing any more"
            raise ConfigError(
                f"{self._path}: {what}: the settings stay as they were.",
                hint=f"Put the rest back. To open the service, {_EXPLICIT}.",
            )

    def _check_kept(self, new: Settings) -> None:
        check_credentials_kept(self.loaded.settings, new, self._bound_host())

    def _check_kept_without(self, known: Key) -> None:
        """Raise ``ConfigError`` if the file without this key would be refused."""
        wanted = msgspec.structs.replace(self.loaded.settings, **{known.name: known.default})
        self._check_kept(wanted)

    @property
    def _path(self) -> Path:
        return self.loaded.config_path

    def _named(self, key: str) -> tuple[str, TablePath, Key]:
        """Return the key as the file has it, and its parts."""
        return key_in(self.loaded.settings, key)

    def _unmasked(self, key: str, known: Key, table: TablePath, value: Any) -> Any:
        """Return the value with the present secrets in place of masks."""
        given = {SettingSource.ENV, SettingSource.FLAG}
        if not table and self.loaded.sources[known.name] in given:
            # A secret from the environment is never copied into the file.
            return unmasked_value(key, known, value, ())
        return unmasked_value(key, known, value, self.loaded.value(known, table))


def _check_owner(key: str, known: Key, *, by_owner: bool) -> None:
    if known.guarded and not by_owner:
        raise GuardedSettingError(
            f"{key} decides which programs and files the service uses, or where secrets go, so"
            " only its owner may change it.",
            hint="Use 'cyber-inference-tui config set' as the service's user, or set admin_password"
            " and log in.",
            param="key",
        )


def _text_of(path: Path) -> str:
    """Return the file's text, empty if there is no file. Blocks; raises ``ConfigError``."""
    try:
        return read_config(path)
    except FileNotFoundError:
        return ""


def _effect(
    before: LoadedSettings,
    written: LoadedSettings,
    after: LoadedSettings,
    known: Key,
    table: TablePath,
    *,
    restarted: bool,
) -> SettingEffect:
    """Return the effect of a change: the file will make ``written``, and ``after`` will apply."""
    if before.value(known, table) == written.value(known, table):
        return SettingEffect.NOTHING
    if not table and after.sources[known.name] in {SettingSource.ENV, SettingSource.FLAG}:
        return SettingEffect.OVERRIDDEN
    if not known.live or known.name == "preload":
        return SettingEffect.RESTARTS_SERVICE
    return SettingEffect.RESTARTS_MODELS if restarted else SettingEffect.NOW


def reconfigured(model: LocalModel, settings: Settings) -> LocalModel:
    """Return a model as its table in other settings would configure it.

    Files are not looked at: if the table no longer names a projector, the result has none, though
    there may be one beside the model.
    """
    tables = settings.models
    base = model.preset_of or model.id
    alike = [name for name in tables if name.casefold() == base.casefold()]
    name = base if base in tables or len(alike) != 1 else alike[0]
    table = tables.get(name, ModelSettings())
    if model.preset_of:
        preset = model.id.removeprefix(f"{model.preset_of}:")
        if preset not in table.presets:
            return model  # it ends, and is not restarted
        table = table.with_preset(preset)
    path, mmproj = model.path, model.mmproj
    if table.path is not None:
        path = settings.models_dir / table.path
    if table.mmproj is not None:
        mmproj = settings.models_dir / table.mmproj
    elif model.settings.mmproj is not None:
        mmproj = None
    return msgspec.structs.replace(model, settings=table, path=path, mmproj=mmproj)

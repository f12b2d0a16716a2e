"""Read the settings: defaults < file < environment < flags, each value with its source.

All mistakes are reported together, each with its place, the expected value and, for an unknown
name, the nearest known name.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.errors import ConfigError, NotFoundError
from cyber_inference_tui.files import read_file
from cyber_inference_tui.records import ConfigValueRecord
from cyber_inference_tui.records.peers import MOST_PEERS, NAME_PATTERN
from cyber_inference_tui.settings.environment import (
    ENV_PREFIX,
    home_of,
    platform_folder,
    quoted_variables,
    unquoted,
    variable,
)
from cyber_inference_tui.settings.example import toml_key, toml_value
from cyber_inference_tui.settings.masks import masked_value
from cyber_inference_tui.settings.owned_options import is_option_variable, owned_variable_problem
from cyber_inference_tui.settings.peer_address import address_problem
from cyber_inference_tui.settings.positions import KeyPath, key_lines, key_path
from cyber_inference_tui.settings.schema import (
    ALIASES,
    KEYS,
    PRESETS,
    TABLES,
    Key,
    ModelSettings,
    PeerSettings,
    Settings,
    TablePath,
    keys_of,
    tables_of,
    value_in,
)
from cyber_inference_tui.settings.split import split_problem, unknown_boxes
from cyber_inference_tui.settings.values import (
    InvalidValueError,
    alias_tables,
    convert,
    expanded,
    in_words,
    items,
    nearest,
)
from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import clean_line, escaped

CONFIG_FILE = "config.toml"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
MAX_FILE = 1 << 20
"""Bytes that the file may have."""

# Variables of this prefix that are no settings.
_NOT_SETTINGS = frozenset({CONFIG_VARIABLE, f"{ENV_PREFIX}HOME"})

_PRESET_NAME = re.compile(r"(?!latest$)[A-Za-z0-9._-]{1,64}")
"""Ollama's clients add the tag ``latest`` to any name without a tag."""


class SettingSource(StrEnum):
    """The source of a value; a later source wins."""

    DEFAULT = "default"
    FILE = "file"
    ENV = "env"
    FLAG = "flag"


class LoadedSettings(msgspec.Struct, frozen=True):
    """The settings, the source of each, and the file that they were read from."""

    settings: Settings
    sources: dict[str, SettingSource]
    config_path: Path
    warnings: tuple[str, ...] = ()
    """Remarks that are no mistakes, such as an unknown variable."""

    def records(self, *, reveal: bool = False) -> list[ConfigValueRecord]:
        """Return the record of every setting; secrets are masked unless ``reveal``."""
        shown = [self.record(key, reveal=reveal) for key in KEYS.values()]
        for table in tables_of(self.settings):
            shown += [
                self.record(key, table, reveal=reveal)
                for key in keys_of(table).values()
                if self.value(key, table) != key.default
            ]
        return shown

    def value(self, key: Key, table: TablePath = ()) -> Any:
        """Return the value of a setting in a table."""
        return value_in(self.settings, table, key)

    def record(self, key: Key, table: TablePath = (), *, reveal: bool = False) -> ConfigValueRecord:
        """Return the record of a setting in a table; ``reveal`` shows a secret as it is."""
        value = self.value(key, table)
        source = SettingSource.DEFAULT if value == key.default else SettingSource.FILE
        if not table:
            source = self.sources[key.name]
        if not reveal:
            value = masked_value(key, value)
        default = key.default
        if key is KEYS["models_dir"]:
            default = usual_models_dir(self.settings.data_dir)
        return ConfigValueRecord(
            key=key_name((*table, key.name)),
            value=plain_value(value),
            source=source.value,
            default=plain_value(default),
            help=key.help,
            secret=key.secret,
            guarded=key.guarded,
            live=key.live,
            group=key.group,
        )


class CurrentSettings:
    """The settings in force of a running service.

    Whoever needs them at any time keeps this holder, whose ``loaded`` is replaced on a change.
    """

    def __init__(self, loaded: LoadedSettings) -> None:
        self.replace(loaded)

    def replace(self, loaded: LoadedSettings) -> None:
        """Put other settings into force."""
        self.loaded = loaded
        self.settings = loaded.settings


def usual_models_dir(data_dir: Path) -> Path:
    """Return the models' directory if ``models_dir`` is not set."""
    return data_dir / "models"


def plain_value(value: Any) -> Any:
    """Return a setting's value as JSON has it."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    return list(plain) if isinstance(plain, tuple) else plain


def config_path(config: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file: the flag's, the variable's, or the platform's."""
    named = config if config is not None else variable(environ, CONFIG_VARIABLE)
    if named:
        try:
            return expanded(Path(named), folder=None, home=home_of(environ))
        except InvalidValueError as error:
            raise ConfigError(f"The configuration file {named}: {error}.") from None
    return platform_folder("CONFIG", environ) / CONFIG_FILE


def load(
    *, config: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> LoadedSettings:
    """Load the settings from all sources.

    Raises ``ConfigError``, whose message has a line for each mistake, also if there is no data
    directory. A file that does not exist is a mistake only if ``config`` or the variable names it.
    """
    path = config_path(config, environ)
    try:
        text = read_config(path)
    except FileNotFoundError:
        if config is not None or variable(environ, CONFIG_VARIABLE):
            named = "" if config is None else f" --config {shlex.quote(str(path))}"
            raise ConfigError(
                f"{escaped(str(path))}: there is no such file.",
                hint=escaped(f"`cyber-inference-tui init{named}` makes it."),
            ) from None
        text = ""
    loaded = load_text(text, path, environ=environ, flags=flags)
    if loaded.sources["data_dir"] is SettingSource.DEFAULT:
        platform_folder("DATA", environ)
    return loaded


def load_if_there(
    path: Path, *, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> LoadedSettings:
    """Load the settings as ``load`` does; a file that does not exist is no mistake."""
    try:
        text = read_config(path)
    except FileNotFoundError:
        text = ""
    return load_text(text, path, environ=environ, flags=flags)


def read_config(path: Path) -> str:
    """Return the file's text. Raises ``FileNotFoundError``, or ``ConfigError`` if unreadable."""
    shown = escaped(str(path))
    try:
        data = read_file(path, MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}.") from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{shown}: is larger than {MAX_FILE} bytes.")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{shown}: is UTF-16 text.", hint="Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{shown}:{line}: is not UTF-8 text.") from None


def load_text(
    text: str, path: Path, *, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> LoadedSettings:
    """Load the settings as ``load`` does, from the text of a file."""
    reader = _Reader(text, path, environ)
    reader.take_file()
    reader.take_environment()
    reader.take_flags(flags)
    return reader.result()


class _Reader:
    """Collects values and mistakes, source after source."""

    def __init__(self, text: str, path: Path, environ: Mapping[str, str]) -> None:
        self._text = text
        self._path = path
        self._environ = environ
        self._home = home_of(environ)
        self._values: dict[str, Any] = {}
        self._sources = dict.fromkeys(KEYS, SettingSource.DEFAULT)
        self._models: dict[str, ModelSettings] = {}
        self._peers: dict[str, PeerSettings] = {}
        self._mistakes: list[str] = []
        self._warnings: list[str] = []
        self._lines: dict[KeyPath, int] = {}

    def result(self) -> LoadedSettings:
        self._check_names()
        self._check_splits()
        if self._values.get("tls_key") and not self._values.get("tls_cert"):
            self._note(("tls_key",), "is set, but tls_cert is not")
        if self._mistakes:
            # Names and values are outside text: keep each mistake on one harmless line.
            raise ConfigError("\n".join(clean_line(mistake) for mistake in self._mistakes))
        if "data_dir" not in self._values:
            # ``load`` refuses it without a home.
            with contextlib.suppress(ConfigError):
                self._values["data_dir"] = platform_folder("DATA", self._environ)
            self._values.setdefault("data_dir", KEYS["data_dir"].default)
        self._values.setdefault("models_dir", usual_models_dir(self._values["data_dir"]))
        settings = Settings(**self._values, models=self._models, peers=self._peers)
        return LoadedSettings(settings, self._sources, self._path, tuple(self._warnings))

    def take_environment(self) -> None:
        """Take the variables; a variable that is set to nothing is not set."""
        self._warnings += [
            f"{name}: the quotes around its value were removed"
            for name in quoted_variables(self._environ)
        ]
        for given, text in sorted(self._environ.items()):
            value = unquoted(text)
            if not given.startswith(ENV_PREFIX) or given in _NOT_SETTINGS or not value:
                continue
            name = given.removeprefix(ENV_PREFIX).lower()
            if given == f"{ENV_PREFIX}{name.upper()}" and (key := KEYS.get(name)) is not None:
                if key.is_list and not value.lstrip().startswith("["):
                    # Each part may be empty, or have quotes of its own.
                    value = ",".join(filter(None, map(unquoted, value.split(","))))
                if value:
                    self._take_given(name, value, SettingSource.ENV, given)
                continue
            # Another program may use the prefix, too, so this is no mistake.
            close = close_names(name, KEYS, 1)
            hint = f"; did you mean {ENV_PREFIX}{close[0].upper()}?" if close else ""
            self._warnings.append(clean_line(f"{given}: unknown setting{hint}"))
        if options := sorted(filter(is_option_variable, self._environ)):
            self._warnings.append(
                clean_line(
                    f"{', '.join(options)}: not passed on to the models' servers; use llama_args, "
                    "or a model's args and env"
                )
            )

    def take_flags(self, flags: Mapping[str, Any]) -> None:
        for name, value in flags.items():
            self._take_given(name, value, SettingSource.FLAG, f"--{name.replace('_', '-')}")

    def _take_given(self, name: str, value: Any, source: SettingSource, where: str) -> None:
        """Take a variable or a flag: text for any type, paths relative to the working directory."""
        key = KEYS.get(name)
        if key is None:
            self._mistakes.append(f"{where}: unknown setting{nearest(name, KEYS)}")
            return
        try:
            self._values[name] = convert(key, value, folder=None, home=self._home, is_text=True)
            self._sources[name] = source
        except InvalidValueError as error:
            self._mistakes.append(f"{where}: {error}")

    def take_file(self) -> None:
        try:
            document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            line = _line_of(error, self._text)
            self._mistakes.append(f"{self._path}:{line}: {_in_words(error, self._text, line)}")
            return
        except RecursionError:
            self._mistakes.append(f"{self._path}: is nested too deeply")
            return
        except ValueError:
            # Python refuses numbers of thousands of digits without their line.
            line = _line_of_endless_number(self._text)
            self._mistakes.append(f"{self._path}:{line}: has a number of too many digits")
            return
        self._lines = key_lines(self._text)
        for name, value in document.items():
            if name in TABLES:
                self._take_tables(name, value)
                continue
            typed = self._from_file((), name, value, KEYS)
            if typed is not None:
                self._values[name] = typed
                self._sources[name] = SettingSource.FILE

    def _take_tables(self, kind: str, tables: Any) -> None:
        example = "my-model" if kind == "models" else "workstation"
        if not isinstance(tables, dict):
            self._note((kind,), f'expected tables like [{kind}."{example}"], found ', tables)
            return
        for name, table in tables.items():
            path = (kind, name)
            if not isinstance(table, dict):
                self._note(path, "expected a table, found ", table)
                continue
            if kind == "models":
                self._take_model(name, table)
            else:
                self._take_peer(name, PeerSettings(**self._typed(path, table)))

    def _typed(self, path: TablePath, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the typed values of a table, without those that are mistakes."""
        keys = keys_of(path)
        return {
            key: typed
            for key, value in table.items()
            if (typed := self._from_file(path, key, value, keys)) is not None
        }

    def _take_model(self, model_id: str, table: dict[str, Any]) -> None:
        path = ("models", model_id)
        presets = table.pop(PRESETS, {})
        own = ModelSettings(**self._typed(path, table), presets=self._presets(path, presets))
        if not model_id.isprintable() or model_id != model_id.strip() or not model_id:
            self._note(path, "expected a model's id (visible characters)")
        self._models[model_id] = own
        self._check_variables(path, own.command, own.env)
        for name, values in own.presets.items():
            command = values.get("command", own.command)
            self._check_variables((*path, PRESETS, name), command, values.get("env", {}))

    def _presets(self, model: TablePath, tables: Any) -> dict[str, dict[str, Any]]:
        if not isinstance(tables, dict):
            self._note((*model, PRESETS), "expected tables like presets.long, found ", tables)
            return {}
        presets = {}
        for name, table in tables.items():
            path = (*model, PRESETS, name)
            if not _PRESET_NAME.fullmatch(name):
                self._note(path, 'expected a name of letters, digits, ".", "_" and "-", not latest')
            elif not isinstance(table, dict):
                self._note(path, "expected a table, found ", table)
            else:
                presets[name] = self._typed(path, table)
        return presets

    def _check_variables(
        self, table: TablePath, command: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        # The variables of another program are not checked.
        for given in () if command else variables:
            if (why := owned_variable_problem(given)) is not None:
                self._note((*table, "env"), why, at=(*table, "env", given))

    def _take_peer(self, name: str, own: PeerSettings) -> None:
        path = ("peers", name)
        if not re.fullmatch(NAME_PATTERN, name):
            self._note(path, "expected the name of a box (small letters, digits and -)")
        if own.url and (why := address_problem(own.url, insecure=own.insecure)) is not None:
            self._note((*path, "url"), why)
        if len(self._peers) == MOST_PEERS:
            self._note(path, f"there are {MOST_PEERS} boxes already")
        self._peers[name] = own

    def _from_file(
        self, table: tuple[str, ...], name: str, value: Any, keys: Mapping[str, Key]
    ) -> Any:
        """Return the typed value, or ``None`` for a mistake (TOML has no such value)."""
        key = keys.get(name)
        path = (*table, name)
        if key is None:
            other = "; it is a setting of the whole service" if name in KEYS else ""
            if table and name in TABLES[table[0]]:
                other = "; it belongs into the model's own table"
            self._note(path, f"unknown setting{other or nearest(name, keys)}")
            return None
        folder = self._path.parent
        if key.form == ALIASES and isinstance(value, dict):
            tables, mistakes = alias_tables(value, folder=folder, home=self._home)
            for mistake in mistakes:
                self._note_unfit((*path, *mistake.table), mistake)
            return tables
        if key.is_list and isinstance(value, list):
            found, mistakes = items(key, value, folder=folder, home=self._home)
            for mistake in mistakes:
                self._note_unfit(path, mistake)
            return found
        try:
            return convert(key, value, folder=folder, home=self._home, is_text=False)
        except InvalidValueError as error:
            self._note_unfit(path, error)
            return None

    def _note_unfit(self, path: tuple[str, ...], error: InvalidValueError) -> None:
        self._note(path, str(error), at=path if error.item is None else (*path, error.item))

    def _check_names(self) -> None:
        """Note names that two models have."""
        owners = {model_id: model_id for model_id in self._models}
        for model_id, table in self._models.items():
            for number, alias in enumerate(table.aliases):
                owner = owners.setdefault(alias, model_id)
                if owner != model_id:
                    path = ("models", model_id, "aliases")
                    message = f'"{alias}" names the model "{owner}" already'
                    place = alias if isinstance(table.aliases, dict) else number
                    self._note(path, message, at=(*path, place))

    def _check_splits(self) -> None:
        """Note models that cannot be split as their tables say.

        A box that is not paired is no mistake: removing a box must not break the file.
        """
        for model_id, table in self._models.items():
            path = ("models", model_id, "split")
            if (why := split_problem(table, self._peers)) is not None:
                self._note(path, why)
                continue
            for name in unknown_boxes(table, self._peers):
                known = nearest(name, self._peers)
                self._warnings.append(
                    clean_line(f'{key_name(path)}: no box "{name}" is paired{known}')
                )

    def _note(
        self,
        path: tuple[str, ...],
        message: str,
        value: Any = msgspec.UNSET,
        *,
        at: KeyPath | None = None,
    ) -> None:
        """Note a mistake in the file at the line of ``at``, or of ``path``."""
        where = path if at is None else at
        known = (self._lines.get(where[:end]) for end in range(len(where), 0, -1))
        line = next((line for line in known if line is not None), None)
        place = str(self._path) if line is None else f"{self._path}:{line}"
        if value is not msgspec.UNSET:
            message += in_words(value)
        self._mistakes.append(f"{place}: {key_name(path)}: {message}")


def key_name(path: Sequence[str]) -> str:
    """Return a key for messages and records: ``host``, ``models."ID".path``,
    ``….aliases."NAME".…``, ``….presets.NAME.…``."""
    if path[0] not in TABLES:
        return path[0]
    parts = list(path)
    for number in range(1, min(len(parts), 4), 2):
        is_preset = number == 3 and parts[2] == PRESETS
        parts[number] = toml_key(path[number]) if is_preset else toml_value(path[number])
    return ".".join(parts)


def _line_of(error: tomllib.TOMLDecodeError, text: str) -> int:
    # Python 3.11's error has its line in the message only ("… (at line 3, column 5)").
    _, found, rest = str(error).rpartition("(at line ")
    number = rest.split(",")[0]
    return int(number) if found and number.isdigit() else text.count("\n") + 1


def _in_words(error: tomllib.TOMLDecodeError, text: str, line: int) -> str:
    """Return the error in words; Python's reader does not name a key that is set twice."""
    if str(error).startswith("Cannot overwrite a value"):
        name = text.split("\n")[line - 1].partition("=")[0].strip()
        if key_path(name) is not None:
            return f"{name}: is set a second time"
    return str(error)


def _line_of_endless_number(text: str) -> int:
    number = re.search(r"[0-9_]{4300,}", text)
    return text.count("\n", 0, number.start()) + 1 if number else 1


def check_value(key: str, value: Any) -> Any:
    """Return a top-level setting's typed value, from a command line's text or from JSON.

    Raises ``NotFoundError`` for an unknown key and ``ConfigError`` for an invalid value.
    """
    known = KEYS.get(key)
    if known is None:
        raise NotFoundError(
            f"There is no setting '{escaped(key)}'{nearest(key, KEYS) or '.'}", param="key"
        )
    try:
        return convert(
            known, value, folder=None, home=home_of(os.environ), is_text=isinstance(value, str)
        )
    except InvalidValueError as error:
        raise ConfigError(f"{key}: {error}.", param="value") from None

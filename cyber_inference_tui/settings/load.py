"""Reading the settings: defaults < file < environment < flags, every value with its source.

All mistakes are found before any is reported, each with its place, what was expected and, for an
unknown name, the nearest one that exists.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from cyber_inference_tui.errors import ConfigError, NotFoundError
from cyber_inference_tui.records import ConfigValueRecord
from cyber_inference_tui.settings.positions import key_lines
from cyber_inference_tui.settings.schema import (
    APP_NAME,
    KEYS,
    MASK,
    MODEL_KEYS,
    Key,
    ModelSettings,
    Settings,
)

CONFIG_FILE = "config.toml"
ENV_PREFIX = "CYBER_INFERENCE_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
_MAX_FILE = 1 << 20

# Variables of this prefix that belong to other parts of the program, not to a setting.
_NOT_SETTINGS = frozenset({CONFIG_VARIABLE, f"{ENV_PREFIX}HOME"})
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class Source(StrEnum):
    """Where a value comes from; a later one wins."""

    DEFAULT = "default"
    FILE = "file"
    ENV = "env"
    FLAG = "flag"


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force, where each comes from, and the file they were read from."""

    settings: Settings
    sources: dict[str, Source]
    config_path: Path
    warnings: tuple[str, ...] = ()
    """What is odd without being wrong, such as an unknown variable."""

    def records(self) -> list[ConfigValueRecord]:
        """Every setting as the wire shows it; secrets masked."""
        shown = [self._record(key) for key in KEYS.values()]
        for model_id, table in self.settings.models.items():
            default = ModelSettings()
            for name, key in MODEL_KEYS.items():
                value = getattr(table, name)
                if value != getattr(default, name):
                    # An environment often carries tokens: its values are nobody's business.
                    if name == "env":
                        value = dict.fromkeys(value, MASK)
                    shown.append(
                        ConfigValueRecord(
                            key=f'models."{model_id}".{name}',
                            value=_plain(value),
                            source=Source.FILE.value,
                            default=_plain(key.default),
                            help=key.help,
                            live=True,
                        )
                    )
        return shown

    def _record(self, key: Key) -> ConfigValueRecord:
        value = getattr(self.settings, key.name)
        return ConfigValueRecord(
            key=key.name,
            value=MASK if key.secret and value else _plain(value),
            source=self.sources[key.name].value,
            default=_plain(key.default),
            help=key.help,
            secret=key.secret,
            live=key.live,
        )


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=str)


def config_path(config: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: the flag, else the variable, else the platform's place."""
    if config is not None:
        return config.expanduser().absolute()
    named = environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    return platformdirs.user_config_path(APP_NAME) / CONFIG_FILE


def load(*, config: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """The settings from all sources.

    Raises ``ConfigError`` whose message has one line for every mistake. A file that does not
    exist is no mistake, unless ``config`` names it.
    """
    path = config_path(config, environ)
    try:
        text = read_config(path)
    except FileNotFoundError:
        if config is not None or environ.get(CONFIG_VARIABLE):
            raise ConfigError(
                f"{path}: there is no such file.", hint="`cyber-inference-tui init` makes one."
            ) from None
        text = ""
    return load_text(text, path, environ=environ, flags=flags)


def load_if_there(path: Path, *, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """As ``load``, for a service that runs: a file that was removed means the defaults again."""
    try:
        text = read_config(path)
    except FileNotFoundError:
        text = ""
    return load_text(text, path, environ=environ, flags=flags)


def read_config(path: Path) -> str:
    """The file's text. Raises ``FileNotFoundError``, or ``ConfigError`` when it is unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{path}: is larger than {_MAX_FILE} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text.") from None


def load_text(
    text: str, path: Path, *, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> Loaded:
    """As ``load``, for a file's text that need not be on the disk (yet)."""
    reader = _Reader(text, path)
    reader.take_file()
    reader.take_environment(environ)
    for name, value in flags.items():
        reader.take(name, value, Source.FLAG, f"--{name.replace('_', '-')}", Path.cwd())
    return reader.result()


class _Reader:
    """Collects values and mistakes from one source after the other."""

    def __init__(self, text: str, path: Path) -> None:
        self._text = text
        self._path = path
        self._values: dict[str, Any] = {}
        self._sources = dict.fromkeys(KEYS, Source.DEFAULT)
        self._models: dict[str, ModelSettings] = {}
        self._mistakes: list[str] = []
        self._warnings: list[str] = []
        self._lines: dict[tuple[str, ...], int] = {}

    def result(self) -> Loaded:
        self._check_names()
        if self._mistakes:
            raise ConfigError("\n".join(self._mistakes))
        if "models_dir" not in self._values and "data_dir" in self._values:
            self._values["models_dir"] = self._values["data_dir"] / "models"
        settings = Settings(**self._values, models=self._models)
        return Loaded(settings, self._sources, self._path, tuple(self._warnings))

    def take(self, name: str, value: Any, source: Source, where: str, base: Path) -> None:
        key = KEYS.get(name)
        if key is None:
            self._mistakes.append(f"{where}: unknown setting{_nearest(name, KEYS)}")
            return
        try:
            self._values[name] = _converted(key, value, base, is_text=source is not Source.FILE)
            self._sources[name] = source
        except ValueError as error:
            self._mistakes.append(f"{where}: {error}")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable, value in sorted(environ.items()):
            if not variable.startswith(ENV_PREFIX) or variable in _NOT_SETTINGS:
                continue
            name = variable.removeprefix(ENV_PREFIX).lower()
            if name in KEYS:
                self.take(name, value, Source.ENV, variable, Path.cwd())
            else:
                self._warnings.append(f"{variable}: unknown setting{_nearest(name, KEYS)}")

    def take_file(self) -> None:
        try:
            document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            self._mistakes.append(f"{self._path}:{_line_of(error, self._text)}: {error}")
            return
        except RecursionError:
            self._mistakes.append(f"{self._path}: is nested too deeply")
            return
        self._lines = key_lines(self._text)
        for name, value in document.items():
            if name == "models":
                self._take_models(value)
            else:
                where = self._place((name,), name)
                self.take(name, value, Source.FILE, where, self._path.parent)

    def _take_models(self, tables: Any) -> None:
        if not isinstance(tables, dict):
            self._mistakes.append(
                f"{self._place(('models',), 'models')}: expected tables like"
                ' [models."my-model"], found ' + _found(tables)
            )
            return
        for model_id, table in tables.items():
            where = self._place(("models", model_id), f'models."{model_id}"')
            if not isinstance(table, dict):
                self._mistakes.append(f"{where}: expected a table, found {_found(table)}")
                continue
            values = {}
            for name, value in table.items():
                place = self._place(("models", model_id, name), f'models."{model_id}".{name}')
                key = MODEL_KEYS.get(name)
                if key is None:
                    self._mistakes.append(f"{place}: unknown setting{_nearest(name, MODEL_KEYS)}")
                    continue
                try:
                    values[name] = _converted(key, value, self._path.parent, is_text=False)
                except ValueError as error:
                    self._mistakes.append(f"{place}: {error}")
            self._models[model_id] = ModelSettings(**values)

    def _check_names(self) -> None:
        """No name may mean two models."""
        owners = {model_id: model_id for model_id in self._models}
        for model_id, table in self._models.items():
            for alias in table.aliases:
                owner = owners.setdefault(alias, model_id)
                if owner != model_id:
                    place = self._place(
                        ("models", model_id, "aliases"), f'models."{model_id}".aliases'
                    )
                    self._mistakes.append(f'{place}: "{alias}" names the model "{owner}" already')

    def _place(self, path: tuple[str, ...], name: str) -> str:
        while path:
            if path in self._lines:
                return f"{self._path}:{self._lines[path]}: {name}"
            path = path[:-1]
        return f"{self._path}: {name}"


def _line_of(error: tomllib.TOMLDecodeError, text: str) -> int:
    # Python 3.11's error has its line in the message only ("… (at line 3, column 5)").
    _, found, rest = str(error).rpartition("(at line ")
    number = rest.split(",")[0]
    return int(number) if found and number.isdigit() else text.count("\n") + 1


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def check_value(key: str, value: Any) -> Any:
    """A top-level setting's value, from a command line's text or from JSON, checked and typed.

    Raises ``NotFoundError`` for an unknown key and ``ConfigError`` for an unfit value.
    """
    known = KEYS.get(key)
    if known is None:
        raise NotFoundError(f"There is no setting {key}{_nearest(key, KEYS) or '.'}", param="key")
    try:
        return _converted(known, value, Path.cwd(), is_text=isinstance(value, str))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}.", param="value") from None


def convert_value(key: Key, value: Any, base: Path) -> Any:
    """A value of any key, text allowed; raises ``ValueError`` saying what was expected."""
    return _converted(key, value, base, is_text=isinstance(value, str))


def _converted(key: Key, value: Any, base: Path, *, is_text: bool) -> Any:
    """The typed value; raises ``ValueError`` that says what was expected and what was found."""
    given = value
    if is_text and isinstance(value, str):
        value = _from_text(key, value)
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected {key.expected}, found {value}")
    try:
        typed = msgspec.convert(value, key.type, dec_hook=_decode_path)
    except (msgspec.ValidationError, TypeError, ValueError):
        raise ValueError(f"expected {key.expected}, found {_found(given)}") from None
    if key.is_path and typed is not None:
        return tuple(_path(one, base) for one in typed) if key.is_list else _path(typed, base)
    return typed


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError("not a path")


def _from_text(key: Key, text: str) -> Any:
    """What a variable or a command line means: text only where the setting is text."""
    expected = key.expected
    if key.is_list:
        if text.lstrip().startswith("["):
            try:
                return tomllib.loads(f"x = {text}")["x"]
            except tomllib.TOMLDecodeError:
                return text
        return [part.strip() for part in text.split(",") if part.strip()]
    if expected == "a table":
        try:
            return tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            return text
    if expected.startswith("true") and text.strip().lower() in _TRUE | _FALSE:
        return text.strip().lower() in _TRUE
    if expected.startswith(("a whole number", "a number")):
        for number in (int, float):
            try:
                return number(text.strip())
            except ValueError:
                continue
    return text


def _path(path: Path, base: Path) -> Path:
    # Not resolve(): a symbolic link in a path is there for a reason.
    return base / path.expanduser()


def _found(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value[:60]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else str(value)[:60]

"""Changing a person's configuration file: comments, order and mode stay, half-written never.

Everything here blocks (it reads, writes and syncs a file).
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyber_inference_tui.errors import ConfigError, ConfigWriteError, ConflictError, NotFoundError
from cyber_inference_tui.files import rewrite_file
from cyber_inference_tui.settings.comments import with_comment, without_comments
from cyber_inference_tui.settings.environment import home_of
from cyber_inference_tui.settings.example import render, toml_key, toml_value
from cyber_inference_tui.settings.load import MAX_FILE, key_name, load_text, read_config
from cyber_inference_tui.settings.password_hash import hashed
from cyber_inference_tui.settings.positions import key_lines, key_path
from cyber_inference_tui.settings.schema import (
    KEYS,
    PASSWORD,
    PRESETS,
    TABLES,
    Key,
    Settings,
    TablePath,
    keys_of,
)
from cyber_inference_tui.settings.values import InvalidValueError, convert, nearest, parsed
from cyber_inference_tui.text import escaped

_LOCK_TIMEOUT = 5.0
"""Seconds to wait for another edit, which takes milliseconds."""


def split_key(key: str) -> tuple[TablePath, Key]:
    """Return the key's table and the key; raises ``NotFoundError``."""
    *names, name = key_path(key) or (key,)
    table = tuple(names)
    is_preset = len(table) == 4 and table[0] == "models" and table[2] == PRESETS
    if not table or (table[0] in TABLES and len(table) == 2) or is_preset:
        keys = keys_of(table)
        if name in keys:
            return table, keys[name]
        near = nearest(name, keys)
    else:
        near = nearest(key, KEYS)
    raise NotFoundError(
        f"There is no setting '{escaped(key)}'{near or '.'}",
        hint='`cyber-inference-tui config show` lists them; a model\'s are models."ID".KEY.',
        param="key",
    )


def key_in(settings: Settings, key: str) -> tuple[str, TablePath, Key]:
    """Return the key as it is written in the file of these settings, and its parts.

    A table whose name differs from the model's id only in case is the model's, too. Raises
    ``NotFoundError``.
    """
    table, known = split_key(key)
    if table:
        kind, entry, *rest = table
        tables: dict[str, Any] = getattr(settings, kind)
        alike = [name for name in tables if name.casefold() == entry.casefold()]
        if entry not in tables and len(alike) == 1:
            table = (kind, alike[0], *rest)
    return key_name((*table, known.name)), table, known


def write_default(path: Path) -> bool:
    """Write the commented file; returns ``False`` if there is a file already.

    Raises ``OSError``, and then leaves no part of a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(render())
    except OSError as error:
        path.unlink()
        error.filename = str(path)
        raise
    return True


def set_value(path: Path, key: str, value: Any) -> None:
    """Set one key, ``host`` or ``models."ID".context_size``.

    ``value`` is typed, or a command line's text; a relative path starts from the file's folder.
    Raises ``NotFoundError`` for an unknown key, ``ConfigError`` for an invalid value or file, and
    ``ConflictError`` if another program keeps changing the file; nothing is written then.
    """
    check_valid(path, key, value)
    _rewrite(path, lambda text: with_key(text, path, key, value))


def unset_value(path: Path, key: str) -> None:
    """Remove a key from the file, if it is there; raises as ``set_value`` does."""
    split_key(key)
    _rewrite(path, lambda text: without_key(text, path, key))


def set_values(path: Path, values: Mapping[str, Any | None], *, comment: str, mark: str) -> None:
    """Set several keys at once, with a comment above the first of them; ``None`` removes a key.

    Former comments above keys of the same tables go if they begin with ``mark``. Raises as
    ``set_value`` does.
    """

    def change(text: str) -> str:
        tables = {(key_path(key) or ())[:-1] for key in values}
        text = without_comments(text, tables, mark)
        for key, value in values.items():
            text = (
                without_key(text, path, key) if value is None else with_key(text, path, key, value)
            )
        kept = [key_path(key) or () for key, value in values.items() if value is not None]
        return with_comment(text, kept, comment) if comment else text

    _rewrite(path, change)


def set_table(path: Path, kind: str, name: str, values: Mapping[str, Any] | None) -> None:
    """Replace the table ``[kind."name"]`` as a whole; ``None`` removes it.

    Raises as ``set_value`` does.
    """
    _rewrite(path, lambda text: _with_table(text, path, kind, name, values))


def _with_table(
    text: str, path: Path, kind: str, name: str, values: Mapping[str, Any] | None
) -> str:
    key = f"{kind}.{toml_value(name)}"
    _check_syntax(text, path)
    wanted = tomllib.loads(text)
    if name in wanted.get(kind, {}):
        del wanted[kind][name]
        # A table that only had this one is implied by nothing now.
        emptied = wanted if wanted[kind] else {k: v for k, v in wanted.items() if k != kind}
        cut = _removed(text, (kind, name))
        if cut is None or not (_reads_as(cut, wanted) or _reads_as(cut, emptied)):
            return _checked(None, path, key)
        text = cut
    if values is not None:
        wanted.setdefault(kind, {})[name] = dict(values)
        lines = [f"{toml_key(one)} = {toml_value(value)}" for one, value in values.items()]
        gap = "\n" if text.strip() else ""
        text = f"{text.rstrip(chr(10))}\n{gap}[{toml_key(kind)}.{toml_key(name)}]\n".lstrip("\n")
        text += "\n".join([*lines, ""])
        if not _reads_as(text, wanted):
            return _checked(None, path, key)
    return _checked(text, path, key)


def check_valid(path: Path, key: str, value: Any) -> None:
    """Raise ``NotFoundError`` for an unknown key and ``ConfigError`` for an invalid value."""
    _, known = split_key(key)
    try:
        convert(
            known,
            value,
            folder=path.parent,
            home=home_of(os.environ),
            is_text=isinstance(value, str),
        )
    except InvalidValueError as error:
        raise ConfigError(f"{key}: {error}.", param="value") from None


def with_key(text: str, path: Path, key: str, value: Any) -> str:
    """Return the text of the file ``path`` with one key set and all else unchanged.

    A password becomes a hash. Raises ``ConfigError`` if the text is not TOML or the result would be
    invalid. The text itself may be invalid: the change may correct it.
    """
    table, known = split_key(key)
    _check_syntax(text, path)
    new = _plain(parsed(known, value))
    if known.form == PASSWORD and new and isinstance(new, str):
        new = hashed(new)
    return _checked(_with_value(text, (*table, known.name), new), path, key)


def without_key(text: str, path: Path, key: str) -> str:
    """Return the text of the file ``path`` without one key; raises as ``with_key`` does."""
    table, known = split_key(key)
    _check_syntax(text, path)
    return _checked(_without_value(text, (*table, known.name)), path, key)


def _check_syntax(text: str, path: Path) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        load_text(text, path, environ={}, flags={})  # says where


def _checked(new: str | None, path: Path, key: str) -> str:
    if new is None:
        raise ConfigError(
            f"{path}: {key} cannot be changed without changing more of the file.",
            hint="Please edit the file by hand.",
        )
    load_text(new, path, environ={}, flags={})
    return new


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Replace the file with the changed text, if it differs."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            try:
                text = read_config(path)
            except FileNotFoundError:
                text = ""
            new = change(text)
            if new != text:
                data = new.encode()
                if len(data) > MAX_FILE:
                    # It could not be read again.
                    raise ConfigError(f"{path}: would be larger than {MAX_FILE} bytes.")
                rewrite_file(target, data)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ConfigWriteError:
    """Return the error for a file that cannot be written."""
    return ConfigWriteError(
        f"{path}: cannot be written: {error.strerror}.",
        hint="Make it writable, or change its original: a running service applies the change.",
    )


def _plain(value: Any) -> Any:
    """Return the value as TOML can hold it; paths stay as they were written."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _with_value(text: str, path: tuple[str, ...], value: Any) -> str | None:
    """Return the text with one value set, or ``None`` if no notation changes only that."""
    before = tomllib.loads(text)
    wanted = copy.deepcopy(before)
    table = wanted
    for name in path[:-1]:
        table = table.setdefault(name, {})
    is_new = path[-1] not in table
    table[path[-1]] = value
    ways = [
        _assigned(text, path, value, as_table=False),
        _assigned(text, path, value, as_table=True),
    ]
    if is_new:
        ways.insert(0, _inserted(text, path, value))
    # A text is accepted only if the standard reader reads exactly the wanted settings from it.
    return next((new for new in ways if new is not None and _reads_as(new, wanted)), None)


def _without_value(text: str, path: tuple[str, ...]) -> str | None:
    """Return the text without one value, or ``None`` if no notation changes only that."""
    wanted = tomllib.loads(text)
    parents: list[Any] = [wanted]
    for name in path[:-1]:
        parents.append(parents[-1].get(name, {}))
    if path[-1] not in parents[-1]:
        return text
    del parents[-1][path[-1]]
    readings = [copy.deepcopy(wanted)]
    # Dotted keys imply their tables, which vanish with the last key.
    for parent, name in reversed(list(zip(parents, path[:-1], strict=False))):
        if not parent[name]:
            del parent[name]
            readings.append(copy.deepcopy(wanted))
    ways = (_line_cut(text, path), _removed(text, path))
    return next(
        (
            new
            for new in ways
            if new is not None and any(_reads_as(new, reading) for reading in readings)
        ),
        None,
    )


def _line_cut(text: str, path: tuple[str, ...]) -> str | None:
    """Return the text without the line of the key, which may be only a part of its value."""
    line = key_lines(text).get(path)
    if line is None:
        return None
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return "".join([*lines[: line - 1], *lines[line:]])


def _removed(text: str, path: tuple[str, ...]) -> str | None:
    """Return the text as tomlkit writes it without the key; ``None`` if it cannot."""
    import tomlkit  # noqa: PLC0415 - only needed to write
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    try:
        document = tomlkit.parse(text)
        table: Any = document
        for name in path[:-1]:
            table = table[name]
        del table[path[-1]]
        return tomlkit.dumps(document)
    except (TOMLKitError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _reads_as(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except (ValueError, RecursionError):
        return False


def _inserted(text: str, path: tuple[str, ...], value: Any) -> str | None:
    """Return the text with a new line: after the commented default, or at the end of its table."""
    end = "\r\n" if "\r\n" in text else "\n"
    new = f"{toml_key(path[-1])} = {toml_value(value)}{end}"
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # TOML's lines; splitlines() knows more ends
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    known = key_lines(text)
    if len(path) > 1:
        if path[:-1] in known:
            return None
        blank = [end] if lines and lines[-1].strip() else []
        header = ".".join(toml_key(part) for part in path[:-1])
        return "".join([*lines, *blank, f"[{header}]{end}", new])
    headers = [
        number
        for where, number in known.items()
        if lines[number - 1].lstrip().startswith("[")
        and all(isinstance(part, str) for part in where)  # not an item of an array
    ]
    first_header = min(headers, default=len(lines) + 1)
    default = re.compile(rf"[ \t]*#[ \t]*{re.escape(path[-1])}[ \t]*=")
    for number, line in enumerate(lines[: first_header - 1]):
        if default.match(line):
            return "".join([*lines[: number + 1], new, *lines[number + 1 :]])
    return None if headers else "".join([*lines, new])


def _assigned(text: str, path: tuple[str, ...], value: Any, *, as_table: bool) -> str | None:
    """Return the text as tomlkit writes it after the change; ``None`` if it cannot."""
    import tomlkit  # noqa: PLC0415 - only needed to write
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    try:
        document = tomlkit.parse(text)
        table: Any = document
        for depth, name in enumerate(path[:-1]):
            if name not in table:
                inline = isinstance(table, tomlkit.items.InlineTable)
                table[name] = (
                    tomlkit.inline_table()
                    if inline
                    else tomlkit.table(is_super_table=depth < len(path) - 2)
                )
            table = table[name]
        table[path[-1]] = value if as_table else tomlkit.value(toml_value(value))
        return tomlkit.dumps(document)
    except (TOMLKitError, ValueError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two simultaneous edits do not undo each other."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConflictError(
                        f"Another program has been changing {folder} for {_LOCK_TIMEOUT:g} s.",
                        hint="Try again.",
                    ) from None
                time.sleep(0.02)
            except OSError:
                break  # a file system without locks
        yield
    finally:
        os.close(lock)

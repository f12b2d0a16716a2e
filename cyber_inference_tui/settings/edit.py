"""Changing a person's configuration file: comments, order and mode stay, half-written never.

Everything here blocks (it reads, writes and syncs a file).
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyber_inference_tui.errors import ConfigError, NotFoundError
from cyber_inference_tui.settings.example import render
from cyber_inference_tui.settings.load import convert_value, load_text, read_config
from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS, Key

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_MODEL_KEY = re.compile(
    r"""models\.(?:"(?P<basic>(?:\\.|[^"\\])+)"|'(?P<literal>[^']+)'|(?P<bare>[A-Za-z0-9_-]+))"""
    r"""\.(?P<key>[a-z_]+)"""
)


def split_key(key: str) -> tuple[str | None, Key]:
    """``(model id or None, what is known of the key)``; raises ``NotFoundError``."""
    match = _MODEL_KEY.fullmatch(key)
    if match is not None:
        known = MODEL_KEYS.get(match["key"])
        if known is not None:
            basic = match["basic"]
            if basic is not None:
                basic = re.sub(r"\\(.)", r"\1", basic)
            return basic or match["literal"] or match["bare"], known
    elif key in KEYS:
        return None, KEYS[key]
    raise NotFoundError(
        f"There is no setting {key}.",
        hint='`cyber-inference-tui config show` lists them; a model\'s are models."ID".KEY.',
        param="key",
    )


def write_default(path: Path) -> bool:
    """Write the commented file, unless there is one already (then ``False``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(render())
    return True


def set_value(path: Path, key: str, value: Any) -> None:
    """Set one key, ``host`` or ``models."ID".context_size``.

    ``value`` is typed or a command line's text. Raises ``NotFoundError`` for an unknown key and
    ``ConfigError`` for an unfit value or when the file as a whole would be invalid; nothing is
    written then.
    """
    import tomlkit  # noqa: PLC0415 - only needed to write

    model_id, known = split_key(key)
    try:
        typed = convert_value(known, value, path.parent)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}.", param="value") from None
    try:
        text = read_config(path)
    except FileNotFoundError:
        text = ""
    # A broken file is refused with the line of its mistake before anything is put into it.
    load_text(text, path, environ={}, flags={})
    document = tomlkit.parse(text)
    _table(document, model_id)[known.name] = _for_toml(typed)
    new = tomlkit.dumps(document)
    load_text(new, path, environ={}, flags={})
    _replace(path, new)


def _table(document: TOMLDocument, model_id: str | None) -> Any:
    import tomlkit  # noqa: PLC0415

    if model_id is None:
        return document
    if "models" not in document:
        document["models"] = tomlkit.table(is_super_table=True)
    models: Any = document["models"]
    if model_id not in models:
        models[model_id] = tomlkit.table()
    return models[model_id]


def _for_toml(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_for_toml(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _replace(path: Path, text: str) -> None:
    """Put ``text`` in the file's place at once, through a symbolic link, with its old mode."""
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = target.stat().st_mode & 0o7777
    except FileNotFoundError:
        mode = 0o600
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from error

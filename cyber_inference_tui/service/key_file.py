"""Keep the API keys with names in ``keys.json`` in the data directory, as digests.

A key has 192 random bits, so a plain SHA-256 of it cannot be guessed backwards, and one look-up
among digests tells a key apart. Everything here blocks.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    ConfigError,
    ConflictError,
    CyberError,
    InvalidRequestError,
    NotFoundError,
)
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.records.keys import MOST_KEYS, KeyLimits, KeyRecord, NewKey
from cyber_inference_tui.settings.credentials import digest_of, new_api_key
from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import clean_line, escaped

KEYS_FILE = "keys.json"
_MAX_BYTES = 64 << 20


class StoredKey(KeyLimits, frozen=True, kw_only=True):
    """A key with its name and limits, as it is stored."""

    name: str
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """The SHA-256 of the key, in hexadecimal digits."""
    created_at: datetime


Keys = tuple[StoredKey, ...]
"""All keys, in the order of their creation."""


class _File(msgspec.Struct):
    keys: Keys
    version: int = 1


def read_keys(data_dir: Path) -> Keys:
    """Return the stored keys; none if there is no file.

    Raises ``ConfigError`` for a file that cannot be read: without it, everybody would be let in.
    """
    path = data_dir / KEYS_FILE
    try:
        return msgspec.json.decode(read_file(path, _MAX_BYTES), type=thread_safe(_File)).keys
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"The API keys in {path} cannot be read: {reason}.",
            hint="Repair the file or take it from a backup; without it all its keys are invalid.",
        ) from error


def write_keys(data_dir: Path, keys: Keys) -> None:
    """Write the keys, whole or not at all. Raises ``CyberError``."""
    path = data_dir / KEYS_FILE
    content = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, content, mode=0o600, flush=True)
    except OSError as error:
        raise CyberError(write_problem(path, error)) from error


def with_new(keys: Keys, new: NewKey, now: datetime) -> tuple[Keys, str]:
    """Return the keys with a new one, and the key itself, which nothing else keeps.

    Raises ``InvalidRequestError``, and ``ConflictError`` if the name is in use.
    """
    _check(new)
    if has_expired(new, now):
        raise InvalidRequestError(
            f"{new.expires} is over.", hint="Choose a later day.", param="expires"
        )
    if any(key.name.casefold() == new.name.casefold() for key in keys):
        raise ConflictError(
            f'There is an API key "{new.name}" already.', hint="Remove it, or choose another name."
        )
    if len(keys) >= MOST_KEYS:
        raise ConflictError(f"There are {MOST_KEYS:,} API keys already.", hint="Remove some.")
    secret = new_api_key()
    made = StoredKey(**msgspec.structs.asdict(new), digest=digest_of(secret).hex(), created_at=now)
    return (*keys, made), secret


def without(keys: Keys, name: str) -> tuple[Keys, StoredKey]:
    """Return the keys without the one of this name, and that one. Raises ``NotFoundError``."""
    found = next((key for key in keys if key.name == name), None)
    if found is None:
        names = [key.name for key in keys]
        near = close_names(name, names) or names[:3]
        raise NotFoundError(
            f'There is no API key "{escaped(name, limit=64)}".',
            hint=f"Near it: {', '.join(near)}." if near else "There are no keys with names yet.",
        )
    return tuple(key for key in keys if key is not found), found


def _check(new: NewKey) -> None:
    """Raise ``InvalidRequestError`` for a name or limits that make no sense."""
    try:
        msgspec.convert(msgspec.to_builtins(new), thread_safe(NewKey))
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"The key is not valid: {error}.") from None
    if new.name != clean_line(new.name).strip():
        raise InvalidRequestError(
            "The name of a key is one line without spaces around it.", param="name"
        )
    if new.name.isdecimal():
        raise InvalidRequestError(
            "The name of a key cannot be a number: numbers are the places in api_keys.",
            param="name",
        )
    if any(model != clean_line(model).strip() for model in new.models):
        raise InvalidRequestError("The name of a model is one line.", param="models")


def record_of(key: StoredKey, now: datetime) -> KeyRecord:
    """Return the record of a key, without its use."""
    limits = {name: getattr(key, name) for name in KeyLimits.__struct_fields__}
    return KeyRecord(
        **limits, name=key.name, created_at=key.created_at, expired=has_expired(key, now)
    )


def has_expired(limits: KeyLimits, now: datetime) -> bool:
    """Check whether the last day of a key is over; ``now`` is in UTC."""
    return limits.expires is not None and now.date() > limits.expires

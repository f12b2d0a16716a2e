"""The configuration file as a whole: its text without its secrets, and that text put back.

A secret is shown as a numbered mask, ``"********1"``. A mask that comes back stands for the secret
whose number it has, wherever among the secrets it then stands, so that keys and tables may be
moved, removed and renamed. It is taken only where a secret belongs: elsewhere it would be shown.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cyber_inference_tui.errors import ConfigError, ConflictError
from cyber_inference_tui.settings.edit import alone_in, put_in_place
from cyber_inference_tui.settings.load import decoded, load_text, named, read_bytes
from cyber_inference_tui.settings.positions import KeyPath, Span, value_spans
from cyber_inference_tui.settings.schema import KEYS, MASK, MODEL_KEYS, Settings

_MASK = re.compile(rf"{re.escape(MASK)}([0-9]{{0,6}})")
_SECRET_NAMES = "|".join(name for name, key in KEYS.items() if key.secret)
_COMMENTED_OUT = re.compile(rf"^[ \t]*#[ \t#]*(?:{_SECRET_NAMES})[ \t]*=(.*)$", re.MULTILINE)
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])+"|' r"'[^'\n]+'")


class Document(NamedTuple):
    """A configuration file at one moment."""

    text: str
    """Secrets are masked; empty where there is no file."""
    digest: str
    """Names this state of the file."""


def read_document(path: Path) -> Document:
    """The file as it is. Blocks.

    Raises ``ConfigError`` where it cannot be read, and where it is not TOML: what is secret in it
    cannot be told then.
    """
    data = _data(path)
    text = decoded(data, path)
    # Not more than the syntax: a wrong value is what one may want to see.
    _check_syntax(text, path)
    return Document(masked(text), _digest(data))


def write_document(
    path: Path,
    text: str,
    digest: str,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    check: Callable[[Settings], None],
) -> None:
    """Put ``text`` in the file's place, if the file is still the one that ``digest`` names. Blocks.

    Raises ``ConflictError`` if it is not, and ``ConfigError`` with a line for every mistake in the
    text, or what ``check`` raises for the settings it makes; nothing is written then.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(target.parent):
            old = _data(path)
            if _digest(old) != digest:
                raise ConflictError(f"{path} has changed since it was read.", hint="Read it again.")
            new, mistakes = unmasked(text, decoded(old, path), path)
            try:
                check(load_text(new, path, environ=environ, flags=flags).settings)
            except ConfigError as error:
                mistakes += error.message.splitlines()
            if mistakes:
                raise ConfigError("\n".join(mistakes))
            data = new.encode("utf-8", "surrogatepass")
            decoded(data, path)
            put_in_place(target, data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from error


def masked(text: str) -> str:
    """The text (TOML) with numbered masks for its secrets, those in commented-out keys too."""
    parts: list[str] = []
    end = 0
    for number, (start, stop) in enumerate(_secrets(text), start=1):
        parts += [text[end:start], f'"{MASK}{number}"']
        end = stop
    return "".join([*parts, text[end:]])


def unmasked(text: str, old: str, path: Path) -> tuple[str, list[str]]:
    """``text`` with the secrets of ``old`` for their masks, and a line for every mask that stands
    for nothing or where no secret belongs."""
    known = [old[start:stop] for start, stop in _secrets(old)]
    mistakes: list[str] = []
    parts: list[str] = []
    end = 0
    values = {span: key for key, span in value_spans(text).items()}
    for span in sorted({*values, *_commented(text)}):
        mask = _MASK.fullmatch(text[span[0] : span[1]].strip("\"'"))
        if mask is None or span[0] < end:
            continue
        number = int(mask[1] or 0)
        key = values.get(span)
        if key is not None and not (_is_secret(key) and 1 <= number <= len(known)):
            line = text.count("\n", 0, span[0]) + 1
            name = named([part for part in key if isinstance(part, str)])
            mistakes.append(f"{path}:{line}: {name}: this mask stands for no value")
        elif 1 <= number <= len(known):
            parts += [text[end : span[0]], known[number - 1]]
            end = span[1]
    return "".join([*parts, text[end:]]), mistakes


def _secrets(text: str) -> list[Span]:
    """Where secrets stand, in order. An empty text is none."""
    found = {
        span
        for key, span in value_spans(text).items()
        if _is_secret(key) and text[span[0] : span[1]] not in {'""', "''"}
    }
    spans: list[Span] = []
    for span in sorted(found | set(_commented(text))):
        # What looks like a comment may stand inside of a secret of several lines.
        if not spans or span[0] >= spans[-1][1]:
            spans.append(span)
    return spans


def _is_secret(key: KeyPath) -> bool:
    if key[0] == "models" and len(key) > 2:
        known = MODEL_KEYS.get(str(key[2]))
    else:
        known = KEYS.get(str(key[0]))
    return known is not None and known.secret


def _commented(text: str) -> Iterator[Span]:
    """Texts in quotes behind keys of secrets that are commented out."""
    for comment in _COMMENTED_OUT.finditer(text):
        for quoted in _QUOTED.finditer(text, comment.start(1), comment.end(1)):
            yield quoted.span()


def _check_syntax(text: str, path: Path) -> None:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        # Found with its line by the one who reads settings.
        load_text(text, path, environ={}, flags={})


def _data(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return b""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

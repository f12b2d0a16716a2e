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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cyber_inference_tui.errors import ConfigError, ConflictError
from cyber_inference_tui.settings.edit import alone_in, not_written, put_in_place
from cyber_inference_tui.settings.example import toml_value
from cyber_inference_tui.settings.load import decoded, load_text, named, read_bytes
from cyber_inference_tui.settings.masks import is_secret_name, secret_words
from cyber_inference_tui.settings.positions import KeyPath, Span, value_spans
from cyber_inference_tui.settings.schema import KEYS, MASK, MODEL_KEYS, Key, Settings

_MASK = re.compile(rf"{re.escape(MASK)}([0-9]{{0,6}})")
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])+"|' r"'[^'\n]+'")
_ARGUMENT_KEYS = [name for name, key in {**KEYS, **MODEL_KEYS}.items() if key.is_arguments]
# Comments are read one line at a time, and may hold keys that are switched off.
_COMMENT = r"^[ \t]*#[ \t#]*"
_COMMENTED_OUT = re.compile(
    rf"{_COMMENT}(?:{'|'.join(name for name, key in KEYS.items() if key.secret)})[ \t]*=(.*)$",
    re.MULTILINE,
)
_COMMENTED_ARGUMENTS = re.compile(
    rf"{_COMMENT}(?:{'|'.join(_ARGUMENT_KEYS)})[ \t]*=(.*)$", re.MULTILINE
)
_COMMENTED = re.compile(rf"{_COMMENT}.*$", re.MULTILINE)
_VARIABLE = re.compile(rf"""([A-Za-z0-9_-]+)["']?[ \t]*=[ \t]*({_QUOTED.pattern})""")
"""Of a model's environment."""


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
        raise not_written(path, error) from error


def masked(text: str) -> str:
    """The text (TOML) with numbered masks for its secrets, those in commented-out keys too."""
    parts: list[str] = []
    end = 0
    for number, secret in enumerate(_secrets(text), start=1):
        parts += [text[end : secret.start], secret.written(f"{MASK}{number}")]
        end = secret.stop
    return "".join([*parts, text[end:]])


def unmasked(text: str, old: str, path: Path) -> tuple[str, list[str]]:
    """``text`` with the secrets of ``old`` for their masks, and a line for every mask that stands
    for nothing or where no secret belongs."""
    known = _secrets(old)
    mistakes: list[str] = []
    parts: list[str] = []
    end = 0
    taken: set[Span] = set()
    for secret in _secrets(text):
        mask = _MASK.fullmatch(secret.value)
        if mask is None or not 1 <= int(mask[1] or 0) <= len(known):
            continue
        hidden = known[int(mask[1]) - 1]
        # As it was written, where it stands as it stood.
        alike = (hidden.head, hidden.tail, hidden.quote) == (secret.head, secret.tail, secret.quote)
        if not alike and not secret.can_be(hidden.value):
            continue
        new = old[hidden.start : hidden.stop] if alike else secret.written(hidden.value)
        parts += [text[end : secret.start], new]
        end = secret.stop
        taken.add(secret.item)
    for key, span in value_spans(text).items():
        value = _string(text[slice(*span)])
        if span not in taken and (MASK in value if _is_word(key) else _MASK.fullmatch(value)):
            line = text.count("\n", 0, span[0]) + 1
            name = named([part for part in key if isinstance(part, str)])
            mistakes.append(f"{path}:{line}: {name}: this mask stands for no value")
    return "".join([*parts, text[end:]]), mistakes


class _Secret(NamedTuple):
    """A secret in a text: all of a string, or what follows the ``=`` in one."""

    start: int
    stop: int
    value: str
    item: Span
    """The whole string."""
    head: str = '"'
    tail: str = '"'
    """What has to stand around another value in its place."""
    quote: str = ""
    """Of the string that goes on around it; empty if it is all of it."""

    def can_be(self, value: str) -> bool:
        """Whether its quotes can hold this value."""
        return self.quote != "'" or (value.isprintable() and "'" not in value)

    def written(self, value: str) -> str:
        """The text for another value in its place."""
        if self.quote == "'":
            return value
        return f"{self.head}{toml_value(value)[1:-1]}{self.tail}"


def _secrets(text: str) -> list[_Secret]:
    """Where secrets stand, in order. An empty text is none."""
    found: list[_Secret] = []
    lines: dict[KeyPath, list[Span]] = {}
    for key, span in value_spans(text).items():
        if _is_word(key):
            lines.setdefault(key[:-1], []).append(span)
        elif _is_secret(key) and text[slice(*span)] not in {'""', "''"}:
            found.append(_whole(text, span))
    for comment in _COMMENTED_OUT.finditer(text):
        found += [_whole(text, span) for span in _quoted(text, comment.span(1))]
    for comment in _COMMENTED_ARGUMENTS.finditer(text):
        found += _in_words(text, _quoted(text, comment.span(1)))
    for comment in _COMMENTED.finditer(text):
        for variable in _VARIABLE.finditer(text, *comment.span()):
            if is_secret_name(variable[1]):
                found.append(_whole(text, variable.span(2)))
    for spans in lines.values():
        found += _in_words(text, spans)
    secrets: list[_Secret] = []
    for secret in sorted(found):
        # What looks like a comment may stand inside of a secret of several lines.
        if not secrets or secret.start >= secrets[-1].item[1]:
            secrets.append(secret)
    return secrets


def _whole(text: str, span: Span) -> _Secret:
    return _Secret(*span, _string(text[slice(*span)]), span)


def _in_words(text: str, spans: Sequence[Span]) -> Iterator[_Secret]:
    """The secrets among the words of a command line."""
    words = [_string(text[slice(*span)]) for span in spans]
    for number, (_, start) in secret_words(words).items():
        span, word = spans[number], words[number]
        quote = text[span[0]]
        if not start:
            yield _whole(text, span)
        elif text[span[0] + 1 : span[1] - 1] == word:
            # Nothing in it is escaped: what stands before the secret stays as it is.
            yield _Secret(
                span[0] + 1 + start, span[1] - 1, word[start:], span, head="", tail="", quote=quote
            )
        else:
            yield _Secret(*span, word[start:], span, head=toml_value(word[:start])[:-1])


def _string(raw: str) -> str:
    """What a TOML value says; of anything but a string how it is written."""
    try:
        value = tomllib.loads(f"x = {raw}")["x"]
    except (ValueError, RecursionError):
        return raw
    return value if isinstance(value, str) else raw


def _is_secret(key: KeyPath) -> bool:
    known = _known(key)
    return known is not None and known.secret


def _is_word(key: KeyPath) -> bool:
    """Whether it is an item of a list of arguments."""
    known = _known(key)
    return isinstance(key[-1], int) and known is not None and known.is_arguments


def _known(key: KeyPath) -> Key | None:
    if key[0] == "models" and len(key) > 2:
        return MODEL_KEYS.get(str(key[2]))
    return KEYS.get(str(key[0]))


def _quoted(text: str, span: Span) -> list[Span]:
    return [quoted.span() for quoted in _QUOTED.finditer(text, *span)]


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

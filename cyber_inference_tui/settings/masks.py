"""Secrets hidden behind masks, and masks that come back turned into what they hide. Pure.

A mask is taken only where a secret belongs: anywhere else its value would be shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.schema import MASK, Key
from cyber_inference_tui.settings.values import parsed

# llama-server's --api-key, --hf-token and -hft, and what other servers call theirs.
_SECRET_NAME = re.compile(r"(?:.*[-_])?(?:api[-_]?key|token|passw(?:or)?d|secret)", re.IGNORECASE)
_SHORT_OPTIONS = frozenset({"-hft"})


class _SecretWord(NamedTuple):
    """A word of a command line that is a secret, or ends with one."""

    option: str
    """Whose value it is."""
    start: int
    """Where in the word the secret begins: behind the ``=`` of ``--api-key=…``, else 0."""


def _is_secret_name(name: str) -> bool:
    """Whether an option or a variable of this name holds a secret."""
    return name in _SHORT_OPTIONS or _SECRET_NAME.fullmatch(name.lstrip("-")) is not None


def _secret_words(words: Sequence[str]) -> dict[int, _SecretWord]:
    """Which words of a command line are secrets, by their number.

    ``--api-key VALUE``, ``--api-key=VALUE``, and ``API_KEY=VALUE`` as ``env`` takes it.
    """
    found: dict[int, _SecretWord] = {}
    option = ""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if option:
            if word:
                found[number] = _SecretWord(option, 0)
            option = ""
        elif not _is_secret_name(name):
            continue
        elif equals and value:
            found[number] = _SecretWord(name, len(name) + 1)
        elif not equals and word.startswith("-"):
            option = word
    return found


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line with masks for its secrets."""
    shown = list(words)
    for number, secret in _secret_words(words).items():
        shown[number] = words[number][: secret.start] + MASK
    return shown


def masked_value(key: Key, value: Any) -> Any:
    """A setting's value as it may be shown."""
    if key.is_arguments:
        return masked_words(value)
    if key.secret and value:
        # An environment's names help, its values often are tokens.
        return dict.fromkeys(value, MASK) if isinstance(value, dict) else MASK
    return value


def holds_secret(key: Key, value: Any) -> bool:
    """Whether others should not read this value of the setting."""
    return bool(_secret_words(value)) if key.is_arguments else key.secret and bool(value)


def unmasked_value(name: str, key: Key, value: Any, old: Any) -> Any:
    """A value that came back, with what ``old`` holds for its masks.

    ``name`` is the setting as messages call it. Raises ``ConfigError`` for a mask that stands for
    nothing.
    """
    if key.is_arguments:
        words = parsed(key, value)
        return _unmasked_words(name, words, old) if _is_words(words) else value
    if not key.secret:
        return value
    # A list of secrets is shown as one mask; a command line has made a list of it.
    if old and value in (MASK, [MASK]):
        return list(old) if isinstance(old, tuple) else old
    masks = [value]
    if isinstance(value, dict):
        kept = old if isinstance(old, dict) else {}
        value = {
            one: kept.get(one, given) if given == MASK else given for one, given in value.items()
        }
        masks = list(value.values())
    elif isinstance(value, list):
        masks = value
    if any(isinstance(one, str) and MASK in one for one in masks):
        raise _stands_for_nothing(name)
    return value


def _is_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _unmasked_words(name: str, words: Sequence[str], old: Sequence[str]) -> list[str]:
    known: dict[str, list[str]] = {}
    for number, secret in _secret_words(old).items():
        known.setdefault(secret.option, []).append(old[number][secret.start :])
    given = _secret_words(words)
    options = [secret.option for secret in given.values()]
    seen: dict[str, int] = {}
    result = list(words)
    for number, (option, start) in given.items():
        place = seen[option] = seen.get(option, -1) + 1
        if words[number][start:] == MASK:
            values = known.get(option, [])
            # Where one of several was added or removed, which is which cannot be told.
            unclear = len(set(values)) > 1 and len(values) != options.count(option)
            if unclear or not values:
                raise _stands_for_nothing(name)
            result[number] = words[number][:start] + values[min(place, len(values) - 1)]
        elif MASK in words[number]:
            raise _stands_for_nothing(name)
    if any(MASK in word for number, word in enumerate(words) if number not in given):
        raise _stands_for_nothing(name)
    return result


def _stands_for_nothing(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: this mask stands for no value.", hint="Give the value itself.", param="value"
    )

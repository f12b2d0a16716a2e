"""Replace secrets with masks, and masks with the secrets that they replaced. Pure.

A mask is accepted only in place of a secret: anywhere else the secret would be shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.schema import MASK, Key
from cyber_inference_tui.settings.values import parsed

# llama-server's --api-key, --hf-token and -hft, and the names that other servers use.
_SECRET_NAME = re.compile(r"(?:.*[-_])?(?:api[-_]?key|token|passw(?:or)?d|secret)", re.IGNORECASE)
_SHORT_OPTIONS = frozenset({"-hft"})


class _SecretWord(NamedTuple):
    """A word of a command line that is a secret, or ends with a secret."""

    option: str
    """The option whose value it is."""
    start: int
    """The index at which the secret begins: after the ``=`` of ``--api-key=…``, else 0."""


def _is_secret_name(name: str) -> bool:
    """Return whether an option or a variable of this name holds a secret."""
    return name in _SHORT_OPTIONS or _SECRET_NAME.fullmatch(name.lstrip("-")) is not None


def _secret_words(words: Sequence[str]) -> dict[int, _SecretWord]:
    """Return the secret words of a command line by their number.

    ``--api-key VALUE``, ``--api-key=VALUE``, and ``API_KEY=VALUE`` as for ``env``.
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
    """Return a command line with masks for its secrets."""
    shown = list(words)
    for number, secret in _secret_words(words).items():
        shown[number] = words[number][: secret.start] + MASK
    return shown


def masked_value(key: Key, value: Any) -> Any:
    """Return a setting's value with masks for its secrets."""
    if key.is_arguments:
        return masked_words(value)
    if key.secret and value:
        # The names of an environment help, but its values often are tokens.
        return dict.fromkeys(value, MASK) if isinstance(value, dict) else MASK
    return value


def holds_secret(key: Key, value: Any) -> bool:
    """Return whether the value of the setting is, or contains, a secret."""
    return bool(_secret_words(value)) if key.is_arguments else key.secret and bool(value)


def unmasked_value(name: str, key: Key, value: Any, old: Any) -> Any:
    """Return the value with the secrets of ``old`` in place of masks.

    ``name`` is the setting's name for messages. Raises ``ConfigError`` for a mask without a secret.
    """
    if key.is_arguments:
        words = parsed(key, value)
        return _unmasked_words(name, words, old) if _is_words(words) else value
    if not key.secret:
        return value
    # A list of secrets is shown as one mask, of which a command line makes a list.
    if old and value in (MASK, [MASK]):
        return list(old) if isinstance(old, tuple) else old
    masks = [value]
    if isinstance(value, dict):
        kept = old if isinstance(old, dict) else {}
        value = {
            variable: kept.get(variable, given) if given == MASK else given
            for variable, given in value.items()
        }
        masks = list(value.values())
    elif isinstance(value, list):
        masks = value
    if any(isinstance(mask, str) and MASK in mask for mask in masks):
        raise _no_secret(name)
    return value


def _is_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


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
            # After one of several was added or removed, their order is unknown.
            unclear = len(set(values)) > 1 and len(values) != options.count(option)
            if unclear or not values:
                raise _no_secret(name)
            result[number] = words[number][:start] + values[min(place, len(values) - 1)]
        elif MASK in words[number]:
            raise _no_secret(name)
    if any(MASK in word for number, word in enumerate(words) if number not in given):
        raise _no_secret(name)
    return result


def _no_secret(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: this mask replaces no secret.", hint="Give the value itself.", param="value"
    )

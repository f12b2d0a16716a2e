"""Has a llama-server save the prompts of its slots into files, restore them, and prove that.

It needs ``--slot-save-path``; names of files are those within that folder. Fields and answers are
those of build 11669 (``tools/server/README.md`` of llama.cpp).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.llama.http_get import ServerAddress, http_get
from cyber_inference_tui.text import clean_line

_T = TypeVar("_T")

_TIMEOUT = 60.0
"""Seconds for one answer; the caller has a shorter limit for all of them."""
_MOST_BYTES = 1 << 16
_MOST_TOKENS = 1 << 22
_ANSWER = 8
"""Tokens. Some servers can go back by one or two without a saved state."""
_MOST_WORDS = 200
"""Characters of its reason."""
# llama_state_seq_save_file in src/llama-context.cpp: magic, version, number of words, words.
_HEAD = struct.Struct("<4sII")
_MAGIC = b"qsgg"
# Servers that also save images put this, a version and the number of tokens before the tokens.
_PACKED = -1
_PACKED_HEAD = 3


class SlotFileError(Exception):
    """A slot could not be saved, restored or asked; the message is llama-server's own."""


class _Saved(msgspec.Struct):
    n_saved: int


class _Restored(msgspec.Struct):
    n_restored: int


class _Erased(msgspec.Struct):
    n_erased: int


class _Timings(msgspec.Struct):
    cache_n: int
    prompt_n: int


class _Answered(msgspec.Struct):
    timings: _Timings


class _Reason(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Reason


async def save_slot(server: ServerAddress, slot: int, name: str) -> int:
    """Save the prompt of a slot to a file; return its tokens.

    A slot that works on a request is saved after it. Raises ``SlotFileError``.
    """
    path, fields = f"/slots/{slot}?action=save", {"filename": name}
    return (await _post(server, path, fields, _Saved)).n_saved


async def restore_slot(server: ServerAddress, slot: int, name: str) -> int:
    """Restore the prompt of a slot from a file; return its tokens. Raises ``SlotFileError``."""
    path, fields = f"/slots/{slot}?action=restore", {"filename": name}
    return (await _post(server, path, fields, _Restored)).n_restored


async def share_reused(server: ServerAddress, slot: int, name: str, tokens: Sequence[int]) -> float:
    """Return the share (0 to 1) of a prompt that the server need not read again after a restore.

    It has the prompt of ``tokens`` answered, saves the slot to a file, forgets and restores it, and
    asks for the same again: so the server has to go back to the end of the prompt, as for the next
    question in a conversation. Raises ``SlotFileError``.
    """
    await _answer(server, slot, tokens)
    await save_slot(server, slot, name)
    await _post(server, f"/slots/{slot}?action=erase", {}, _Erased)
    await restore_slot(server, slot, name)
    timings = await _answer(server, slot, tokens)
    return timings.cache_n / max(1, timings.cache_n + timings.prompt_n)


async def _answer(server: ServerAddress, slot: int, tokens: Sequence[int]) -> _Timings:
    asked = {
        "prompt": tokens,
        "id_slot": slot,
        "n_predict": _ANSWER,
        "ignore_eos": True,
        "cache_prompt": True,
        "response_fields": ["timings"],
    }
    return (await _post(server, "/completion", asked, _Answered)).timings


def saved_tokens(path: Path) -> list[int]:
    """Return the tokens in a saved file. It blocks; raises ``OSError`` and ``SlotFileError``."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        magic, _, count = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0)
        words = file.read(4 * count) if magic == _MAGIC and count <= _MOST_TOKENS else b""
    tokens = list(struct.unpack(f"<{len(words) // 4}i", words[: len(words) // 4 * 4]))
    if tokens[:1] == [_PACKED]:
        tokens = tokens[_PACKED_HEAD:]
    if not tokens or min(tokens) < 0:
        # An image or a sound in the prompt is no token.
        raise SlotFileError("the tokens in its file cannot be read")
    return tokens


async def _post(
    server: ServerAddress, path: str, fields: Mapping[str, object], kind: type[_T]
) -> _T:
    try:
        status, body = await http_get(
            server,
            path,
            timeout=_TIMEOUT,
            most_bytes=_MOST_BYTES,
            post=msgspec.json.encode(fields),
        )
    except OSError as error:
        why = clean_line(str(error)) or f"no answer within {_TIMEOUT:g} s"
        raise SlotFileError(f"it did not answer: {why}") from None
    try:
        if status == HTTPStatus.OK:
            return msgspec.json.decode(body, type=thread_safe(kind))
        refusal = msgspec.json.decode(body, type=thread_safe(_Refusal))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SlotFileError(f"it answered in another form, with status {status}") from None
    raise SlotFileError(f"it answered: {clean_line(refusal.error.message, limit=_MOST_WORDS)}")

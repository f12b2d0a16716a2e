"""Translates Ollama's options, and the fields that chats and completions share, for llama-server.

Options that Ollama applies when it loads a model (``num_ctx``, ``num_gpu`` and others) are ignored,
like those that it does not know: every client sends its own, and each would load the model again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.error_responses import HttpError
from cyber_inference_tui.http.ollama.answers import TextAnswer
from cyber_inference_tui.http.ollama.call import Need
from cyber_inference_tui.text import clean_line

_EFFORTS = frozenset({"low", "medium", "high", "max"})
_MOST_LOGPROBS = 20
_LARGEST = 1 << 53
_THINKING = Need("thinking", "thinking", 'Leave "think" out.')


class TextRequest(msgspec.Struct):
    """The fields that a chat and a completion have in common."""

    model: str | None = None
    stream: bool | None = None
    format: msgspec.Raw = msgspec.Raw()
    options: dict[str, Any] | None = None
    keep_alive: Any = None
    think: Any = None
    truncate: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def prepare(self, answer: TextAnswer) -> TextAnswer:
        """Set how the answer is translated, and return it."""
        answer.shortens = self.truncate is not False
        answer.shows_alternatives = bool(self.top_logprobs)
        return answer

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream, as it is by default."""
        return self.stream is not False


def text_fields(request: TextRequest) -> tuple[dict[str, Any], tuple[Need, ...]]:
    """Return the fields for llama-server's chat completions, and what the model has to support.

    Raises ``InvalidRequestError`` and ``HttpError``.
    """
    fields = llama_options(request.options)
    fields["stream"] = request.streams
    needs: tuple[Need, ...] = ()
    if request.think is not None:
        fields["chat_template_kwargs"] = _thinking(request.think)
        needs = (_THINKING,) if request.think is not False else ()
    if (schema := schema_of(request.format)) is not None:
        fields["response_format"] = (
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            if schema
            else {"type": "json_object"}
        )
    top = request.top_logprobs or 0
    if not 0 <= top <= _MOST_LOGPROBS:
        raise InvalidRequestError(
            f"top_logprobs must be between 0 and {_MOST_LOGPROBS}.", param="top_logprobs"
        )
    if request.logprobs:
        fields["logprobs"] = True
        # llama-server has no probabilities without any alternatives.
        fields["top_logprobs"] = top or 1
    return fields, needs


def _thinking(think: Any) -> dict[str, Any]:
    """Return the template's variables. Raises ``InvalidRequestError``."""
    if isinstance(think, bool):
        return {"enable_thinking": think}
    if isinstance(think, str) and think in _EFFORTS:
        return {"enable_thinking": True, "reasoning_effort": think}
    shown = clean_line(str(think), limit=100)
    raise InvalidRequestError(
        f'invalid think value: "{shown}" (must be "high", "medium", "low", "max", true, or false)',
        param="think",
    )


def schema_of(form: msgspec.Raw) -> msgspec.Raw | None:
    """Return the JSON schema of a ``format``: empty = any object; ``None`` = it is not given.

    Raises ``HttpError``.
    """
    text = bytes(form)
    if text in {b"", b"null", b'""'}:
        return None
    if text == b'"json"':
        return msgspec.Raw()
    if text.startswith(b"{"):
        return form
    shown = clean_line(text.decode("utf-8", "replace"), limit=100)
    raise HttpError(f'invalid format: {shown}; expected "json" or a valid JSON Schema object', 500)


def llama_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """Return the options for llama-server. Raises ``HttpError`` for a value of a wrong type."""
    found: dict[str, Any] = {}
    for name, value in (options or {}).items():
        if value is not None and (known := OPTIONS.get(name)) is not None:
            theirs, read, kind = known
            try:
                found[theirs] = read(value)
            except (TypeError, ValueError):
                raise HttpError(f'option "{name}" must be of type {kind}', 500) from None
    if found.get("max_tokens", 0) < 0:
        # Without a limit, as by default.
        del found["max_tokens"]
    return found


def _integer(value: Any) -> int:
    return int(_number(value))


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not abs(value) <= _LARGEST:
        raise ValueError
    return value


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise TypeError
    return texts


_Reader = Callable[[Any], Any]
OPTIONS: dict[str, tuple[str, _Reader, str]] = {
    "num_predict": ("max_tokens", _integer, "integer"),
    "num_keep": ("n_keep", _integer, "integer"),
    "seed": ("seed", _integer, "integer"),
    "top_k": ("top_k", _integer, "integer"),
    "repeat_last_n": ("repeat_last_n", _integer, "integer"),
    "stop": ("stop", _texts, "array"),
    **{
        name: (name, _number, "float32")
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
    },
}
"""By Ollama's names: llama-server's names, and the types."""

"""``/api/generate``: its requests for llama-server, and its answers.

A prompt becomes a chat of one message, a raw prompt a completion, and one with a suffix an infill.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.ollama.answers import TextAnswer
from cyber_inference_tui.http.ollama.call import Call, Need, reader
from cyber_inference_tui.http.ollama.chat import CHAT_PATH, VISION, content
from cyber_inference_tui.http.ollama.options import TextRequest, schema_of, text_fields
from cyber_inference_tui.http.ollama.server_answer import ServerAnswer
from cyber_inference_tui.http.ollama.values import idle_timeout

_GENERATE = Need("completion", "generate", "Ask a model that writes text.")
_INSERT = Need("infill", "insert", 'Leave "suffix" out, or ask a model for code.')


class _Generate(TextRequest):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class _Said(msgspec.Struct):
    role: str
    content: str


_read = reader(_Generate)
_decode_context = msgspec.json.Decoder(thread_safe(list[_Said])).decode


class GenerateAnswer(TextAnswer):
    """The answer to ``/api/generate``.

    ``conversation`` has the messages of the request, for the ``context`` at the end: the client may
    send it with its next prompt. ``None``: it gets none.
    """

    _before = b'"response":'

    def __init__(
        self, model: str, idle_timeout: float | None, conversation: list[_Said] | None
    ) -> None:
        super().__init__(model, idle_timeout)
        self._conversation = conversation
        self._text: list[str] = []

    def _note(self, answer: ServerAnswer, text: str, finish: str | None) -> None:
        super()._note(answer, text, finish)
        if self._conversation is not None:
            self._text.append(text)

    def _ending(self) -> dict[str, Any]:
        ending = super()._ending()
        if self._conversation is not None:
            reply = _Said("assistant", "".join(self._text))
            ending["context"] = _to_context([*self._conversation, reply])
        return ending


def read_generate(body: Body) -> Call:
    """Translate a request. Raises ``InvalidRequestError`` and ``HttpError``."""
    asked = _read(body)
    fields, needs = text_fields(asked)
    name, prompt = asked.model or "", asked.prompt or ""
    needs = (_GENERATE, *needs)
    conversation = None
    if asked.raw:
        if asked.system or asked.template or asked.context:
            raise InvalidRequestError("raw mode does not support template, system, or context")
        if asked.images:
            raise InvalidRequestError("raw mode does not support images", hint='Leave "raw" out.')
        path = "/v1/completions"
        _without_template(asked, fields)
        fields["prompt"] = prompt
    elif asked.suffix:
        path = "/infill"
        needs += (_INSERT,)
        _without_template(asked, fields)
        fields |= {"input_prefix": prompt, "input_suffix": asked.suffix}
    else:
        path = CHAT_PATH
        if asked.images:
            needs += (VISION,)
        earlier = _from_context(asked.context)
        if asked.system:
            earlier = [_Said("system", asked.system), *_without_system(earlier)]
        conversation = [*earlier, _Said("user", prompt)]
        question = {"role": "user", "content": content(prompt, asked.images)}
        fields["messages"] = [*earlier, question]
    return Call(
        model=name,
        path=path,
        fields=fields,
        answer=asked.prepare(GenerateAnswer(name, idle_timeout(asked.keep_alive), conversation)),
        stream=asked.streams,
        needs=needs,
        asks_nothing=not (prompt or asked.suffix or asked.images),
    )


def _without_template(asked: _Generate, fields: dict[str, Any]) -> None:
    """Change the fields to those of a request whose prompt passes no template."""
    fields.pop("chat_template_kwargs", None)
    if fields.pop("response_format", None) is not None:
        fields["json_schema"] = schema_of(asked.format) or {}
    if fields.pop("logprobs", None):
        fields["logprobs"] = fields.pop("top_logprobs")


# The context: the conversation, in numbers that only this service reads


def _to_context(conversation: list[_Said]) -> list[int]:
    return list(msgspec.json.encode(conversation))


def _from_context(context: list[int] | None) -> list[_Said]:
    try:
        return _decode_context(bytes(context)) if context else []
    except (ValueError, OverflowError, RecursionError):
        raise InvalidRequestError(
            "The context is not one of this service.", hint='Leave "context" out.', param="context"
        ) from None


def _without_system(conversation: list[_Said]) -> list[_Said]:
    return [message for message in conversation if message.role != "system"]

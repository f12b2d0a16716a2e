"""``/api/chat``: its requests for llama-server's ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

import msgspec

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.ollama.answers import ChatAnswer
from cyber_inference_tui.http.ollama.call import MODEL_REQUIRED, Call, Need, reader
from cyber_inference_tui.http.ollama.images import image_part
from cyber_inference_tui.http.ollama.options import TextRequest, text_fields
from cyber_inference_tui.http.ollama.values import idle_timeout

CHAT_PATH = "/v1/chat/completions"
VISION = Need("vision", "images", "Ask a model with a projector.")
_CHAT = Need("completion", "chat", "Ask a model that writes text.")
_TOOLS = Need("tools", "tools", 'Leave "tools" out, or ask a model whose template has them.')


class _Function(msgspec.Struct, frozen=True):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function = _Function()


class _Message(msgspec.Struct):
    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Chat(TextRequest):
    messages: list[_Message] | None = None
    tools: list[msgspec.Raw] | None = None


_read = reader(_Chat)


def read_chat(body: Body) -> Call:
    """Translate a request. Raises ``InvalidRequestError`` and ``HttpError``."""
    chat = _read(body)
    if not chat.model:
        raise InvalidRequestError(MODEL_REQUIRED, param="model")
    fields, needs = text_fields(chat)
    needs = (_CHAT, *needs)
    messages = chat.messages or []
    fields["messages"] = [_message(message) for message in messages]
    if any(message.images for message in messages):
        needs += (VISION,)
    if chat.tools:
        fields["tools"] = chat.tools
        needs += (_TOOLS,)
    return Call(
        model=chat.model,
        path=CHAT_PATH,
        fields=fields,
        answer=chat.prepare(ChatAnswer(chat.model, idle_timeout(chat.keep_alive))),
        stream=chat.streams,
        needs=needs,
        asks_nothing=not messages,
    )


def _message(message: _Message) -> dict[str, Any]:
    role = message.role.lower()
    found: dict[str, Any] = {"role": role, "content": content(message.content, message.images)}
    if message.thinking:
        found["reasoning_content"] = message.thinking
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_name:
        found["name"] = message.tool_name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def content(text: str | None, images: list[str] | None) -> Any:
    """Return the content of a message. Raises ``InvalidRequestError`` for a broken image."""
    if not images:
        return text or ""
    parts: list[Any] = [{"type": "text", "text": text}] if text else []
    return parts + [image_part(image) for image in images]


def _call(call: _ToolCall) -> dict[str, Any]:
    arguments: Any = bytes(call.function.arguments).decode()
    if arguments.startswith('"'):
        # It is JSON text already.
        arguments = call.function.arguments
    shown = {"name": call.function.name, "arguments": arguments}
    return {"type": "function", "function": shown, **({"id": call.id} if call.id else {})}

"""Asks a llama-server's ``/props`` for the abilities of the chat template in force."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.gguf.chat_template import TemplateFacts, read_template
from cyber_inference_tui.llama.http_get import ServerAddress, http_get

_MOST_BYTES = 1 << 20


class _Abilities(msgspec.Struct):
    supports_tools: bool | None = None


class _Props(msgspec.Struct):
    chat_template: str
    chat_template_caps: _Abilities = msgspec.field(default_factory=_Abilities)


async def ask_template(server: ServerAddress, timeout: float) -> TemplateFacts | None:
    """Return the abilities of the template by ``GET /props``; ``None`` = no valid answer in time.

    llama-server tries whether the template takes tools. Builds without ``chat_template_caps`` only
    return the template's text. ``timeout`` is in seconds. The fields are those of build 11669
    (``tools/server/README.md`` of llama.cpp).
    """
    try:
        status, body = await http_get(server, "/props", timeout=timeout, most_bytes=_MOST_BYTES)
    except OSError:
        # TimeoutError is an OSError.
        return None
    return parse_props(body) if status == HTTPStatus.OK else None


def parse_props(body: bytes) -> TemplateFacts | None:
    """Return the facts in the body of an answer; ``None`` = it has another form."""
    try:
        props = msgspec.json.decode(body, type=thread_safe(_Props))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    facts = read_template(props.chat_template)
    tools = props.chat_template_caps.supports_tools
    return facts if tools is None else msgspec.structs.replace(facts, tools=tools)

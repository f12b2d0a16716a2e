"""Sends the request that a client would send, and reads the answer as it would."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cyber_inference_tui.certificates import trusting
from cyber_inference_tui.connect.client import Api
from cyber_inference_tui.connect.connection import PATIENCE, Connection
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    import httpx

_QUESTION = "Say hello."
_TOKENS = 16
_SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
_TOOL = {"name": "read_file", "description": "Reads a file.", "parameters": _SCHEMA}


def request(api: Api, connection: Connection) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return the URL, the headers and the body of a small request, with a tool if the model can."""
    model = connection.model
    messages = [{"role": "user", "content": _QUESTION}]
    headers = {"Authorization": f"Bearer {connection.any_key}"}
    body: dict[str, Any] = {"model": model.id, "stream": True}
    tools: list[dict[str, Any]]
    if api is Api.CHAT:
        path = "/v1/chat/completions"
        body |= {"messages": messages, "max_tokens": _TOKENS}
        tools = [{"type": "function", "function": _TOOL}]
    elif api is Api.RESPONSES:
        path = "/v1/responses"
        body |= {"input": messages, "max_output_tokens": _TOKENS}
        tools = [{"type": "function", **_TOOL}]
    else:
        path = "/v1/messages"
        headers["anthropic-version"] = "2023-06-01"
        body |= {"messages": messages, "max_tokens": _TOKENS}
        tools = [{"name": _TOOL["name"], "input_schema": _SCHEMA}]
    if model.tools:
        body["tools"] = tools
    return connection.url + path, headers, body


def ask(api: Api, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
    """Send the request and read the answer. Raises ``CyberError`` with what the client would see.

    Blocks until the answer is complete, and loads the model if it is not loaded.
    """
    import httpx  # noqa: PLC0415 - only the doctor asks

    url, headers, body = request(api, connection)
    limits = httpx.Timeout(PATIENCE, connect=5)
    trust = trusting(connection.certificate)
    try:
        with (
            httpx.Client(
                timeout=limits, trust_env=False, verify=trust, transport=transport
            ) as client,
            client.stream("POST", url, headers=headers, json=body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise CyberError(_refusal(response.status_code, response.text))
            _check(api, list(_events(response.iter_lines())))
    except ValueError as error:
        raise CyberError("The answer has an event that is not JSON.") from error
    except httpx.HTTPError as error:
        raise CyberError(
            f"{url} does not answer: {clean_line(str(error)) or type(error).__name__}."
        ) from error


def _events(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        name, _, data = line.partition(":")
        if name == "data":
            yield None if data.strip() == "[DONE]" else json.loads(data)


def _refusal(status: int, text: str) -> str:
    try:
        text = json.loads(text)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        text = text or "no reason"
    return f"The service answered {status}: {clean_line(str(text), limit=400)}"


def _check(api: Api, events: list[Any]) -> None:
    """Raise ``CyberError`` if the events are not a whole answer of the API."""
    for event in events:
        if isinstance(event, dict) and event.get("error"):
            raise CyberError(_refusal(200, json.dumps(event)))
    if api is Api.CHAT:
        chunks = [event["choices"][0] for event in events if event and event.get("choices")]
        whole = any(chunk.get("finish_reason") for chunk in chunks) and events[-1:] == [None]
    else:
        first, last = {
            Api.RESPONSES: ("response.created", {"response.completed", "response.incomplete"}),
            Api.MESSAGES: ("message_start", {"message_stop"}),
        }[api]
        kinds = [event.get("type") for event in events if event]
        whole = bool(kinds) and kinds[0] == first and kinds[-1] in last
    if not whole:
        raise CyberError(f"The answer is not a whole stream of the {api} API.")

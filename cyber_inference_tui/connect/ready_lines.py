"""Ready lines to copy: how each client uses the service's address, key and model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from cyber_inference_tui.connect.client import Client, exports
from cyber_inference_tui.connect.clients import CLIENTS, claude_code
from cyber_inference_tui.connect.connection import Connection
from cyber_inference_tui.connect.curl import curl_lines

Kind = Literal["chat", "embeddings", "rerank"]
"""The use of a model."""

_QUESTION = "Hello"
_REQUESTS: dict[Kind, tuple[str, dict[str, Any]]] = {
    "chat": ("chat/completions", {"messages": [{"role": "user", "content": _QUESTION}]}),
    "embeddings": ("embeddings", {"input": "some text"}),
    "rerank": ("rerank", {"query": "a question", "documents": ["one text", "another"]}),
}
"""The path and body of a request with a model."""
_NEXT_FIELD = ",\n       "
"""The fields of a body begin below each other."""
_USUAL_HOST = "127.0.0.1"
_USUAL_PORT = 8337
_WRITES = "It writes the client's settings, shows the difference first, and --undo takes it back."
_FIRST = ("open-webui", "env")
"""The printed clients that people have most; they come before those with files."""


class ReadyLines(NamedTuple):
    """Lines for a client."""

    title: str
    text: str
    note: str = ""
    """Further facts, in a sentence or two."""


def ready_lines(connection: Connection, kind: Kind = "chat") -> list[ReadyLines]:
    """Return the lines that use the connection's model, those of libraries first."""
    first = curl(connection, kind)
    if kind == "rerank":
        return [first]
    if kind == "embeddings":
        return [
            first,
            ReadyLines("OpenAI Python", _python_embeddings(connection)),
            ReadyLines("OpenAI JS", _javascript_embeddings(connection)),
        ]
    return [
        first,
        ReadyLines("OpenAI Python", _python(connection)),
        ReadyLines("OpenAI JS", _javascript(connection)),
        ReadyLines("Anthropic", _anthropic(connection)),
        *_programs(connection),
    ]


def curl(connection: Connection, kind: Kind = "chat", *, variable: bool = False) -> ReadyLines:
    """Return a request with curl; with ``variable`` the key comes from the shell's variable."""
    path, body = _REQUESTS[kind]
    body = {"model": connection.model.id, **body}
    fields = (f"{_quoted(name)}: {_quoted(value)}" for name, value in body.items())
    json_text = "{" + _NEXT_FIELD.join(fields) + "}"
    url = f"{connection.openai_url}/{path}"
    lines = curl_lines(url, connection.key, variable=variable)
    return ReadyLines("curl", " \\\n".join([*lines, f"  -d {shlex.quote(json_text)}"]))


def _quoted(value: Any) -> str:
    """Return a value as JSON, which Python and JavaScript read, too."""
    return json.dumps(value, ensure_ascii=False)


def _python_client(connection: Connection) -> str:
    address, key = _quoted(connection.openai_url), _quoted(connection.any_key)
    return f"""\
from openai import OpenAI

client = OpenAI(base_url={address}, api_key={key})
"""


def _python(connection: Connection) -> str:
    return f"""\
{_python_client(connection)}answer = client.chat.completions.create(
    model={_quoted(connection.model.id)},
    messages=[{{"role": "user", "content": "{_QUESTION}"}}],
)
print(answer.choices[0].message.content)
"""


def _python_embeddings(connection: Connection) -> str:
    return f"""\
{_python_client(connection)}result = client.embeddings.create(
    model={_quoted(connection.model.id)},
    input="some text",
)
print(len(result.data[0].embedding))
"""


def _javascript_client(connection: Connection) -> str:
    return f"""\
import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: {_quoted(connection.openai_url)},
  apiKey: {_quoted(connection.any_key)},
}});
"""


def _javascript(connection: Connection) -> str:
    return f"""\
{_javascript_client(connection)}const answer = await client.chat.completions.create({{
  model: {_quoted(connection.model.id)},
  messages: [{{ role: "user", content: "{_QUESTION}" }}],
}});
console.log(answer.choices[0].message.content);
"""


def _javascript_embeddings(connection: Connection) -> str:
    return f"""\
{_javascript_client(connection)}const result = await client.embeddings.create({{
  model: {_quoted(connection.model.id)},
  input: "some text",
}});
console.log(result.data[0].embedding.length);
"""


def _anthropic(connection: Connection) -> str:
    # A model that thinks puts its thoughts before its answer.
    return f"""\
from anthropic import Anthropic

client = Anthropic(
    base_url={_quoted(connection.url)},
    api_key={_quoted(connection.any_key)},
)
message = client.messages.create(
    model={_quoted(connection.model.id)},
    max_tokens={connection.model.output},
    messages=[{{"role": "user", "content": "{_QUESTION}"}}],
)
print(message.content[-1].text)
"""


def _programs(connection: Connection) -> Iterator[ReadyLines]:
    """Yield the lines of client programs: variables, or the command that writes their files."""
    claude = claude_code.CLIENT
    write = _connect_command(claude, connection)
    note = f"For this shell only; `{write}` writes them into its settings." if write else ""
    yield ReadyLines(
        claude.title,
        f"{exports(claude_code.variables(connection))}claude\n",
        _notes(claude, connection, note),
    )
    for name in (*_FIRST, *(name for name in CLIENTS if name not in {claude.name, *_FIRST})):
        client = CLIENTS[name]
        if client.printed is not None:
            yield ReadyLines(
                client.title, client.printed(connection), _notes(client, connection, "")
            )
        elif write:
            yield ReadyLines(
                client.title,
                _connect_command(client, connection),
                _notes(client, connection, _WRITES),
            )


def _notes(client: Client, connection: Connection, note: str) -> str:
    notes = (note, *client.notes(connection), client.lack_of_context(connection))
    return " ".join(filter(None, notes))


def _connect_command(client: Client, connection: Connection) -> str:
    """Return the command that connects a client on its machine.

    None can name an https address of another machine.
    """
    parts = urlsplit(connection.url)
    if parts.scheme != "http" and parts.hostname != _USUAL_HOST:
        return ""
    words = ["cyber-inference-tui", "connect", client.name, "--model", connection.model.id]
    if parts.hostname != _USUAL_HOST:
        words += ["--host", parts.hostname or ""]
    if parts.port != _USUAL_PORT:
        words += ["--port", str(parts.port or 80)]
    return shlex.join(words)

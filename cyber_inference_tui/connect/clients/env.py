"""The shell: variables for the libraries of OpenAI, Anthropic and Ollama."""

from __future__ import annotations

from cyber_inference_tui.connect.client import Api, Client, exports
from cyber_inference_tui.connect.connection import Connection


def _printed(connection: Connection) -> str:
    variables = {
        "OPENAI_BASE_URL": connection.openai_url,
        # Older programs, and those on litellm.
        "OPENAI_API_BASE": connection.openai_url,
        "OPENAI_API_KEY": connection.any_key,
        "OPENAI_MODEL": connection.model.id,
        "ANTHROPIC_BASE_URL": connection.url,
        "ANTHROPIC_AUTH_TOKEN": connection.any_key,
        "ANTHROPIC_MODEL": connection.model.id,
        "OLLAMA_HOST": connection.url,
    }
    if connection.key:
        variables["OLLAMA_API_KEY"] = connection.key
    return exports(variables)


CLIENT = Client(
    name="env",
    title="Shell",
    api=Api.CHAT,
    printed=_printed,
    notes=lambda connection: ('`eval "$(cyber-inference-tui connect env)"` sets them.',),
)

"""Home Assistant: the fields of its integrations (https://www.home-assistant.io/integrations/ollama)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import Api, Client
from cyber_inference_tui.connect.connection import Connection


def _printed(connection: Connection) -> str:
    key = connection.key or "(leave it empty)"
    return f"""\
Settings > Devices & services > Add integration > Ollama
  URL             {connection.url}
  API key         {key}
  Model           {connection.model.id}
  Context window  {connection.model.context}

Or, with the custom integration "Local OpenAI LLM":
  Server URL      {connection.openai_url}
  API key         {key}
  Model           {connection.model.id}
"""


CLIENT = Client(
    name="home-assistant",
    title="Home Assistant",
    api=Api.CHAT,
    printed=_printed,
    notes=lambda connection: (
        "On another machine it needs an address of this one instead of 127.0.0.1.",
    ),
)

"""Open WebUI: variables for its first start (https://docs.openwebui.com)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import Api, Client, exports
from cyber_inference_tui.connect.connection import PATIENCE, Connection


def _printed(connection: Connection) -> str:
    variables = {
        "OPENAI_API_BASE_URL": connection.openai_url,
        "OPENAI_API_KEY": connection.any_key,
        "ENABLE_OLLAMA_API": "False",
        "DEFAULT_MODELS": connection.model.id,
        # Titles, tags and follow-up questions.
        "TASK_MODEL_EXTERNAL": connection.fast.id,
        "AIOHTTP_CLIENT_TIMEOUT": str(PATIENCE),
    }
    return exports(variables)


CLIENT = Client(
    name="open-webui",
    title="Open WebUI",
    api=Api.CHAT,
    printed=_printed,
    notes=lambda connection: (
        "It reads them at its first start; later, change Admin Panel, Settings, Connections.",
    ),
)

"""pi: a provider in ``models.json`` and the default model in ``settings.json``.

Source: the files models.md and settings.md of its documentation.
"""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PROVIDER, Connection, Model


def _entry(model: Model) -> dict[str, object]:
    return {
        "id": model.id,
        "reasoning": model.thinking,
        "contextWindow": model.context,
        "maxTokens": model.output,
        "input": ["text", "image"] if model.images else ["text"],
    }


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    folder = home.folder("PI_CODING_AGENT_DIR", home.path / ".pi" / "agent")
    provider = {
        "baseUrl": connection.openai_url,
        "api": "openai-completions",
        # A "$" or "!" at the beginning would be a variable or a command.
        "apiKey": connection.any_key.replace("$", "$$"),
        "compat": {"supportsDeveloperRole": False, "supportsReasoningEffort": False},
        "models": [_entry(model) for model in connection.models],
    }
    default = {"defaultProvider": PROVIDER, "defaultModel": connection.model.id}
    return (
        ClientFile(folder / "models.json", JSON, {"providers": {PROVIDER: provider}}),
        ClientFile(folder / "settings.json", JSON, default),
    )


CLIENT = Client(
    name="pi",
    title="pi",
    api=Api.CHAT,
    programs=("pi",),
    files=_files,
    least_context=16384,
)

"""Aider: options in ``.aider.conf.yml`` and context sizes in a second file.

Sources: https://aider.chat/docs/config/aider_conf.html and
https://aider.chat/docs/config/adv-model-settings.html
"""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, YAML, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PATIENCE, Connection


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    options = {
        "model": f"openai/{connection.model.id}",
        "weak-model": f"openai/{connection.fast.id}",
        "openai-api-base": connection.openai_url,
        "openai-api-key": connection.any_key,
        "timeout": PATIENCE,
    }
    sizes = {
        f"openai/{model.id}": {
            "max_input_tokens": model.context,
            "max_output_tokens": model.output,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
            "supports_vision": model.images,
        }
        for model in connection.models
    }
    return (
        ClientFile(home.path / ".aider.conf.yml", YAML, options),
        ClientFile(home.path / ".aider.model.metadata.json", JSON, sizes),
    )


CLIENT = Client(
    name="aider",
    title="Aider",
    api=Api.CHAT,
    programs=("aider",),
    files=_files,
    least_context=8192,
)

"""Goose: a custom provider in a file of its own, made active in ``config.yaml``.

Source: https://goose-docs.ai/docs/guides/config-files and its declarative providers.
"""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, YAML, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PATIENCE, PROVIDER, Connection

_NAME = f"custom_{PROVIDER}"


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    provider: dict[str, object] = {
        "name": _NAME,
        "engine": "openai",
        "display_name": "Cyber Inference",
        "description": "The models of this machine",
        "base_url": connection.url,
        "base_path": "v1/chat/completions",
        "models": [
            {"name": model.id, "context_limit": model.context} for model in connection.models
        ],
        "fast_model": connection.fast.id,
        "timeout_seconds": PATIENCE,
        "supports_streaming": True,
        # With a key of its own it would ask the keyring.
        "requires_auth": False,
    }
    if connection.key:
        provider["headers"] = {"Authorization": f"Bearer {connection.key}"}
    active = {
        "active_provider": _NAME,
        "providers": {_NAME: {"enabled": True, "model": connection.model.id, "configured": True}},
    }
    folder = home.config / "goose"
    return (
        ClientFile(folder / "config.yaml", YAML, active),
        ClientFile(folder / "custom_providers" / f"{_NAME}.json", JSON, provider),
    )


CLIENT = Client(
    name="goose",
    title="Goose",
    api=Api.CHAT,
    programs=("goose",),
    files=_files,
    least_context=16384,
)

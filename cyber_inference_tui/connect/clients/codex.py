"""Codex CLI: a provider in ``config.toml`` (https://developers.openai.com/codex/config-reference)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import TOML, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PATIENCE, PROVIDER, Connection


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    provider = {
        "name": "Cyber Inference",
        "base_url": connection.openai_url,
        "wire_api": "responses",
        # It counts events, and the service's comments during a load are none.
        "stream_idle_timeout_ms": PATIENCE * 1000,
    }
    if connection.key:
        provider["experimental_bearer_token"] = connection.key
    changes = {
        "model": connection.model.id,
        "model_provider": PROVIDER,
        "model_context_window": connection.model.context,
        "model_auto_compact_token_limit": connection.model.context - connection.model.output,
        # llama-server has no such tool.
        "web_search": "disabled",
        "model_providers": {PROVIDER: provider},
    }
    folder = home.folder("CODEX_HOME", home.path / ".codex")
    return (ClientFile(folder / "config.toml", TOML, changes),)


CLIENT = Client(
    name="codex",
    title="Codex CLI",
    api=Api.RESPONSES,
    programs=("codex",),
    files=_files,
    least_context=32768,
)

"""OpenCode: a provider in ``opencode.json`` (https://opencode.ai/docs/providers)."""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.connect.client import JSON, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PATIENCE, PROVIDER, Connection, Model
from cyber_inference_tui.connect.settings_change import IfAbsent


def _entry(model: Model) -> dict[str, object]:
    inputs = ["text", "image"] if model.images else ["text"]
    return {
        "name": model.id,
        "limit": {"context": model.context, "output": model.output},
        "tool_call": model.tools,
        "reasoning": model.thinking,
        "attachment": model.images,
        "modalities": {"input": inputs, "output": ["text"]},
    }


def _path(folder: Path) -> Path:
    """Return the settings file: OpenCode reads both names, and the second wins."""
    with_comments = folder / "opencode.jsonc"
    return with_comments if with_comments.exists() else folder / "opencode.json"


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    changes = {
        "$schema": IfAbsent("https://opencode.ai/config.json"),
        "model": f"{PROVIDER}/{connection.model.id}",
        "small_model": f"{PROVIDER}/{connection.fast.id}",
        "provider": {
            PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Cyber Inference",
                "options": {
                    "baseURL": connection.openai_url,
                    "apiKey": connection.any_key,
                    "timeout": PATIENCE * 1000,
                    # Both are 300 s otherwise: a long prompt on a small machine takes longer.
                    "headerTimeout": PATIENCE * 1000,
                    "chunkTimeout": PATIENCE * 1000,
                },
                "models": {model.id: _entry(model) for model in connection.models},
            }
        },
    }
    return (ClientFile(_path(home.config / "opencode"), JSON, changes),)


CLIENT = Client(
    name="opencode",
    title="OpenCode",
    api=Api.CHAT,
    programs=("opencode",),
    files=_files,
    least_context=32768,
)

"""Crush: a provider in ``crush.json`` (https://github.com/charmbracelet/crush)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PROVIDER, Connection, Model
from cyber_inference_tui.connect.settings_change import IfAbsent


def _entry(model: Model) -> dict[str, object]:
    return {
        "id": model.id,
        "name": model.id,
        "context_window": model.context,
        "default_max_tokens": model.output,
        "supports_attachments": model.images,
    }


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    changes = {
        "$schema": IfAbsent("https://charm.land/crush.json"),
        "providers": {
            PROVIDER: {
                "name": "Cyber Inference",
                "type": "openai-compat",
                "base_url": connection.openai_url,
                "api_key": connection.any_key,
                "models": [_entry(model) for model in connection.models],
            }
        },
        "models": {
            "large": {"provider": PROVIDER, "model": connection.model.id},
            "small": {"provider": PROVIDER, "model": connection.fast.id},
        },
    }
    folder = home.folder("CRUSH_GLOBAL_CONFIG", home.config / "crush")
    return (ClientFile(folder / "crush.json", JSON, changes),)


CLIENT = Client(
    name="crush",
    title="Crush",
    api=Api.CHAT,
    programs=("crush",),
    files=_files,
    least_context=16384,
)

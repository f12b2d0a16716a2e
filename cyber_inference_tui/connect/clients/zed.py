"""Zed: a provider in ``settings.json`` (https://zed.dev/docs/ai/use-api-access)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.connect.settings_change import Items

_PROVIDER = "citui"
"""Zed derives a variable for the key from it, which must not begin like this program's own."""
_KEY_VARIABLE = "CITUI_API_KEY"


def _entry(model: Model) -> dict[str, object]:
    return {
        "name": model.id,
        "display_name": model.id,
        "max_tokens": model.context,
        "max_output_tokens": model.output,
        "capabilities": {
            "tools": model.tools,
            "images": model.images,
            "parallel_tool_calls": False,
            "prompt_cache_key": False,
        },
    }


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    provider = {
        "api_url": connection.openai_url,
        "available_models": Items("name", tuple(_entry(model) for model in connection.models)),
    }
    changes = {
        "language_models": {"openai_compatible": {_PROVIDER: provider}},
        "agent": {"default_model": {"provider": _PROVIDER, "model": connection.model.id}},
    }
    # On macOS, too, its settings are in ~/.config.
    folder = home.config if home.platform != "darwin" else home.path / ".config"
    return (ClientFile(folder / "zed" / "settings.json", JSON, changes),)


def _notes(connection: Connection) -> tuple[str, ...]:
    key = "the key" if connection.key else "any text"
    return (
        f"Zed takes no key from this file: enter {key} in its settings (AI, LLM Providers, "
        f"{_PROVIDER}), or start it with {_KEY_VARIABLE} set to it.",
    )


CLIENT = Client(
    name="zed",
    title="Zed",
    api=Api.CHAT,
    programs=("zed", "zeditor", "zedit"),
    files=_files,
    least_context=16384,
    notes=_notes,
)

"""Continue: models in ``config.yaml`` (https://docs.continue.dev/reference)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import YAML, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PATIENCE, Connection, Model
from cyber_inference_tui.connect.settings_change import IfAbsent, Items


def _entry(connection: Connection, model: Model) -> dict[str, object]:
    abilities = [*(["tool_use"] if model.tools else []), *(["image_input"] if model.images else [])]
    return {
        "name": model.id,
        "provider": "openai",
        "model": model.id,
        "apiBase": connection.openai_url,
        "apiKey": connection.any_key,
        "roles": ["chat", "edit", "apply"],
        "capabilities": abilities,
        "defaultCompletionOptions": {"contextLength": model.context, "maxTokens": model.output},
        "requestOptions": {"timeout": PATIENCE},
    }


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    changes = {
        "name": IfAbsent("Local models"),
        "version": IfAbsent("1.0.0"),
        "schema": IfAbsent("v1"),
        "models": Items("name", tuple(_entry(connection, model) for model in connection.models)),
    }
    folder = home.folder("CONTINUE_GLOBAL_DIR", home.path / ".continue")
    return (ClientFile(folder / "config.yaml", YAML, changes),)


CLIENT = Client(
    name="continue",
    title="Continue",
    api=Api.CHAT,
    programs=("cn",),
    folder=".continue",  # an editor's extension
    files=_files,
    least_context=8192,
)

"""VS Code: a custom endpoint in ``chatLanguageModels.json``.

Source: https://code.visualstudio.com/docs/agent-customization/language-models
"""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.connect.client import JSON, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.connect.settings_change import Items


def _entry(connection: Connection, model: Model) -> dict[str, object]:
    return {
        "id": model.id,
        "name": model.id,
        "url": f"{connection.openai_url}/chat/completions",
        "toolCalling": model.tools,
        "vision": model.images,
        "thinking": model.thinking,
        # The two together are the context.
        "maxInputTokens": model.context - model.output,
        "maxOutputTokens": model.output,
    }


def _folder(home: Home) -> Path:
    """Return the folder of the first VS Code that has been used, else of the usual one."""
    folders = [home.app_data / name / "User" for name in ("Code", "Code - Insiders", "VSCodium")]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    group = {
        "name": "Cyber Inference",
        "vendor": "customendpoint",
        "apiKey": connection.any_key,
        "apiType": "chat-completions",
        "models": [_entry(connection, model) for model in connection.models],
    }
    return (ClientFile(_folder(home) / "chatLanguageModels.json", JSON, Items("name", (group,))),)


CLIENT = Client(
    name="vscode",
    title="VS Code",
    api=Api.CHAT,
    programs=("code", "code-insiders", "codium"),
    files=_files,
    least_context=16384,
    notes=lambda connection: ("Choose the model in the chat's model picker.",),
)

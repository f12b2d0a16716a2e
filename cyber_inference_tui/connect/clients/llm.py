"""llm: models in ``extra-openai-models.yaml``, a key in ``keys.json``.

Source: https://llm.datasette.io/en/stable/other-models.html
"""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, YAML, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PROVIDER, Connection, Model
from cyber_inference_tui.connect.settings_change import Items


def _entry(connection: Connection, model: Model) -> dict[str, object]:
    entry: dict[str, object] = {
        "model_id": model.id,
        "model_name": model.id,
        "api_base": connection.openai_url,
        "supports_tools": model.tools,
        "supports_schema": True,
        "vision": model.images,
    }
    if connection.key:
        entry["api_key_name"] = PROVIDER
    return entry


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    folder = home.folder("LLM_USER_PATH", home.app_data / "io.datasette.llm")
    entries = tuple(_entry(connection, model) for model in connection.models)
    models = ClientFile(folder / "extra-openai-models.yaml", YAML, Items("model_id", entries))
    if not connection.key:
        return (models,)
    return (models, ClientFile(folder / "keys.json", JSON, {PROVIDER: connection.key}))


CLIENT = Client(
    name="llm",
    title="llm",
    api=Api.CHAT,
    programs=("llm",),
    files=_files,
    notes=lambda connection: (
        f"Use it with `llm -m {connection.model.id}`; `llm models default` makes it the default.",
    ),
)

"""The endpoints of llama-server's router beside the lists of models.

Statuses, types and bodies are those of ``tools/server/server-models.cpp`` of llama.cpp, build
11669. A message with a model's name is our own, because it says which names are near it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyber_inference_tui.errors import InvalidRequestError, ModelNotFoundError
from cyber_inference_tui.http.allowed_models import allows
from cyber_inference_tui.http.model_list import (
    RUNNING,
    allowed_record,
    entry_of,
    exit_code,
    status_value,
)
from cyber_inference_tui.records import KeyLimits, ModelRecord, ModelStatus, to_json
from cyber_inference_tui.records.keys import NO_LIMITS
from cyber_inference_tui.service.events import Event

if TYPE_CHECKING:
    from cyber_inference_tui.service.models import Models
    from cyber_inference_tui.service.service import Service

_SUCCESS = {"success": True}


async def begin_load(models: Models, name: str, limits: KeyLimits) -> dict[str, bool]:
    """Begin to load a model.

    Raises the errors of ``listed_model``, and ``InvalidRequestError``.
    """
    record = allowed_record(models, name, limits)
    if record.status in RUNNING:
        raise InvalidRequestError("model is already running")
    await models.load(record.id, wait=False)
    return _SUCCESS


async def begin_unload(models: Models, name: str, limits: KeyLimits) -> dict[str, bool]:
    """Begin to unload a model, after its requests.

    Raises ``InvalidRequestError``, and ``ModelNotAllowedError`` if the key may not use it.
    """
    try:
        record = allowed_record(models, name, limits)
    except ModelNotFoundError as error:
        raise InvalidRequestError(error.message, hint=error.hint) from None
    if record.status not in RUNNING | {ModelStatus.UNLOADING}:
        raise InvalidRequestError("model is not running")
    models.begin_unload(record.id)
    return _SUCCESS


def router_props(service: Service) -> dict[str, Any]:
    """Return the properties of the service, by which clients recognize a router."""
    llama_server = service.status().llama_server
    return {
        "role": "router",
        "max_instances": service.settings.max_loaded_models,
        "models_autoload": True,
        "model_alias": "llama-server",
        "model_path": "none",
        "default_generation_settings": {"params": None, "n_ctx": 0},
        "ui_settings": {},
        "build_info": f"b{llama_server.build}" if llama_server.build else "",
        "cors_proxy_enabled": False,
    }


class RouterEvents:
    """Turns the events of models into those of the router, for one client.

    The router reports changes of a status, and the progress of loads. The client gets those of the
    models that its key may use.
    """

    def __init__(self, models: Models, limits: KeyLimits = NO_LIMITS) -> None:
        self._models = models
        self._limits = limits
        self._last = {
            record.id: _shown(record) for record in models.records() if allows(limits, record)
        }

    def encode(self, event: Event) -> bytes:
        """Return an event as Server-Sent Events of the router; often there are none."""
        data = event.data
        if isinstance(data, ModelRecord):
            return self._changes(data)
        if event.topic == "model" and isinstance(data, dict):
            # The model is gone.
            status, _ = self._last.pop(data["id"], ("unloaded", None))
            return b"" if status == "unloaded" else _unloaded(data["id"], 0)
        # A gap: some changes were missed.
        return b"".join(map(self._changes, self._models.records()))

    def _changes(self, record: ModelRecord) -> bytes:
        if not allows(self._limits, record):
            return b""
        before, now = self._last.get(record.id, ("unloaded", None)), _shown(record)
        if before == now:
            return b""
        self._last[record.id] = now
        status, progress = now
        events = b""
        if status == "loading":
            if before[0] != status:
                events = _sse(record.id, "model_status", {"status": status})
            if progress is not None:
                stage = "text_model"
                part = {"stages": [stage], "current": stage, "value": progress}
                events += _sse(record.id, "status_change", {"status": status, "progress": part})
        elif before[0] != status and status == "loaded":
            info = entry_of(self._models, record)
            events = _sse(record.id, "status_change", {"status": status, "info": info})
        elif before[0] != status:
            failed = record.status is ModelStatus.FAILED
            events = _unloaded(record.id, exit_code(record) if failed else 0)
        return events


def _shown(record: ModelRecord) -> tuple[str, float | None]:
    status = status_value(record)
    return status, record.progress if status == "loading" else None


def _unloaded(model_id: str, code: int) -> bytes:
    return _sse(model_id, "status_change", {"status": "unloaded", "exit_code": code})


def _sse(model_id: str, event: str, data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % to_json({"model": model_id, "event": event, "data": data})

"""The lists of models as Ollama answers them, and what it shows of a model. Nothing loads one."""

from __future__ import annotations

from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.gguf.reader import Header
from cyber_inference_tui.http.allowed_models import allows, check_allowed
from cyber_inference_tui.http.ollama import facts
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.ids import AUTO
from cyber_inference_tui.peers.peers import Peers
from cyber_inference_tui.records import KeyLimits, ModelRecord, ModelStatus
from cyber_inference_tui.records.keys import NO_LIMITS
from cyber_inference_tui.scheduler.state import idle_timeout
from cyber_inference_tui.service.service import utc_now

if TYPE_CHECKING:
    from cyber_inference_tui.service.models import Models
    from cyber_inference_tui.service.service import Service

_KEPT = 8
"""Headers that are kept in memory. Some clients ask for a model before each request to it."""
_LOADED = frozenset({ModelStatus.LOADED, ModelStatus.UNLOADING})


def named(models: Models, name: str, limits: KeyLimits = NO_LIMITS) -> LocalModel:
    """Return the model with this name.

    Raises ``ModelNotFoundError``, ``InvalidRequestError`` for an empty name, and
    ``ModelNotAllowedError`` if the key may not use it.
    """
    if not name:
        raise InvalidRequestError("model is required", param="model")
    model = models.resolve(name)
    check_allowed(limits, model)
    return model


def tags(models: Models, limits: KeyLimits, peers: Peers) -> dict[str, Any]:
    """Return the models that a key may use, under each of their names, the newest first.

    ``auto`` comes before them if it is set, and those of other boxes come last.
    """
    found = [
        (model, record)
        for record in models.records()
        if allows(limits, record) and (model := models.local(record.id)) is not None
    ]
    found.sort(key=lambda pair: pair[0].modified or 0, reverse=True)
    entries = [
        facts.listed(name, model, record)
        for model, record in found
        for name in (record.id, *record.aliases)
    ]
    for remote in peers.listed(models.records()) if peers else ():
        model = LocalModel(id=remote.name, size_bytes=remote.record.size_bytes)
        if allows(limits, remote.record):
            entries.append(facts.listed(remote.name, model, remote.record))
    meant = models.auto_record()
    if (
        meant is not None
        and allows(limits, meant)
        and (model := models.local(meant.id)) is not None
    ):
        names = (AUTO, *models.catalog.auto_aliases)
        entries = [*(facts.listed(name, model, meant) for name in names), *entries]
    return {"models": entries}


def running(service: Service, limits: KeyLimits) -> dict[str, Any]:
    """Return the loaded models that a key may use, those that stay longest first."""
    entries = [
        _running(service, record, model)
        for record in service.models.records()
        if record.status in _LOADED
        and allows(limits, record)
        and (model := service.models.local(record.id)) is not None
    ]
    return {"models": sorted(entries, key=lambda one: str(one["expires_at"]), reverse=True)}


def _running(service: Service, record: ModelRecord, model: LocalModel) -> dict[str, Any]:
    state = service.scheduler.state(record.id)
    expires = record.unload_at
    if expires is None:
        seconds = idle_timeout(state, service.settings) if state is not None else 0.0
        stays = seconds <= 0 or record.pinned
        # A busy model expires after its last request.
        expires = utc_now() + (facts.FOR_EVER if stays else timedelta(seconds=seconds))
    footprint = state.footprint if state is not None else None
    return facts.running(
        model, record, expires=expires, in_gpu=footprint.device if footprint is not None else 0
    )


class _Headers(NamedTuple):
    """The headers of a model's files, as long as these are the same."""

    of: tuple[int | None, int | None]
    model: Header | None
    projector: Header | None


class Shower:
    """Shows all facts of a model, as ``POST /api/show`` does."""

    def __init__(self, service: Service) -> None:
        self._models = service.models
        self._kept: OrderedDict[str, _Headers] = OrderedDict()

    async def show(
        self,
        name: str,
        *,
        verbose: bool = False,
        basename: str | None = None,
        limits: KeyLimits = NO_LIMITS,
    ) -> dict[str, Any]:
        """Return the facts of a model.

        ``basename`` replaces the name in its header. Raises the errors of ``named``.
        """
        model = named(self._models, name, limits)
        record = self._models.record(model.id)
        headers = await self._headers(model)
        defaults = model.request_rules(name).request_defaults
        system = defaults.get("system")
        system = system if isinstance(system, str) else ""
        parameters = facts.parameters_of(defaults)
        info: dict[str, Any] = {}
        template = None
        if headers.model is not None:
            info = facts.header_values(headers.model, verbose=verbose)
            template = headers.model.values.get("tokenizer.chat_template")
        if record.parameters:
            info["general.parameter_count"] = record.parameters
        if record.context_length:
            # Clients fill as much as this says, so it is the context in force.
            parameters.insert(0, ("num_ctx", record.context_length))
            if record.architecture:
                info[f"{record.architecture}.context_length"] = record.context_length
        if basename is not None:
            info["general.basename"] = basename
        shown: dict[str, Any] = {
            "modelfile": facts.model_file(model.id, system, parameters),
            "parameters": facts.parameters_text(parameters),
            "template": template if isinstance(template, str) else "",
            "system": system,
            "details": facts.details_of(record),
            "model_info": info,
            "capabilities": facts.capabilities_of(record),
            "modified_at": facts.time_of(model.modified or 0),
        }
        if headers.projector is not None:
            shown["projector_info"] = facts.header_values(headers.projector, verbose=verbose)
        return {key: value for key, value in shown.items() if value or key in _ALWAYS}

    async def _headers(self, model: LocalModel) -> _Headers:
        now = (model.modified, model.size_bytes)
        kept = self._kept.get(model.id)
        if kept is None or kept.of != now:
            read = await self._models.headers(model)
            kept = _Headers(now, *read)
            if read[0] is not None:
                self._kept[model.id] = kept
        if model.id in self._kept:
            self._kept.move_to_end(model.id)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return kept


_ALWAYS = frozenset({"details", "model_info", "capabilities", "modified_at"})
"""The fields that Ollama sends even if they are empty."""

"""The lists of models, in the shape of llama-server's router. Nothing here loads a model.

The router's fields are those of ``get_router_models`` in ``tools/server/server-models.cpp`` of
llama.cpp, build 11669; ``tests/real/test_router.py`` compares them with a real router.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.http.allowed_models import allows, check_allowed
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.ids import AUTO
from cyber_inference_tui.peers.peers import Peers, Remote
from cyber_inference_tui.records import KeyLimits, ModelRecord, ModelStatus
from cyber_inference_tui.records.keys import NO_LIMITS

if TYPE_CHECKING:
    from cyber_inference_tui.service.models import Models

# A request for a queued or leaving model is answered like that for a loading or loaded one.
_VALUES: Final = {
    ModelStatus.UNLOADED: "unloaded",
    ModelStatus.QUEUED: "loading",
    ModelStatus.LOADING: "loading",
    ModelStatus.LOADED: "loaded",
    ModelStatus.UNLOADING: "loaded",
    ModelStatus.FAILED: "unloaded",
}
RUNNING: Final = frozenset({ModelStatus.QUEUED, ModelStatus.LOADING, ModelStatus.LOADED})
"""The states of a model that is loaded, or whose load has begun."""
_SOURCES: Final = {"hub cache": "cache", "settings": "preset", "demo": "preset"}
# ``enum llama_vocab_type`` in ``include/llama.h``, by ``tokenizer.ggml.model``.
_VOCABULARIES: Final = {"llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5, "plamo2": 6}


def model_list(
    models: Models, limits: KeyLimits = NO_LIMITS, peers: Peers | None = None
) -> dict[str, Any]:
    """Return the models that a key may use, ordered by id: the local ones, then those that only
    other boxes have.

    ``auto`` comes first if a default model is set.
    """
    records = models.records()
    entries = []
    for record in records:
        if allows(limits, record):
            entry = entry_of(models, record, peers)
            entries += [entry, *_presets(models, record, entry)]
    if peers:
        entries += [
            remote_entry(remote)
            for remote in peers.listed(records)
            if allows(limits, remote.record)
        ]
    if (auto := models.auto_record()) is not None and allows(limits, auto):
        aliases = models.catalog.auto_aliases
        entries.insert(0, {**entry_of(models, auto), "id": AUTO, "aliases": aliases})
    return {"object": "list", "data": entries}


def _presets(
    models: Models, record: ModelRecord, entry: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Return an entry for each preset that the model's own server answers."""
    model = models.local(record.id)
    for name, preset in model.presets.items() if model is not None else ():
        if name == f"{record.id}:{preset}":
            yield {**entry, "id": name, "aliases": [], "preset_of": record.id}


def listed_model(
    models: Models, name: str, limits: KeyLimits = NO_LIMITS, peers: Peers | None = None
) -> dict[str, Any]:
    """Return the model with this id or alias, or that ``auto`` means.

    Raises ``ModelNotFoundError``, and ``ModelNotAllowedError`` if the key may not use it.
    """
    try:
        return entry_of(models, allowed_record(models, name, limits), peers)
    except ModelNotFoundError:
        remote = peers.find(name) if peers else None
        if remote is None:
            raise
        check_allowed(limits, remote.record)
        return remote_entry(remote)


def remote_entry(remote: Remote) -> dict[str, Any]:
    """Return the entry of a model that other boxes have."""
    return {**_entry(remote.record, None), "boxes": remote.boxes}


def allowed_record(models: Models, name: str, limits: KeyLimits) -> ModelRecord:
    """Return the record of the model with this name; the errors are those of ``listed_model``."""
    record = models.record(models.resolve(name).id)
    check_allowed(limits, record)
    return record


def status_value(record: ModelRecord) -> str:
    """Return the router's word for the state of a model."""
    return _VALUES[record.status]


def exit_code(record: ModelRecord) -> int:
    """Return the exit code of a failed model's server; 1 if no server ran."""
    return 1 if record.exit_code is None else record.exit_code


def entry_of(models: Models, record: ModelRecord, peers: Peers | None = None) -> dict[str, Any]:
    """Return the entry of a model: the router's fields, then the service's own."""
    entry = _entry(record, models.local(record.id))
    boxes = peers.others_with(record) if peers else []
    return {**entry, "boxes": boxes} if boxes else entry


def _entry(record: ModelRecord, model: LocalModel | None) -> dict[str, Any]:
    preset = {"preset_of": record.preset_of} if record.preset_of else {}
    status: dict[str, Any] = {
        "value": status_value(record),
        # The router shows its command line and preset. They would show the paths of this machine.
        "args": [],
        "preset": "",
    }
    if record.status is ModelStatus.FAILED:
        status |= {"failed": True, "exit_code": exit_code(record)}
    senses = {"vision": "image", "audio": "audio"}
    return {
        "id": record.id,
        "aliases": record.aliases,
        "tags": [],
        "object": "model",
        "owned_by": "local" if model is not None and model.settings.command else "llamacpp",
        "created": (model.modified or 0) // 1_000_000_000 if model is not None else 0,
        "status": status,
        "architecture": {
            "input_modalities": [
                "text",
                *(name for can, name in senses.items() if can in record.capabilities),
            ],
            "output_modalities": ["text"],
        },
        "source": _SOURCES.get(record.origin, "models_dir"),
        # Files are removed by the owner's API only.
        "can_remove": False,
        "context_length": record.context_length,
        "meta": _meta(record, model),
        "state": record.status,
        "capabilities": record.capabilities,
        "quantization": record.quantization,
        "pinned": record.pinned,
        "in_flight": record.in_flight,
        "queued": record.queued,
        **preset,
    }


def _meta(record: ModelRecord, model: LocalModel | None) -> dict[str, Any] | None:
    """Return the facts of the header with the context in force, before a load as after it.

    Typed clients accept all of them or none: ``None`` if one is missing.
    """
    facts = model.metadata if model is not None else None
    if facts is None:
        return None
    meta = {
        "vocab_type": _VOCABULARIES.get(facts.tokenizer or "", 0),
        "n_vocab": facts.vocabulary,
        "n_ctx": record.context_length,
        "n_ctx_train": facts.context_length,
        "n_embd": facts.embedding_length,
        "n_params": facts.parameters,
        "size": facts.tensor_bytes,
        "ftype": record.quantization,
    }
    return None if None in meta.values() else meta

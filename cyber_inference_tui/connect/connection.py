"""The facts that a client needs: address, key and models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cyber_inference_tui.errors import InvalidRequestError, ModelNotFoundError
from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import escaped

PROVIDER = "cyber-inference"
"""The name of this service in the settings of clients."""
PATIENCE = 1800
"""Seconds that a client should wait for an answer: for a load, and a long prompt on a small
machine."""
AUTO = "auto"
"""The id of the model in use: the service chooses it for each request."""
_UNKNOWN_CONTEXT = 8192
_MOST_OUTPUT = 16384
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 8


@dataclass(frozen=True)
class Model:
    """A model as clients have to know it."""

    id: str
    context: int
    """Tokens that a request may use, its answer included."""
    images: bool = False
    tools: bool = True
    thinking: bool = False

    @property
    def output(self) -> int:
        """Tokens of the context that clients should leave for the answer."""
        return min(self.context // 4, _MOST_OUTPUT)


@dataclass(frozen=True)
class Connection:
    """The service and the models that a client should use."""

    url: str
    """The address without a path."""
    key: str
    """An API key; empty if the service wants none."""
    model: Model
    fast: Model
    """The model for small background tasks, in clients that have two."""
    models: tuple[Model, ...]
    """``model`` and every other chat model."""
    certificate: str = ""
    """The certificate (PEM) of a service with TLS, if it is known here."""

    @property
    def openai_url(self) -> str:
        """The address for clients of OpenAI's API."""
        return f"{self.url}/v1"

    @property
    def any_key(self) -> str:
        """The key, or a text in its place for clients that want one."""
        return self.key or "none"


def connection(
    records: Sequence[ModelRecord],
    *,
    url: str,
    key: str = "",
    certificate: str = "",
    wanted: str = "",
    default_model: str = "",
    auto_aliases: Iterable[str] = (),
) -> Connection:
    """Return the connection to the model with the id or alias ``wanted``.

    Without one it is the loaded model that was used last, else a pinned one, else
    ``default_model``, else the only one. ``auto``, which has ``auto_aliases``, gets that model's
    facts. The fast model is the smallest of those that stay loaded beside it, or the same. Raises
    ``ModelNotFoundError``, and ``InvalidRequestError`` if any of several could be meant.
    """
    chats = [record for record in records if not record.embedding and not record.unreadable]
    auto = _meant(wanted, (AUTO, *auto_aliases))
    chosen = _named(chats, wanted) if wanted and not auto else _usual(chats, default_model)
    model = _model(chosen, auto or _meant(wanted, _names(chosen)) or chosen.id)
    rest = [record for record in chats if auto or record is not chosen]
    return Connection(
        url=url,
        key=key,
        model=model,
        fast=_fast(chosen, rest, model),
        models=(model, *(_model(record, record.id) for record in rest)),
        certificate=certificate,
    )


def _model(record: ModelRecord, name: str) -> Model:
    can = record.capabilities
    return Model(
        id=name,
        context=record.context_length or _UNKNOWN_CONTEXT,
        images=record.vision,
        # Nothing is known about a command.
        tools="tools" in can or not can,
        thinking="thinking" in can,
    )


def _names(record: ModelRecord) -> tuple[str, ...]:
    return (record.id, *record.aliases)


def _meant(wanted: str, names: Iterable[str]) -> str | None:
    """Return the one of the names that is meant, as the service writes it."""
    alike = [name for name in names if name.casefold() == wanted.casefold()]
    return wanted if wanted in alike else next(iter(alike), None)


def _named(records: Iterable[ModelRecord], wanted: str) -> ModelRecord:
    known = [(name, record) for record in records for name in _names(record)]
    exact = [record for name, record in known if name == wanted]
    alike = [record for name, record in known if name.casefold() == wanted.casefold()]
    found = exact or alike
    if len({record.id for record in found}) == 1:
        return found[0]
    if found:
        raise ModelNotFoundError(
            f'"{escaped(wanted)}" may be any of '
            f"{', '.join(sorted({record.id for record in found}))}.",
            hint="Write its upper and lower case exactly.",
            name=wanted,
        )
    close = close_names(wanted, [name for name, _ in known])
    raise ModelNotFoundError(
        f'There is no chat model "{escaped(wanted)}".',
        hint=f"Did you mean {' or '.join(close)}?" if close else "list-models shows them.",
        name=wanted,
    )


def _usual(records: Sequence[ModelRecord], default_model: str) -> ModelRecord:
    loaded = [record for record in records if record.status is ModelStatus.LOADED]
    pinned = [record for record in records if record.pinned]
    if loaded:
        return max(loaded, key=lambda record: record.last_used_at or _NEVER)
    if pinned:
        return pinned[0]
    if default_model:
        return _named(records, default_model)
    if len(records) == 1:
        return records[0]
    if not records:
        raise ModelNotFoundError(
            "There is no chat model yet.",
            hint="Get one with 'cyber-inference-tui download-model', or try --demo.",
        )
    names = [record.id for record in records]
    shown = ", ".join([*names[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])])
    raise InvalidRequestError(
        "No model is loaded, and any could be meant.", hint=f"Give --model with one of: {shown}."
    )


def _fast(chosen: ModelRecord, rest: Iterable[ModelRecord], model: Model) -> Model:
    """Return the smallest of the models that stay loaded beside ``chosen``, or ``model``.

    Any other would be loaded and unloaded in turn with ``chosen``.
    """
    size = chosen.size_bytes or 0
    beside = [record for record in rest if record.pinned and 0 < (record.size_bytes or 0) < size]
    if not beside:
        return model
    smallest = min(beside, key=lambda record: record.size_bytes or 0)
    return _model(smallest, smallest.id)

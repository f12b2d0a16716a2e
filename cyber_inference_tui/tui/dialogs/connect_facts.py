"""The texts of the connect dialog: address, key and model, the names of models, the clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from textual.content import Content

from cyber_inference_tui.client.service_client import ServiceClient, model_key
from cyber_inference_tui.connect.connection import AUTO, Connection, Model, connection
from cyber_inference_tui.connect.ready_lines import Kind
from cyber_inference_tui.errors import CyberError, InvalidApiKeyError
from cyber_inference_tui.records import (
    ClientRecord,
    ConfigValueRecord,
    ModelRecord,
    StatusRecord,
    endpoints,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.clients import client_name
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import cells, cut, plain
from cyber_inference_tui.tui.pages.chat.model_choice import chat_models
from cyber_inference_tui.tui.pages.models.table import state_cell
from cyber_inference_tui.units import age_text, context_text, number_text

PLACEHOLDER = "KEY"
"""Replaces a key that the app does not have."""
_MASK = 12
"""Characters of a hidden key."""
_LABEL = 10
_WIDE_LABEL = 12
_WIDE = 80
_GAP = 3
"""Cells between a value and its keys."""


class KeyState(Enum):
    """The service's judgement of the app's API key."""

    UNKNOWN = auto()
    ACCEPTED = auto()
    """It takes the key, or needs none and the app has none."""
    REFUSED = auto()
    """It wants one of its keys, and the app has none of them."""


async def key_state(client: ServiceClient) -> KeyState:
    """Ask the service whether it takes the app's key. Raises ``CyberError``."""
    try:
        await client.call(endpoints.PROPS)
    except InvalidApiKeyError:
        return KeyState.REFUSED
    # Without a key the app may use its token, which clients do not have.
    if client.api_key or not await client.call(endpoints.KEYS):
        return KeyState.ACCEPTED
    return KeyState.REFUSED


@dataclass(frozen=True, slots=True)
class Fact:
    """A line: a value, a remark if there is room for it, and keys with what they do."""

    label: str
    value: str
    remark: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    style: str = ""
    counted: int = 0
    """Cells that count for the place of all keys, if not the value's: nothing moves with it."""
    whole: bool = True
    """The value is more important than the keys."""


@dataclass(frozen=True, slots=True)
class AutoSettings:
    """The settings of the id ``auto``."""

    default_model: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name for requests: an id, an alias, or a name that means the model in use."""

    name: str
    record: ModelRecord
    auto: bool = False

    @property
    def kind(self) -> Kind:
        """The use of the model."""
        if "rerank" in self.record.capabilities:
            return "rerank"
        return "embeddings" if self.record.embedding else "chat"

    @property
    def others(self) -> list[str]:
        """The model's other names."""
        return [name for name in (self.record.id, *self.record.aliases) if name != self.name]


def auto_settings(settings: Iterable[ConfigValueRecord]) -> AutoSettings:
    """Return the settings of ``auto`` among those of the service."""
    values = {one.key: one.value for one in settings}
    aliases = values.get(model_key(AUTO, "aliases"), ())
    return AutoSettings(values.get("default_model", ""), tuple(aliases))


def model_names(
    records: Sequence[ModelRecord], auto: AutoSettings = AutoSettings()
) -> list[ModelName]:
    """Return all names, those of the models that answer first at the top, then ``auto``'s."""
    others = [record for record in records if record.embedding]
    usable = [record for record in (*chat_models(records), *others) if not record.unreadable]
    named = [ModelName(name, record) for record in usable for name in (record.id, *record.aliases)]
    try:
        current = connection(records, url="", default_model=auto.default_model).model.id
    except CyberError:
        return named  # nothing says yet which it would be
    meant = [record for record in usable if record.id == current]
    names = (AUTO, *auto.aliases)
    return [*named, *(ModelName(name, one, auto=True) for one in meant for name in names)]


def connection_to(
    model: ModelName,
    records: Sequence[ModelRecord],
    *,
    url: str,
    key: str,
    auto: AutoSettings = AutoSettings(),
) -> Connection:
    """Return what a client needs to use a model, also one that does not chat."""
    if model.kind == "chat":
        return connection(
            records,
            url=url,
            key=key,
            wanted=model.name,
            default_model=auto.default_model,
            auto_aliases=auto.aliases,
        )
    facts = Model(model.name, model.record.context_length or 0)
    return Connection(url=url, key=key, model=facts, fast=facts, models=(facts,))


def mask(charset: Charset) -> str:
    """Return what is shown in place of a key."""
    return ("•" if charset.unicode else "*") * _MASK


# The facts


def address_facts(url: str, status: StatusRecord | None) -> list[Fact]:
    """Return the addresses, with the other open ports of ``status``.

    Ollama's clients have the same address as Anthropic's.
    """
    ports = [str(one.port) for one in status.extra_ports if not one.problem] if status else []
    also = f"Ollama, too; also on port {' and '.join(ports)}" if ports else "Ollama, too"
    return [
        Fact("OpenAI", f"{url}/v1", keys=(("a", "copies"),)),
        Fact("Anthropic", url, also, (("b", "copies"),)),
    ]


def key_fact(key: str, state: KeyState, charset: Charset, *, shown: bool) -> Fact:
    """Return the key, or why there is none."""
    if state is KeyState.REFUSED:
        problem = "refused: not one of its keys" if key else "needed: one of its keys"
        return Fact("Key", problem, style="$text-warning")
    if key:
        keys = (("y", "copies"), ("v", "hides" if shown else "shows"))
        value = key if shown else mask(charset)
        return Fact("Key", value, keys=keys, counted=_MASK)
    if state is KeyState.UNKNOWN:
        return Fact("Key", charset.missing)
    return Fact("Key", "none needed", "any text will do", style="$text-muted")


def model_fact(model: ModelName | None, charset: Charset) -> Fact:
    """Return the name for requests, and the model's other names."""
    if model is None:
        return Fact("Model", "none yet", "3 finds and downloads one", style="$text-muted")
    also = " and ".join(model.others)
    remarks = [f"now {model.record.id}" if model.auto else f"also {also}" if also else ""]
    if model.record.context_length:
        remarks.append(f"{context_text(model.record.context_length)} context")
    remark = f" {charset.dot} ".join(filter(None, remarks))
    keys = (("i", "copies"), ("m", "changes"))
    return Fact("Model", model.name, remark, keys, whole=False)


def facts_content(facts: Sequence[Fact], width: int, charset: Charset) -> Content:
    """Return the facts, a line each of ``width`` cells, with their keys below each other.

    Remarks are left out first, then the common place of the keys, then a line's keys.
    """
    label = _WIDE_LABEL if width >= _WIDE else _LABEL
    room = width - label
    keys_width = max(cells(_keys_text(fact)) for fact in facts)
    start = max(_cells_of(fact, remark=True) for fact in facts) + _GAP
    if start + keys_width > room:
        start = max(_cells_of(fact) for fact in facts) + _GAP
    parts: list[tuple[str, str]] = []
    for fact in facts:
        edge = room - cells(_keys_text(fact))
        keys_at = start if start + keys_width <= room else edge
        value = plain(fact.value)
        named = cells(value) <= room or not fact.whole  # else its label gives way
        most = (room if named else width) if fact.whole else keys_at - _GAP
        value = cut(value, most, charset.ellipsis)
        remark = f"  {plain(fact.remark)}" if fact.remark else ""
        if cells(value + remark) + _GAP > keys_at:
            remark = ""
        used = cells(value + remark)
        space = max(keys_at, min(used + 2, edge)) - used
        parts += [
            (fact.label.ljust(label) if named else "", "$text-muted"),
            (value, fact.style),
            (remark, "$text-muted"),
        ]
        for key, does in fact.keys if space > 1 else ():
            parts += [(" " * space, ""), (key, "bold $accent"), (f" {does}", "$text-muted")]
            space = 2
        parts.append(("\n", ""))
    return Content.assemble(*parts[:-1])


def _keys_text(fact: Fact) -> str:
    return "  ".join(f"{key} {does}" for key, does in fact.keys)


def _cells_of(fact: Fact, *, remark: bool = False) -> int:
    value = fact.counted or cells(plain(fact.value))
    return value + (cells(plain(fact.remark)) + 2 if remark and fact.remark else 0)


# The tables


def _name_cell(one: ModelName, context: RenderContext) -> Cell | str:
    return plain(one.name)


def _state_cell(one: ModelName, context: RenderContext) -> Cell | str:
    if one.name == one.record.id and not one.auto:
        return state_cell(one.record, context.charset)
    relation = "now" if one.auto else "alias of"
    return Cell(f"{relation} {plain(one.record.id)}", "dim")


NAME_COLUMNS: tuple[Column[ModelName, RenderContext], ...] = (
    Column("name", "NAME", least=20, cell=_name_cell),
    Column("state", "STATE", 36, cell=_state_cell),
)


def _client_cell(record: ClientRecord, context: RenderContext) -> str:
    return plain(client_name(record)) or context.charset.missing


def _age_cell(record: ClientRecord, context: RenderContext) -> str:
    return age_text(max(0.0, (context.now - record.last_used_at).total_seconds()))


CLIENT_COLUMNS: tuple[Column[ClientRecord, RenderContext], ...] = (
    Column("client", "RECENT CLIENTS", 31, cell=_client_cell),
    Column("address", "ADDRESS", 15, lambda one: one.client, priority=2),
    Column("port", "PORT", 5, lambda one: one.port, right=True, priority=3),
    Column(
        "requests",
        "REQUESTS",
        8,
        lambda one: one.requests,
        right=True,
        priority=1,
        text=number_text,
    ),
    Column("last", "LAST CALL", 9, right=True, cell=_age_cell),
)


def client_key(record: ClientRecord) -> str:
    """Return the key of a client's row."""
    return f"{record.user_agent} {record.key_name} {record.client} {record.port}"

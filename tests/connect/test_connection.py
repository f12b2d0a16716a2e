"""A client gets the right model, with its facts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cyber_inference_tui.connect.connection import Connection, Model, connection
from cyber_inference_tui.errors import InvalidRequestError, ModelNotFoundError
from cyber_inference_tui.records import ModelRecord, ModelStatus


def record(name: str, **more: object) -> ModelRecord:
    return ModelRecord(id=name, context_length=32768, size_bytes=100, **more)  # type: ignore[arg-type]


def chosen(*records: ModelRecord, **more: Any) -> Connection:
    return connection(records, url="http://127.0.0.1:8337", **more)


def test_a_name_is_an_id_or_alias_in_any_case_as_the_service_writes_it() -> None:
    records = (record("Big", aliases=("Coder",)), record("small"))
    assert chosen(*records, wanted="coder").model.id == "Coder"
    assert chosen(*records, wanted="BIG").model.id == "Big"
    assert [model.id for model in chosen(*records, wanted="small").models] == ["small", "Big"]


def test_a_wrong_name_is_never_guessed() -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean qwen3-4b"):
        chosen(record("qwen3-4b"), wanted="qwen3")
    with pytest.raises(ModelNotFoundError, match="may be any of AB, ab"):
        chosen(record("ab"), record("AB"), wanted="Ab")
    assert chosen(record("ab"), record("AB"), wanted="AB").model.id == "AB"


def test_without_a_name_it_is_what_auto_means() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    old = record("old", status=ModelStatus.LOADED, last_used_at=at)
    new = record("new", status=ModelStatus.LOADED, last_used_at=at.replace(year=2027))
    pinned = record("pinned", pinned=True)
    assert chosen(pinned, new, old).model.id == "new"
    assert chosen(pinned, new, old, default_model="old").model.id == "new"
    assert chosen(record("a"), pinned, default_model="a").model.id == "pinned"
    assert chosen(record("a"), record("B", aliases=("c",)), default_model="C").model.id == "B"
    with pytest.raises(ModelNotFoundError, match="gone"):
        chosen(record("a"), default_model="gone")
    assert chosen(record("a"), record("e", embedding=True)).model.id == "a"
    with pytest.raises(InvalidRequestError, match="--model with one of: a, b"):
        chosen(record("a"), record("b"))
    with pytest.raises(ModelNotFoundError, match="no chat model"):
        chosen(record("e", embedding=True), record("broken", unreadable=True))


def test_auto_has_the_facts_of_the_model_in_use() -> None:
    used = record("used", status=ModelStatus.LOADED, vision=True)
    found = chosen(record("other"), used, wanted="Auto")
    assert (found.model.id, found.model.images) == ("auto", True)
    assert [model.id for model in found.models] == ["auto", "other", "used"]
    found = chosen(record("other"), used, wanted="best", auto_aliases=("Best",))
    assert (found.model.id, found.model.images) == ("Best", True)


def test_the_fast_model_stays_loaded_beside_the_other() -> None:
    big = ModelRecord(id="big", size_bytes=900, pinned=True)
    small = ModelRecord(id="small", size_bytes=300, pinned=True)
    seldom = ModelRecord(id="seldom", size_bytes=100)
    assert chosen(big, small, seldom, wanted="big").fast.id == "small"
    assert chosen(big, small, seldom, wanted="small").fast.id == "small"
    assert chosen(big, seldom, wanted="big").fast.id == "big"


def test_a_quarter_of_the_context_is_for_the_answer() -> None:
    assert Model("m", 8192).output == 2048
    assert Model("m", 262144).output == 16384
    facts = chosen(record("m", vision=True)).model
    assert (facts.context, facts.images) == (32768, True)


def test_tools_and_thinking_are_those_of_the_template() -> None:
    def facts(*can: str) -> tuple[bool, bool]:
        model = chosen(record("m", capabilities=can)).model
        return model.tools, model.thinking

    assert facts("completion", "chat") == (False, False)
    assert facts("completion", "chat", "tools", "thinking") == (True, True)
    # A command may have anything.
    assert facts() == (True, False)

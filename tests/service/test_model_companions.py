"""The records of a model's draft and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import Adapter, Draft, DraftKind
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records import AdapterRecord, FileRecord
from cyber_inference_tui.service.model_companions import (
    adapter_records,
    draft_record,
    scaled_adapters,
)
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from tests.llama.test_lora import server

KNOWN = frozenset({"--spec-type", "--spec-type draft-simple", "--model-draft"})
LISTS = frozenset({"--lora-scaled FNAME:SCALE"})


def model(**own: Any) -> LocalModel:
    return LocalModel(
        id="m",
        path=Path("/m.gguf"),
        draft=Draft(
            kind=DraftKind.MODEL,
            name="small",
            files=(Path("/s.gguf"),),
            size_bytes=9,
            metadata=ModelMetadata(),
        ),
        adapters=(Adapter(name="a\x1b[1m", path=Path("/a.gguf"), size_bytes=7, scale=0.5),),
        settings=ModelSettings(**own),
    )


@pytest.mark.parametrize(
    ("own", "flags", "reason"),
    [
        ({"draft": "auto"}, KNOWN, None),
        ({}, KNOWN, 'found, and off: draft = "auto" in its table uses it'),
        ({"draft": "auto", "args": ("-md", "/x")}, KNOWN, "its arguments choose another draft"),
        ({"draft": "auto"}, frozenset(), "this build of llama-server has no draft-simple"),
    ],
)
def test_why_a_draft_is_not_used(
    own: dict[str, Any], flags: frozenset[str], reason: str | None
) -> None:
    one = model(**own)
    record = draft_record(one, resolve(one, Settings()), flags)
    assert record is not None
    assert (record.kind, record.name) == ("draft-simple", "small")
    assert record.files == (FileRecord(path="/s.gguf", size_bytes=9),)
    assert record.unused_because == reason


def test_a_model_without_a_draft_has_no_record() -> None:
    one = LocalModel(id="m")
    assert draft_record(one, resolve(one, Settings()), KNOWN) is None


async def test_adapters_of_the_next_start() -> None:
    one = model()
    assert await adapter_records(one, resolve(one, Settings()), None, LISTS) == (
        AdapterRecord(id=0, name="a", path="/a.gguf", size_bytes=7, scale=0.5, initial_scale=0.5),
    )
    # An older build gets none.
    assert await adapter_records(one, resolve(one, Settings()), None, frozenset()) == ()


async def test_the_strengths_of_a_server_that_is_busy_are_not_known() -> None:
    one = model()
    async with server(b"") as (address, asked):
        (record,) = await adapter_records(one, resolve(one, Settings()), address, LISTS)
    assert (record.scale, record.initial_scale) == (None, 0.5)
    assert len(asked) == 1


async def test_a_server_without_adapters_is_not_asked() -> None:
    one = LocalModel(id="m")
    async with server(b"") as (address, asked):
        assert await adapter_records(one, resolve(one, Settings()), address, LISTS) == ()
    assert not asked


async def test_only_a_loaded_model_has_strengths_to_change() -> None:
    with pytest.raises(ConflictError, match="m is not loaded"):
        await scaled_adapters(model(), None, 0, 1.0)

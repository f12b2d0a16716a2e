"""The records of models, loaded or never loaded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.service.listing import record_with_state, unloaded_record
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from tests.scheduler.virtual import model

DEFAULTS = Settings()
USED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def state_of(one: LocalModel, **fields: Any) -> ModelState:
    state = ModelState(one, resolve(one, Settings()))
    state.status = ModelStatus.LOADED
    state._last_used_at = (state.last_used, USED)
    for name, value in fields.items():
        setattr(state, name, value)
    return state


def record_of(one: LocalModel, settings: Settings) -> ModelRecord:
    return unloaded_record(one, resolve(one, settings))


def with_state(one: LocalModel, state: ModelState, settings: Settings = DEFAULTS) -> ModelRecord:
    record = unloaded_record(one, state.next_spec)
    return record_with_state(record, one, settings, state, wait=None)


@pytest.mark.parametrize(
    ("own", "general", "fields", "seconds"),
    [
        ({}, 300.0, {}, 300),
        ({"idle_timeout": 60.0}, 300.0, {}, 60),
        ({"idle_timeout": 0.0}, 300.0, {}, None),
        ({}, 0.0, {}, None),
        ({"pinned": True}, 300.0, {}, None),
        ({"pinned": True}, 300.0, {"pinned": False}, 300),
        ({}, 300.0, {"pinned": True}, None),
        ({}, 300.0, {"in_flight": 1}, None),
        ({}, 300.0, {"status": ModelStatus.UNLOADED}, None),
        ({}, 300.0, {"status": ModelStatus.LOADING}, None),
    ],
)
def test_the_time_of_the_idle_timeout(
    own: dict[str, Any], general: float, fields: dict[str, Any], seconds: int | None
) -> None:
    one = model("m", **own)
    settings = Settings(model_idle_timeout=general)
    record = with_state(one, state_of(one, **fields), settings)
    expected = None if seconds is None else USED + timedelta(seconds=seconds)
    assert record.unload_at == expected


def test_slots_are_the_configured_ones_or_unknown() -> None:
    assert record_of(model("m"), Settings()).slots is None
    assert record_of(model("m"), Settings(llama_parallel=3)).slots == 3
    assert record_of(model("m", parallel=2), Settings(llama_parallel=3)).slots == 2
    assert record_of(model("m", args=("-np", "8")), Settings()).slots == 8
    assert record_of(model("m", command=("x",)), Settings(llama_parallel=3)).slots is None


def test_the_purpose_of_a_model() -> None:
    plain = model("m")
    record = record_of(plain, Settings())
    assert (record.vision, record.embedding, record.origin) == (False, False, "models_dir")
    eye = msgspec.structs.replace(plain, mmproj=Path("mmproj.gguf"))
    assert record_of(eye, Settings()).vision
    encoder = msgspec.structs.replace(plain, metadata=ModelMetadata(architecture="bert"))
    assert record_of(encoder, Settings()).embedding
    asked = msgspec.structs.replace(plain, settings=ModelSettings(args=("--embedding",)))
    assert record_of(asked, Settings()).embedding


def test_the_record_has_the_context_that_memory_allows() -> None:
    one = msgspec.structs.replace(
        model("m", parallel=2, args=("-c", "8000")), metadata=ModelMetadata(context_length=32768)
    )
    state = state_of(one, status=ModelStatus.QUEUED)
    lengths = []
    for limit in (None, 4000):
        if limit is not None:
            state.plan(state.configured_spec.with_context(limit))
        record = with_state(one, state)
        lengths.append((record.context_length, record.trained_context_length))
    assert lengths == [(4096, 32768), (2048, 32768)]


def test_an_unreadable_file_stays_so_after_a_try_to_load_it() -> None:
    one = msgspec.structs.replace(model("m"), problem="it is cut short")
    record = record_of(one, Settings())
    assert (record.unreadable, record.error) == (True, "it is cut short")
    failed = state_of(one, status=ModelStatus.FAILED, failure=ModelLoadError("m failed."))
    record = with_state(one, failed)
    assert (record.unreadable, record.error) == (True, "it is cut short")
    assert not record_of(model("m"), Settings()).unreadable


def test_an_unreadable_file_has_no_estimate() -> None:
    need = Need(footprint=Footprint(host=5), source=NeedSource.FORMULA)
    one = model("m")
    assert unloaded_record(one, resolve(one, Settings()), need).memory_estimate_bytes == 5
    broken = msgspec.structs.replace(one, problem="it is cut short")
    odd = msgspec.structs.replace(one, path=Path("/m/a\x9b31m\u202eb\udcff.gguf"))
    assert unloaded_record(odd, resolve(odd, Settings()), need).path == "/m/ab\\xff.gguf"
    record = unloaded_record(broken, resolve(broken, Settings()), need)
    assert record.memory_estimate_bytes is None

"""The facts of models in Ollama's notation."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.gguf.reader import read_header
from cyber_inference_tui.http.error_responses import HttpError
from cyber_inference_tui.http.ollama.aliases import changes_of, without_latest
from cyber_inference_tui.http.ollama.facts import (
    capabilities_of,
    count_text,
    details_of,
    digest_of,
    header_values,
    model_file,
    parameters_of,
    parameters_text,
    time_of,
    time_text,
)
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import ModelRecord
from tests.gguf.headers import write_gguf


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_795_902_544_279_547_366, "2026-11-28T21:49:04.279547366Z"),
        (-1, "1970-01-01T00:00:00.000000000Z"),
        (10**30, "9999-12-31T23:59:59."),
    ],
)
def test_times_have_nine_digits(nanoseconds: int, text: str) -> None:
    assert time_of(nanoseconds).startswith(text)


@given(st.integers(-(2**70), 2**70))
def test_every_time_can_be_read(nanoseconds: int) -> None:
    text = time_of(nanoseconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    assert datetime.fromisoformat(text[:26] + "Z").tzinfo is UTC


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_a_date_stays_the_same(moment: datetime) -> None:
    assert datetime.fromisoformat(time_text(moment)[:26] + "Z") == moment


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (1_000, "1K"),
        (22_700, "23K"),
        (2_710_000, "2.71M"),
        (2_712_345, "2.71M"),
        (137_000_000, "137M"),
        (7_241_732_096, "7.2B"),
        (8_000_000_000, "8B"),
        (671_026_419_200, "671.0B"),
    ],
)
def test_numbers_of_parameters(count: int, text: str) -> None:
    assert count_text(count) == text


def test_a_digest_changes_with_the_file() -> None:
    one = LocalModel(id="m", size_bytes=5, modified=7)
    assert re.fullmatch("[0-9a-f]{64}", digest_of(one))
    assert digest_of(one) == digest_of(LocalModel(id="m", size_bytes=5, modified=7))
    others = [
        LocalModel(id="n", size_bytes=5, modified=7),
        LocalModel(id="m", size_bytes=6, modified=7),
        LocalModel(id="m", size_bytes=5, modified=8),
    ]
    assert len({digest_of(one), *map(digest_of, others)}) == 4


def test_what_is_unknown_is_an_empty_text() -> None:
    assert details_of(ModelRecord(id="m")) == {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def test_capabilities_have_other_names() -> None:
    record = ModelRecord(id="m", capabilities=("completion", "chat", "tools", "infill"))
    assert capabilities_of(record) == ["completion", "tools", "insert"]
    assert capabilities_of(ModelRecord(id="m", capabilities=("embeddings",))) == ["embedding"]
    assert capabilities_of(ModelRecord(id="m", capabilities=("rerank",))) == []


def test_the_header_is_shown_without_its_name_and_template(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.scores": [0.5] * 6,
        "llama.rope.sections": [1, 2, 3],
    }
    header = read_header(write_gguf(tmp_path / "m.gguf", values))
    shown = header_values(header, verbose=False)
    assert shown["llama.context_length"] == 4096
    assert shown["tokenizer.ggml.tokens"] == shown["tokenizer.ggml.scores"] == []
    assert shown["llama.rope.sections"] == [1, 2, 3]
    assert not {"general.name", "tokenizer.chat_template"} & shown.keys()
    assert header_values(header, verbose=True)["tokenizer.ggml.scores"] == [0.5] * 6


def test_options_are_shown_one_on_a_line() -> None:
    defaults = {"temperature": 0.5, "stop": ["<|end|>", "x"], "max_tokens": 9, "user": "me"}
    parameters = parameters_of(defaults)
    assert parameters == [
        ("num_predict", 9),
        ("stop", "<|end|>"),
        ("stop", "x"),
        ("temperature", 0.5),
    ]
    assert parameters_text(parameters[1:2]) == 'stop                           "<|end|>"'
    assert model_file("m", "be brief", parameters[3:]).splitlines()[1:] == [
        "FROM m",
        'SYSTEM "be brief"',
        "PARAMETER temperature 0.5",
    ]


def test_a_creation_sets_defaults() -> None:
    options = {"num_predict": 5, "num_ctx": 4096, "stop": ["a"], "seed": None, "nonsense": 1}
    assert changes_of("be brief", options) == {
        "system": "be brief",
        "max_tokens": 5,
        "stop": ["a"],
    }
    assert changes_of(None, None) == changes_of("", {}) == {}


@pytest.mark.parametrize("value", [{}, {"a": 1}, [1], [["a"]]])
def test_impossible_values_are_refused(value: Any) -> None:
    with pytest.raises(HttpError, match='option "stop" must be of type array'):
        changes_of(None, {"stop": value})


@pytest.mark.parametrize(
    ("name", "plain"), [("a", "a"), ("a:latest", "a"), ("A:LATEST", "A"), ("a:b", "a:b"), ("", "")]
)
def test_the_usual_tag_is_left_out(name: str, plain: str) -> None:
    assert without_latest(name) == plain

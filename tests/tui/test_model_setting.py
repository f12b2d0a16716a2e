"""A model's settings as text."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from cyber_inference_tui.client.service_client import model_key
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records import ConfigCheckRecord, ModelSettingRecord, SettingEffect
from cyber_inference_tui.settings.edit import split_key
from cyber_inference_tui.settings.schema import MODEL_KEYS
from cyber_inference_tui.tui.pages.models.form_values import (
    Change,
    change_of,
    effect_text,
    setting_text,
    type_hint,
)


def record(key: str, value: Any = None, effective: Any = None) -> ModelSettingRecord:
    source = "default" if value is None else "model"
    return ModelSettingRecord(key=key, value=value, effective=effective, source=source, help="")


@pytest.mark.parametrize(
    "model_id",
    [
        "qwen3-4b",
        "sub/Name.Q4_K_M",
        "a.b.c",
        'say "hi"',
        "back\\slash",
        "it's",
        "ключ模型",
        "tab\tnewline\ndel\x7f",
        "",
    ],
)
def test_the_service_reads_the_key_of_any_id(model_id: str) -> None:
    path = model_key(model_id, "context_size")
    assert split_key(path) == (("models", model_id), MODEL_KEYS["context_size"])
    assert tomllib.loads(f"{path} = 1") == {"models": {model_id: {"context_size": 1}}}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("context_size", " 8192 ", 8192),
        ("context_size", "8,192", 8192),
        ("gpu_layers", "-1", -1),
        ("idle_timeout", "0.5", 0.5),
        ("idle_timeout", "300", 300),
        ("pinned", "Yes", True),
        ("pinned", "off", False),
        ("aliases", "one, two words ,three", ["one", "two words", "three"]),
        ("aliases", '["a, b"]', ["a, b"]),
        ("aliases", '{"fast": {"request_strip": ["x"]}}', {"fast": {"request_strip": ["x"]}}),
        (
            "args",
            "--flash-attn on --name 'two words'",
            ["--flash-attn", "on", "--name", "two words"],
        ),
        ("args", "--override-kv a=1,b=2", ["--override-kv", "a=1,b=2"]),
        ("args", '["--x"]', ["--x"]),
        ("command", "server --port {port}", ["server", "--port", "{port}"]),
        ("env", '{"A": "1"}', {"A": "1"}),
        ("request_defaults", '{"temperature": 0.7}', {"temperature": 0.7}),
        ("mmproj", "~/x y.gguf", "~/x y.gguf"),
    ],
)
def test_what_is_typed_becomes_a_value(key: str, text: str, value: Any) -> None:
    assert change_of(record(key), text) == Change(key, value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("context_size", "many"),
        ("context_size", "8.5"),
        ("context_size", "8,19"),
        ("idle_timeout", "inf"),
        ("idle_timeout", "nan"),
        ("pinned", "1x"),
        ("aliases", '["open'),
        ("args", "--name 'open"),
        ("env", "A=1"),
        ("env", "[1]"),
        ("request_defaults", "{"),
        ("env", "[" * 100_000),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_way_out(key: str, text: str) -> None:
    with pytest.raises(InvalidRequestError):
        change_of(record(key), text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context_size", 8192),
        ("idle_timeout", 300.0),
        ("idle_timeout", 0.25),
        ("pinned", True),
        ("aliases", ["one", "two words"]),
        ("aliases", ["with, comma", "[bracket"]),
        ("aliases", [" blank "]),
        ("args", ["--a", "b c", "it's", '"']),
        ("args", ["[json-like]"]),
        ("args", ["", "x"]),
        ("request_defaults", {"a": [1, {"b": None}], "ü": "é"}),
        ("path", "/models/a b.gguf"),
    ],
)
def test_a_value_is_shown_so_that_it_reads_as_itself(key: str, value: Any) -> None:
    text = setting_text(key, value)
    assert change_of(record(key, value), text) is None
    assert change_of(record(key), text) == Change(key, value)


@pytest.mark.parametrize("value", [None, [], {}, ()])
def test_nothing_is_an_empty_line(value: Any) -> None:
    assert setting_text("args", value) == ""
    assert change_of(record("args", value), "  ") is None


def test_an_emptied_line_takes_the_key_out() -> None:
    assert change_of(record("context_size", 4096), " ") == Change("context_size", unset=True)


def test_another_way_of_writing_the_same_changes_nothing() -> None:
    assert change_of(record("context_size", 8192), "8,192") is None
    assert change_of(record("pinned", True), "yes") is None
    assert change_of(record("context_size", 1), "2") == Change("context_size", 2)


def test_hidden_values_go_back_as_they_are_shown() -> None:
    # The service keeps the masked secret.
    hidden = record("env", {"TOKEN": "********"})
    text = setting_text("env", hidden.value)
    assert change_of(hidden, text) is None
    more = {"TOKEN": "********", "MORE": "1"}
    assert change_of(hidden, text.replace("}", ', "MORE": "1"}')) == Change("env", more)
    assert change_of(hidden, '{"TOKEN": "abc"}') == Change("env", {"TOKEN": "abc"})


def test_a_table_of_aliases_stays_one() -> None:
    table = {"fast": {"request_overrides": {"temperature": 0}}, "plain": {}}
    own = record("aliases", table, effective=["fast", "plain"])
    text = setting_text("aliases", table)
    assert change_of(own, text) is None
    changed = {**table, "plain": {"request_strip": ["user"]}}
    typed = text.replace('"plain": {}', '"plain": {"request_strip": ["user"]}')
    assert change_of(own, typed) == Change("aliases", changed)
    assert change_of(own, "fast, plain") == Change("aliases", ["fast", "plain"])


def test_keys_of_a_newer_service_are_typed_by_what_holds() -> None:
    assert change_of(record("new", effective=3), "4") == Change("new", 4)
    assert change_of(record("new", effective=True), "no") == Change("new", False)
    assert change_of(record("new", effective=["a"]), "b, c") == Change("new", ["b", "c"])
    assert change_of(record("new", effective={"a": 1}), '{"a": 2}') == Change("new", {"a": 2})
    assert change_of(record("new", effective="x"), "y") == Change("new", "y")


def test_every_key_of_the_schema_has_its_own_way_of_typing() -> None:
    for key, known in MODEL_KEYS.items():
        hint = type_hint(record(key))
        kind = "list" if known.is_list else "table" if known.is_table else "plain"
        assert (hint == "text") == (kind == "plain" and known.expected == "a path"), key


@pytest.mark.parametrize(
    ("effect", "models", "text"),
    [
        (SettingEffect.NOTHING, (), "unchanged"),
        (SettingEffect.NOW, (), "applies now"),
        (SettingEffect.RESTARTS_MODELS, ("a",), "reloads a after its requests"),
        (SettingEffect.RESTARTS_MODELS, (), "applies at the next load"),
        (SettingEffect.RESTARTS_SERVICE, (), "applies after a restart of the service"),
        (SettingEffect.OVERRIDDEN, (), "saved, but overridden by the environment or a flag"),
    ],
)
def test_what_saving_would_do(effect: SettingEffect, models: tuple[str, ...], text: str) -> None:
    check = ConfigCheckRecord(key="k", value=1, effect=effect, models=models)
    assert effect_text(check) == text

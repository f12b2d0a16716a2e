"""Rules for requests, and aliases that have some of their own."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.errors import ConfigError, NotFoundError
from cyber_inference_tui.records import to_json
from cyber_inference_tui.settings.edit import set_value, unset_value
from cyber_inference_tui.settings.load import LoadedSettings
from cyber_inference_tui.settings.schema import MODEL_KEYS, ModelSettings, RequestRules
from tests.settings.test_load import mistakes, read

TABLES = """\
[models.q]
request_overrides = { temperature = 0 }
request_strip = ["user"]
[models.q.aliases]
plain = {}
fast = { request_overrides = { temperature = 1, stop = ["x"] } }
[models.q.aliases."very fast"]
request_strip = ["tools"]
request_defaults.top_k = 1
"""


def model_of(loaded: LoadedSettings) -> ModelSettings:
    return loaded.settings.models["q"]


def test_an_alias_says_more_than_its_model() -> None:
    q = model_of(read(TABLES))
    assert tuple(q.aliases) == ("plain", "fast", "very fast")
    own = RequestRules(request_overrides={"temperature": 0}, request_strip=("user",))
    assert q.request_rules() == q.request_rules("plain") == q.request_rules("other") == own
    assert q.request_rules("fast").request_overrides == {"temperature": 1, "stop": ["x"]}
    fast = q.request_rules("very fast")
    assert fast.request_strip == ("user", "tools")
    assert fast.request_defaults == {"top_k": 1}
    assert not ModelSettings(aliases=("a",)).request_rules("a")


def test_it_is_shown_as_it_was_written() -> None:
    records = {record.key: record.value for record in read(TABLES).records()}
    assert json.loads(to_json(records['models."q".aliases'])) == {
        "plain": {},
        "fast": {"request_overrides": {"temperature": 1, "stop": ["x"]}},
        "very fast": {"request_strip": ["tools"], "request_defaults": {"top_k": 1}},
    }
    records = {record.key: record.value for record in read('models.q.aliases = ["a"]').records()}
    assert records['models."q".aliases'] == ["a"]


def test_every_mistake_is_named_with_its_line_and_key() -> None:
    text = """\
[models.a]
request_overrides = { model = "x" }
request_strip = ["ok", "model"]
[models.a.aliases]
x = { request_override = {}, request_strip = 3 }
y = 1
"z " = {}
b = {}
[models.a.aliases.deep]
request_defaults = { model = 1 }
request_overrides.when = 2026-01-01
[models.b]
aliases = { x = {} }
"""
    assert mistakes(text) == [
        '2: models."a".request_overrides: expected no field model: the service finds the model by'
        " it, and sends the model's id",
        '3: models."a".request_strip: item 2: expected no field model: the service finds the model'
        " by it, and sends the model's id",
        '5: models."a".aliases."x".request_override: unknown setting; did you mean '
        "request_overrides?",
        '5: models."a".aliases."x".request_strip: expected a list of strings, found 3',
        '6: models."a".aliases."y": expected a table, found 1',
        '7: models."a".aliases."z ": expected a name',
        '10: models."a".aliases."deep".request_defaults: expected no field model: the service finds'
        " the model by it, and sends the model's id",
        '11: models."a".aliases."deep".request_overrides: expected values that JSON knows, found'
        " the date or time 2026-01-01 (put it in quotes)",
        '8: models."a".aliases: "b" names the model "b" already',
        '13: models."b".aliases: "x" names the model "a" already',
    ]


@pytest.mark.parametrize("value", [1, "[1]", {"a": 1}, {"": {}}, {"a": {"request_strip": [1]}}])
def test_unfit_values_are_not_set(tmp_path: Path, value: Any) -> None:
    config = tmp_path / "config.toml"
    with pytest.raises(ConfigError) as caught:
        set_value(config, "models.q.aliases", value)
    assert "models.q.aliases: " in caught.value.message
    assert not config.exists()
    with pytest.raises(NotFoundError):
        set_value(config, "models.q.aliases.fast.request_strip", ["x"])


@pytest.mark.parametrize("before", ["", 'models.q.aliases = ["old"]\n', "# begin\n" + TABLES])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a, b", ["a", "b"]),
        ('["a"]', ["a"]),
        ('{ fast = { request_strip = ["x"] } }', {"fast": {"request_strip": ["x"]}}),
        (
            '{"fast": {"request_overrides": {"t": [1, {}]}}}',
            {"fast": {"request_overrides": {"t": [1, {}]}}},
        ),
        ({"fast": {}}, {"fast": {}}),
        (["a"], ["a"]),
    ],
)
def test_both_forms_are_written(tmp_path: Path, before: str, value: Any, expected: Any) -> None:
    config = tmp_path / "config.toml"
    config.write_text(before)
    set_value(config, "models.q.aliases", value)
    text = config.read_text()
    assert tomllib.loads(text)["models"]["q"]["aliases"] == expected
    assert ("# begin" in text) == ("# begin" in before)
    if "temperature = 0" in before:
        assert "request_overrides = { temperature = 0 }\n" in text
    unset_value(config, "models.q.aliases")
    assert "aliases" not in tomllib.loads(config.read_text()).get("models", {}).get("q", {})


def test_the_rules_of_a_model_and_of_an_alias_are_the_same_keys() -> None:
    for name in RequestRules.__struct_fields__:
        assert name in MODEL_KEYS

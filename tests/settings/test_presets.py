"""Presets: further sets of settings in the table of a model."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.errors import ConfigError, NotFoundError
from cyber_inference_tui.settings.edit import key_in, set_value, split_key, unset_value
from cyber_inference_tui.settings.schema import MODEL_KEYS, ModelSettings, RequestRules
from tests.settings.test_load import mistakes, read

TABLES = """\
[models.q]
context_size = 8192
aliases = ["short"]
pinned = true
preload = true
args = ["--no-mmap"]
env = { A = "1", B = "1" }
request_defaults = { temperature = 0.7, top_p = 0.9 }
request_strip = ["user"]
[models.q.presets.long]
context_size = "auto"
env = { B = "2" }
[models.q.presets.exact]
request_defaults = { temperature = 0 }
request_strip = ["seed"]
context_size = 8192
[models.q.presets.bare]
args = []
"""


def model_of(text: str = TABLES) -> ModelSettings:
    return read(text).settings.models["q"]


def test_a_preset_is_merged_over_the_table_of_its_model() -> None:
    q = model_of()
    long = q.with_preset("long")
    assert long.context_size == "auto"
    assert long.args == ("--no-mmap",)
    assert long.env == {"A": "1", "B": "2"}
    assert long.request_rules() == q.request_rules()
    assert q.with_preset("bare").args == ()
    exact = RequestRules(
        request_defaults={"temperature": 0, "top_p": 0.9}, request_strip=("user", "seed")
    )
    assert q.preset_rules("exact") == q.with_preset("exact").request_rules() == exact


def test_what_makes_a_model_stay_is_not_taken_over() -> None:
    long = model_of().with_preset("long")
    assert (long.pinned, long.preload, long.aliases, long.presets) == (False, False, (), {})
    pinned = model_of("[models.q.presets.long]\npinned = true\n").with_preset("long")
    assert pinned.pinned


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("request_defaults = { temperature = 0 }", False),
        ("request_overrides = { seed = 1 }", False),
        ("request_strip = ['user']", False),
        ("", False),
        ("context_size = 8192", False),
        ("context_size = 4096", True),
        ("idle_timeout = 1", True),
        ("env = { A = '1' }", False),
        ("env = { A = '2' }", True),
    ],
)
def test_only_more_than_requests_needs_a_server(preset: str, changes: bool) -> None:
    q = model_of(f"[models.q]\ncontext_size = 8192\nenv.A = '1'\n[models.q.presets.p]\n{preset}")
    assert q.changes_server("p") is changes


def test_mistakes_have_their_place() -> None:
    text = """\
[models.q.presets]
latest = {}
"a b" = {}
flat = 1
[models.q.presets.long]
context_size = "4k"
path = "x.gguf"
theads = 1
port = 1
env.LLAMA_ARG_PORT = "1"
[models.r]
presets = 1
"""
    found = mistakes(text)
    assert found[0] == (
        '2: models."q".presets.latest: expected a name of letters, digits, ".", "_" and "-", not '
        "latest"
    )
    assert found[1].startswith('3: models."q".presets."a b": expected a name')
    assert found[2:7] == [
        '4: models."q".presets.flat: expected a table, found 1',
        '6: models."q".presets.long.context_size: expected a whole number of at least 0 and at most'
        ' 2147483647, or "auto", found "4k"',
        '7: models."q".presets.long.path: unknown setting; it belongs into the model\'s own table',
        '8: models."q".presets.long.theads: unknown setting; did you mean threads?',
        '9: models."q".presets.long.port: unknown setting; it is a setting of the whole service',
    ]
    assert found[7].startswith('10: models."q".presets.long.env: ')
    assert found[8] == '12: models."r".presets: expected tables like presets.long, found 1'
    assert len(found) == 9


def test_they_are_shown_and_masked() -> None:
    records = {record.key: record for record in read(TABLES).records()}
    assert records['models."q".presets.long.context_size'].value == "auto"
    assert records['models."q".presets.long.context_size'].source == "file"
    assert records['models."q".presets.long.env'].value == {"B": "********"}
    assert 'models."q".presets.long.args' not in records


def test_they_are_edited_key_by_key(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("# mine\n[models.Q]\nthreads = 2\n")
    settings = read(config.read_text()).settings
    key, table, known = key_in(settings, "models.q.presets.long.context_size")
    assert key == 'models."Q".presets.long.context_size'
    assert (table, known) == (("models", "Q", "presets", "long"), MODEL_KEYS["context_size"])
    set_value(config, key, "32768")
    set_value(config, "models.Q.presets.long.env", {"A": "1"})
    wanted: dict[str, Any] = {"context_size": 32768, "env": {"A": "1"}}
    text = config.read_text()
    assert tomllib.loads(text)["models"]["Q"] == {"threads": 2, "presets": {"long": wanted}}
    assert text.startswith("# mine\n[models.Q]\nthreads = 2\n")
    with pytest.raises(ConfigError, match="expected a whole number"):
        set_value(config, key, "-1")
    unset_value(config, key)
    unset_value(config, "models.Q.presets.long.env")
    assert tomllib.loads(config.read_text())["models"]["Q"]["threads"] == 2
    assert read(config.read_text()).settings.models["Q"].threads == 2


@pytest.mark.parametrize(
    "key",
    ["models.q.presets.long", "models.q.presets.long.path", "peers.q.presets.long.threads"],
)
def test_other_keys_are_unknown(key: str) -> None:
    with pytest.raises(NotFoundError, match="There is no setting"):
        split_key(key)

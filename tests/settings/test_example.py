from __future__ import annotations

import re
import tomllib
from itertools import groupby
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.settings.example import render, toml_key, toml_value
from cyber_inference_tui.settings.load import load
from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS, Group
from tests.settings.regenerate import EXAMPLE, PAGE, with_tables

HOW = "the schema changed: run `python -m tests.settings.regenerate`"


def test_the_example_file_is_the_schemas() -> None:
    assert EXAMPLE.read_text("utf-8") == render(), HOW


def test_the_page_has_the_schemas_tables() -> None:
    page = PAGE.read_text("utf-8")
    assert page == with_tables(page), HOW
    for name in (*KEYS, *MODEL_KEYS):
        assert f"\n| `{name}` |" in page


def test_the_example_says_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    environ = {"HOME": str(tmp_path)}
    config.write_text(render(), "utf-8")
    plain = load(config=config, environ=environ, flags={}).settings
    # Every line that was commented out, without the model's table.
    text = re.sub(r"^#(?=[a-z_]+ = )", "", render().split("\n#[models.")[0], flags=re.MULTILINE)
    assert set(tomllib.loads(text)) == set(KEYS)
    config.write_text(text, "utf-8")
    assert load(config=config, environ=environ, flags={}).settings == plain


def test_the_whole_example_is_valid(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z_]+ = |\[)", "", render(), flags=re.MULTILINE)
    (table,) = tomllib.loads(text)["models"].values()
    assert set(table) == {*MODEL_KEYS, "presets"}
    config = tmp_path / "config.toml"
    config.write_text(text, "utf-8")
    assert load(config=config, environ={"HOME": str(tmp_path)}, flags={}).warnings == ()


def test_every_setting_says_what_it_is() -> None:
    for key in (*KEYS.values(), *MODEL_KEYS.values()):
        assert key.help.endswith("."), key.name
        assert key.expected
    groups = [key.group for key in KEYS.values()]
    # Each group stands together, in the order of their list.
    assert list(dict.fromkeys(groups)) == list(Group)
    assert [group for group, _ in groupby(groups)] == list(Group)


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)),
    max_leaves=10,
)


@given(texts, values)
def test_values_and_keys_are_toml(name: str, value: object) -> None:
    line = f"{toml_key(name)} = {toml_value(value)}"
    assert "\n" not in line
    assert tomllib.loads(line) == {name: value}

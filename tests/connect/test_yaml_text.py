"""YAML is changed without touching the rest."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.connect.settings_change import Items, merged
from cyber_inference_tui.connect.yaml_text import read, with_changes

CONTINUE = """\
name: Mine   # my assistant
models:
  # the first
  - name: other
    model: gpt
  - name: ours
    apiBase: http://old   # here
rules:
  - be brief
"""


def test_comments_and_order_stay() -> None:
    changes = {
        "name": "Mine",
        "models": Items(
            "name",
            ({"name": "ours", "apiBase": "http://new"}, {"name": "second", "roles": ["chat"]}),
        ),
        "timeout": 1800,
    }
    assert with_changes(CONTINUE, changes) == (
        """\
name: Mine   # my assistant
models:
  # the first
  - name: second
    roles:
    - chat
  - name: other
    model: gpt
  - name: ours
    apiBase: http://new   # here
rules:
  - be brief
timeout: 1800
"""
    )


def test_a_nested_mapping_gets_new_keys_first() -> None:
    text = "providers:\n  anthropic:\n    enabled: true\n# the end\n"
    changes = {"providers": {"ours": {"model": "m"}}}
    assert with_changes(text, changes) == (
        "providers:\n  ours:\n    model: m\n  anthropic:\n    enabled: true\n# the end\n"
    )


@pytest.mark.parametrize("empty", ["models:\n", "models: []\n", "models: null  # none\n"])
def test_a_key_without_content_is_filled(empty: str) -> None:
    text = with_changes(empty + "a: 1\n", {"models": Items("name", ({"name": "m"},))})
    assert read(text) == {"models": [{"name": "m"}], "a": 1}


@pytest.mark.parametrize("text", ["", "# nothing yet", "# nothing yet\n"])
def test_an_empty_file_becomes_one(text: str) -> None:
    result = with_changes(text, Items("name", ({"name": "m", "n": 1},)))
    assert result.startswith(text)
    assert read(result) == [{"name": "m", "n": 1}]


def test_a_last_line_without_an_end_gets_one() -> None:
    assert with_changes("a: 1", {"b": "x: y"}) == "a: 1\nb: 'x: y'\n"


def test_line_ends_of_windows_stay() -> None:
    assert with_changes("a: 1\r\n", {"b": 2}) == "a: 1\r\nb: 2\r\n"


def test_what_cannot_be_changed_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        with_changes("{a: {b: 1}}", {"a": {"c": 2}})
    with pytest.raises(ValueError, match="line 2"):
        read("a: 1\n b: [")


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab:#-' {", max_size=4)
KEYS = st.text("abc", min_size=1, max_size=2)
TABLES = st.dictionaries(KEYS, SCALARS | st.dictionaries(KEYS, SCALARS, max_size=3), max_size=3)


@given(TABLES, TABLES)
def test_the_result_reads_as_the_merged_data_or_is_refused(
    present: dict[str, Any], changes: dict[str, Any]
) -> None:
    text = yaml.safe_dump(present, sort_keys=False) if present else ""
    try:
        result = with_changes(text, changes)
    except ValueError:
        # A mapping cannot become a value, nor a value a mapping.
        assert any(
            isinstance(value, dict) != isinstance(changes[name], dict)
            for name, value in present.items()
            if name in changes
        )
    else:
        assert read(result) == merged(present, changes)

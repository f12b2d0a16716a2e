"""JSON with comments is changed without touching the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.connect.json_text import read, with_changes
from cyber_inference_tui.connect.settings_change import Items, merged

ZED = """\
// Zed settings
//
{
  "theme": "One Dark", // dark
  /* fonts */
  "buffer_font_size": 15,
  "language_models": {
    "openai_compatible": {}
  }, // the last
}
"""


def test_comments_commas_and_order_stay() -> None:
    changes = {
        "buffer_font_size": 16,
        "language_models": {"openai_compatible": {"here": {"api_url": "http://x"}}},
        "agent": {"tools": ["a", "b"]},
    }
    assert with_changes(ZED, changes) == (
        """\
// Zed settings
//
{
  "theme": "One Dark", // dark
  /* fonts */
  "buffer_font_size": 16,
  "language_models": {
    "openai_compatible": {
      "here": {
        "api_url": "http://x"
      }
    }
  }, // the last
  "agent": {
    "tools": ["a", "b"]
  },
}
"""
    )


def test_a_comment_stays_with_its_value() -> None:
    assert with_changes('{\n\t"a": 1 // one\n}', {"b": 2}) == '{\n\t"a": 1, // one\n\t"b": 2\n}'


def test_a_line_without_breaks_gets_them_where_it_grows() -> None:
    assert with_changes('{"a": {}}', {"b": True}) == '{"a": {},\n  "b": true\n}'


def test_items_of_a_list_are_replaced_by_their_key() -> None:
    text = '[\n    {"name": "other"},\n    {"name": "ours", "url": "old"}\n]\n'
    changes = Items("name", ({"name": "ours", "url": "new"}, {"name": "second"}))
    assert with_changes(text, changes) == (
        '[\n    {"name": "other"},\n    {"name": "ours", "url": "new"},\n'
        '    {\n        "name": "second"\n    }\n]\n'
    )


def test_line_ends_of_windows_and_a_mark_stay() -> None:
    text = with_changes('\ufeff{\r\n  "a": 1\r\n}\r\n', {"b": 2})
    assert text == '\ufeff{\r\n  "a": 1,\r\n  "b": 2\r\n}\r\n'


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_becomes_one(text: str) -> None:
    assert with_changes(text, {"a": {"b": [1]}}) == '{\n  "a": {\n    "b": [1]\n  }\n}\n'


def test_of_two_members_with_one_name_the_last_counts() -> None:
    assert with_changes('{"a": 1, "a": 2}', {"a": 3}) == '{"a": 1, "a": 3}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", 1),
        ('{\n"a" 1}', 2),
        ('{"a": 1\n"b": 2}', 2),
        ("[1, x]", 1),
        ("{} 1", 1),
        ("[" * 200, 1),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"^line {line}: "):
        read(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
TABLES = st.dictionaries(st.text(max_size=2), VALUES, max_size=3)


@given(TABLES, TABLES, st.sampled_from([None, 2, "\t"]))
def test_the_result_reads_as_the_merged_data(
    present: dict[str, Any], changes: dict[str, Any], indent: Any
) -> None:
    text = with_changes(json.dumps(present, indent=indent), changes)
    assert json.loads(text) == read(text) == merged(present, changes)


@given(TABLES, TABLES, st.data())
def test_comments_and_last_commas_anywhere_stay(
    present: dict[str, Any], changes: dict[str, Any], data: st.DataObject
) -> None:
    lines = json.dumps(present, indent=2).splitlines()
    comments = data.draw(
        st.lists(
            st.sampled_from(["", " // c", " /* { */", "\n// d"]),
            min_size=len(lines),
            max_size=len(lines),
        )
    )
    comma = data.draw(st.booleans())
    text = ""
    for at, (line, comment) in enumerate(zip(lines, comments, strict=True)):
        closes = at + 1 < len(lines) and lines[at + 1].strip(" ,") in {"}", "]"}
        ends = comma and closes and line[-1] not in "{[,"
        text += line + ("," if ends else "") + comment + "\n"
    assert read(text) == present
    result = with_changes(text, changes)
    assert read(result) == merged(present, changes)
    if all(not isinstance(value, dict | list) for value in present.values()):
        # Nothing but single values is replaced.
        assert [line for line in result.split("\n") if line.startswith("// d")] == [
            line for line in text.split("\n") if line.startswith("// d")
        ]
        assert result.count(" // c") == text.count(" // c")

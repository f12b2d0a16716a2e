from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.settings.positions import KeyPath, key_lines, key_path

NASTY = """\
# port = 1
host = "a # b = [c" # [not.a.table]

  "quoted key" = 'it''s'.replace
"""

MULTILINE = '''\
first = """
second = 1
[not_a_table]
"quotes" inside, and an escaped \\""" one
"""
third = \'\'\'
[nor_this]
fourth = """
\'\'\'
fifth = [ # ]
  "a]", # a comment with "quotes
  """
  two lines
  """,
  [1, [2,
    3]],
]
sixth = {a = 1, "b.c" = {d = "}"}, e.f = [1,
  2]}
[table] # a comment
x = 2020-01-01T00:00:00Z
[models."a] # b"]
path = "p" # the path
[models.'lit"eral'.env]
A = ""
[models . spaced . env]
B = """"four"""" # quotes at the end
last.one.of = 1
[[list]]
in_it = 1
'''


def test_strings_comments_and_brackets_do_not_mislead() -> None:
    assert tomllib.loads(MULTILINE)
    lines = key_lines(MULTILINE)
    text = MULTILINE.split("\n")
    expected: dict[KeyPath, str] = {
        ("first",): "first =",
        ("third",): "third =",
        ("fifth",): "fifth =",
        ("fifth", 0): '"a]"',
        ("fifth", 1): '"""',
        ("fifth", 2, 0): "[1,",
        ("fifth", 2, 1, 1): "3]]",
        ("sixth", "b.c", "d"): "sixth =",
        ("sixth", "e", "f", 1): "2]}",
        ("table",): "[table]",
        ("table", "x"): "x =",
        ("models", "a] # b", "path"): "path =",
        ("models",): '[models."a]',
        ("models", 'lit"eral'): "[models.'lit",
        ("models", 'lit"eral', "env", "A"): 'A = ""',
        ("models", "spaced", "env"): "[models . spaced",
        ("models", "spaced", "env", "last", "one", "of"): "last.one.of",
        ("list", "in_it"): "in_it",
    }
    for path, start in expected.items():
        assert text[lines[path] - 1].lstrip().startswith(start), path
    assert ("second",) not in lines
    assert ("not_a_table",) not in lines
    assert ("nor_this",) not in lines


def test_line_ends_of_windows_count_once() -> None:
    lines = key_lines('a = 1\r\n\r\n# c\r\n[t] \r\nb = """\r\n\r\n"""\r\nc = [\r\n1,\r\n]\r\n')
    assert lines == {("a",): 1, ("t",): 4, ("t", "b"): 5, ("t", "c"): 8, ("t", "c", 0): 9}


@pytest.mark.parametrize(
    "text",
    ["a", "[", "[a", "a = [", 'a = "', "a = {b", "= 1", NASTY, "[" * 9000, "a=" + "[" * 9000],
)
def test_a_broken_text_gives_what_was_found_before(text: str) -> None:
    lines = key_lines(f"good = 1\n{text}")
    assert lines["good",] == 1


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("host", ("host",)),
        ('models."a/b.c".path', ("models", "a/b.c", "path")),
        ("models.'a\"b'.path", ("models", 'a"b', "path")),
        ('models."caf\\u00e9 \\"x\\"".path', ("models", 'café "x"', "path")),
        ("models.Name-Q4_K_M.path", ("models", "Name-Q4_K_M", "path")),
        ("a.", None),
        ("", None),
        ("a = 1", None),
        ("a\n", None),
        ('models."a', None),
        ('models."\\q".path', None),
        ("models.a b.path", None),
    ],
)
def test_a_key_as_it_is_typed(key: str, parts: tuple[str, ...] | None) -> None:
    assert key_path(key) == parts


names = st.text(min_size=1, max_size=12)
values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**31), 2**31), st.text(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=12,
)


def paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, inner in items:
        found |= paths(inner, (*path, name))
    return found


@given(st.dictionaries(names, values, max_size=5), st.booleans())
def test_every_key_of_any_document_has_a_line(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)
    lines = key_lines(text)
    count = text.count("\n") + 1
    # An array of tables is written with headers that carry no number: those are left out.
    numbered = {path for path in paths(document) if all(isinstance(one, str) for one in path)}
    assert numbered <= set(lines)
    assert all(1 <= line <= count for line in lines.values())


@given(st.text())
def test_no_text_breaks_the_scanner(text: str) -> None:
    key_lines(text)

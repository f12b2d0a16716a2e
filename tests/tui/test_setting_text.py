"""Values of settings as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.settings.schema import KEYS
from cyber_inference_tui.tui.pages.settings.table import setting_help
from cyber_inference_tui.tui.setting_text import parse, to_text, with_unit
from tests.tui.world import setting

_words = st.text(min_size=1, max_size=12).filter(lambda text: text == text.strip())


@given(
    st.one_of(
        st.booleans(),
        st.integers(-(10**9), 10**9),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(_words, max_size=5),
        st.dictionaries(_words, st.one_of(st.integers(), _words, st.booleans()), max_size=4),
    )
)
def test_what_is_shown_can_be_typed(value: Any) -> None:
    assert parse(to_text(value), value) == value


def test_times_and_sizes_have_their_units() -> None:
    shown = {
        key.name: with_unit(to_text(key.default), key.default, key.help) for key in KEYS.values()
    }
    assert shown["model_idle_timeout"] == "300 s"
    assert shown["max_body_size"] == "64.0 MiB"
    # Zero is "off", and other numbers count things.
    assert (shown["stall_timeout"], shown["max_queue"]) == ("0", "128")
    assert with_unit("true", True, "Seconds of it.") == "true"


def test_the_help_has_the_whole_value_and_no_value_twice() -> None:
    size = setting("max_body_size", 67_108_864, help="Bytes a request's body may have.")
    assert "\n64.0 MiB (67108864 bytes)\n" in setting_help(size, whole=40).plain
    path = setting("models_dir", "/home/user/models-of-all", default="/m", source="file")
    text = setting_help(path, whole=20).plain
    assert text.startswith("models_dir\n/home/user/\nmodels-of-all\n\n")
    assert text.endswith("Default: /m.")
    assert setting_help(size, whole=40).plain.endswith("This is the default.")
    assert setting_help(size).plain.endswith("Default: 64.0 MiB.")


@pytest.mark.parametrize(
    ("text", "like", "value"),
    [
        ("yes", False, True),
        ("8,192", 0, 8192),
        ("0.5", 300.0, 0.5),
        ("a, b ,, c", [], ["a", "b", "c"]),
        ('["a, b"]', [], ["a, b"]),
        ("", [], []),
        ("", {}, {}),
        (" text ", "", "text"),
    ],
)
def test_what_people_type(text: str, like: Any, value: Any) -> None:
    assert parse(text, like) == value


@pytest.mark.parametrize(
    ("text", "like"), [("maybe", True), ("many", 1), ("[1", []), ("[1]", {}), ("x", {})]
)
def test_what_makes_no_sense_gets_a_sentence(text: str, like: Any) -> None:
    with pytest.raises(InvalidRequestError):
        parse(text, like)

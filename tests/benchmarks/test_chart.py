"""The chart is a picture of bars that needs no other file."""

from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.chart import svg
from benchmarks.table import NGINX, OURS, Row

SVG = "{http://www.w3.org/2000/svg}"


def drawn(rows: list[Row]) -> ElementTree.Element:
    return ElementTree.fromstring(svg(rows))


def test_bars_are_as_long_as_their_values() -> None:
    picture = drawn([Row("group", "CPU", "µs", {NGINX: [10.0], OURS: [20.0]}, charted=True)])
    bars = picture.findall(f"{SVG}rect")
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths[1] == 2 * widths[0]
    assert [bar.get("class") for bar in bars] == ["bar", "bar ours"]
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert texts == ["group: CPU, µs (less is better)", NGINX, "10.0", OURS, "20.0"]


def test_every_part_is_inside_the_picture() -> None:
    rows = [
        Row("group", str(number), "", {NGINX: [1.0], OURS: [12345.0]}, charted=True)
        for number in range(9)
    ]
    picture = drawn(rows)
    _, _, width, height = map(float, (picture.get("viewBox") or "").split())
    for bar in picture.findall(f"{SVG}rect"):
        assert float(bar.get("x", "")) + float(bar.get("width", "")) < width
        assert float(bar.get("y", "")) + float(bar.get("height", "")) < height


def test_only_chosen_rows_are_drawn() -> None:
    picture = drawn([Row("group", "CPU", "µs", {OURS: [1.0]})])
    assert not picture.findall(f"{SVG}rect")


def test_values_at_or_below_zero_have_a_bar_that_can_be_seen() -> None:
    rows = [Row("group", "added", "ms", {NGINX: [-1.0], OURS: [0.0]}, charted=True)]
    assert all(float(bar.get("width", "")) == 1 for bar in drawn(rows).findall(f"{SVG}rect"))


def test_text_is_escaped() -> None:
    assert "a &lt; b &amp; c" in svg([Row("", "a < b & c", "", {OURS: [1.0]}, charted=True)])


def test_dark_pages_have_colours_of_their_own() -> None:
    assert "prefers-color-scheme: dark" in svg([])

"""The table of models: its cells, its order and its filter."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.terminal.columns import Order, RenderContext, place_columns
from cyber_inference_tui.tui.pages.models.table import (
    COLUMNS,
    Rows,
    flags_text,
    matches,
    model_row,
    sorted_models,
    title_text,
)
from tests.tui.world import GIB, NOW, ago, busy_world, model

BY_KEY = {column.key: column for column in COLUMNS}
ALONE = [column for column in COLUMNS if column.key != "box"]
"""The columns while there are no other boxes."""
BY_NAME = Order(BY_KEY["model"])


def order(key: str, *, descending: bool = False) -> Order[ModelRecord]:
    return Order(BY_KEY[key], descending)


def texts(record: ModelRecord) -> dict[str, str]:
    row = model_row(record, RenderContext(UNICODE, NOW))
    return {column.key: row.cell(place)[0] for place, column in enumerate(COLUMNS)}


def test_a_row_says_everything_in_its_columns() -> None:
    record = model(
        "gemma",
        status=ModelStatus.LOADING,
        progress=0.64,
        vision=True,
        fits=Fit.AFTER_UNLOADING,
        last_used_at=ago(300),
    )
    assert texts(record) == {
        "model": "gemma",
        "box": "here",
        "state": "◐ loading 64 %",
        "quant": "Q4_K_M",
        "size": "2.30 GiB",
        "params": "4.0B",
        "context": "8K / 40K",
        "kind": "  vision",
        "fits": "◍ evicts",
        "memory": "~3.10 GiB",
        "used": "5 min",
    }


def test_what_was_measured_has_no_tilde() -> None:
    loaded = model("a", status=ModelStatus.LOADED, memory_bytes=3 * GIB, fits=None)
    assert texts(loaded)["memory"] == "3.00 GiB"
    assert texts(loaded)["fits"] == UNICODE.missing


def test_what_is_not_known_is_a_dash_and_never_a_zero() -> None:
    said = texts(ModelRecord(id="new"))
    assert said["model"] == "new"
    assert {said[key] for key in ("quant", "size", "params", "context", "fits", "memory")} == {
        UNICODE.missing
    }


def test_a_file_that_cannot_be_read_is_said_in_its_row() -> None:
    assert (
        texts(model("broken", unreadable=True, error="not a GGUF file"))["state"] == "✖ unreadable"
    )


@pytest.mark.parametrize("charset", [UNICODE, ASCII])
def test_no_cell_is_wider_than_its_column(charset: Charset) -> None:
    for record in (
        *busy_world().models.values(),
        model(
            "x",
            pinned=True,
            vision=True,
            embedding=True,
            size_bytes=999 * GIB,
            last_used_at=ago(3599),
        ),
        model("z", memory_estimate_bytes=999 * GIB, last_used_at=None),
        model(
            "y",
            parameters=1_000_000_000_000,
            context_length=131_072,
            trained_context_length=131_072,
        ),
    ):
        row = model_row(record, RenderContext(charset, NOW))
        for place, column in enumerate(COLUMNS):
            if column.width is not None:
                assert cell_len(row.cell(place)[0]) <= column.width, (column.key, row.cell(place))
        if not charset.unicode:
            assert all(row.cell(place)[0].isascii() for place in range(len(COLUMNS)))


@pytest.mark.parametrize(
    ("width", "keys"),
    [
        (79, {"model", "state", "fits", "memory", "size"}),
        (117, {one.key for one in ALONE} - {"params"}),
        (140, {one.key for one in ALONE}),
    ],
)
def test_columns_go_by_their_worth(width: int, keys: set[str]) -> None:
    assert {ALONE[place.index].key for place in place_columns(ALONE, width, 2)} == keys


def test_the_kind_and_the_pin() -> None:
    assert flags_text(model("a", pinned=True, embedding=True), UNICODE) == "◆ embed"
    assert flags_text(model("a", pinned=True), ASCII) == "P"
    assert flags_text(model("a"), ASCII) == ""


def ids(models: list[ModelRecord]) -> list[str]:
    return [one.id for one in models]


def test_the_unknown_comes_last_in_both_directions() -> None:
    models = [model("b", size_bytes=None), model("c", size_bytes=1), model("a", size_bytes=2)]
    assert ids(sorted_models(models, order("size"))) == ["c", "a", "b"]
    assert ids(sorted_models(models, order("size", descending=True))) == ["a", "c", "b"]


def test_equals_stay_in_the_order_of_their_names() -> None:
    models = [model("B"), model("a"), model("C")]
    assert ids(sorted_models(models, order("size", descending=True))) == ["a", "B", "C"]


def test_orders_that_have_a_meaning() -> None:
    models = list(busy_world().models.values())
    assert ids(sorted_models(models, order("state")))[:3] == [
        "nomic-embed-text-v2",
        "qwen3-4b-q4_k_m",
        "gemma-3-4b-it-q4_k_m",
    ]
    assert ids(sorted_models(models, order("fits")))[0] == "phi-4-mini-q4_k_m"
    assert ids(sorted_models(models, order("used")))[:2] == [
        "qwen3-4b-q4_k_m",
        "nomic-embed-text-v2",
    ]
    for column in ("quant", "params", "context", "memory", "model"):
        assert len(sorted_models(models, order(column))) == len(models)


def test_a_column_begins_with_what_is_looked_for_and_turns() -> None:
    assert BY_NAME.by(BY_KEY["size"]) == order("size", descending=True)
    assert BY_NAME.by(BY_KEY["size"]).by(BY_KEY["size"]) == order("size")
    assert BY_NAME.by(BY_KEY["used"]) == order("used")
    assert BY_NAME.by(BY_KEY["kind"]) == BY_NAME


@pytest.mark.parametrize("wanted", ["", "QWEN", "4b q4", "q4_k qwen3", "friend"])
def test_the_filter_finds(wanted: str) -> None:
    assert matches(model("Qwen3-4B", aliases=("my friend",)), wanted)


@pytest.mark.parametrize("wanted", ["llama", "4b llama", "Q8_0"])
def test_the_filter_leaves_out(wanted: str) -> None:
    assert not matches(model("Qwen3-4B"), wanted)


def test_the_title_names_the_filter() -> None:
    assert title_text(12, 12, "") == "  12"
    assert title_text(3, 12, "qwen") == "  3 of 12  /qwen"
    assert title_text(0, 0, "") == ""
    assert "\x1b" not in title_text(0, 1, "\x1b[2J")


def test_rows_that_say_the_same_are_the_same() -> None:
    rows = Rows(UNICODE)
    models = [model("a", last_used_at=ago(300)), model("b")]
    first = rows.of(models, wanted="", order=BY_NAME, now=NOW)
    again = rows.of(models, wanted="", order=BY_NAME, now=NOW)
    assert all(one is other for one, other in zip(first, again, strict=True))
    changed = rows.of([models[0], model("b", pinned=True)], wanted="", order=BY_NAME, now=NOW)
    assert changed[0] is first[0]
    assert changed[1] != first[1]


def test_a_clock_that_runs_ahead_makes_no_negative_age() -> None:
    rows = Rows(UNICODE).of([model("a", last_used_at=ago(-90))], wanted="", order=BY_NAME, now=NOW)
    assert rows[0].cell(len(COLUMNS) - 1)[0] == "now"


def test_hostile_names_become_harmless() -> None:
    said = texts(model("evil\x1b[2J[/oops\u202e", quantization="\x9b2JQ4"))
    assert said["model"] == "evil[/oops"
    assert said["quant"] == "Q4"

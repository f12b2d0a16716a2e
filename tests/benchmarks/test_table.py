"""What was measured becomes medians, Markdown tables and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.table import (
    DIRECT,
    NGINX,
    OTHER,
    OURS,
    ROUTER,
    STASH,
    SWAP,
    Row,
    as_json,
    markdown,
    ratio,
    shown,
)


def row(values: dict[str, float], **more: Any) -> Row:
    return Row("group", "what", "ms", {name: [value] for name, value in values.items()}, **more)


def test_a_value_is_the_median_of_its_rounds() -> None:
    measured = Row("group", "what", "ms", {OURS: [9.0, 1.0, 2.0], NGINX: [1.0, 2.0], SWAP: []})
    assert measured.values == {OURS: 2.0, NGINX: 1.5}


def test_the_best_is_one_of_those_that_do_the_work() -> None:
    measured = row({DIRECT: 0.1, NGINX: 1, OURS: 5, SWAP: 4, STASH: 6})
    assert measured.best == measured.best_peer == 4
    assert row({NGINX: 1, OURS: 3, ROUTER: 4}).best == 3
    assert row({NGINX: 1, OURS: 3, OTHER: 2, ROUTER: 4}).best == 2
    assert row({NGINX: 1, OURS: 3}).best_peer is None


def test_more_can_be_better() -> None:
    measured = row({OURS: 5, SWAP: 4, STASH: 6}, less_is_better=False)
    assert measured.best == measured.best_peer == 6


def test_a_table_has_the_targets_in_order_and_the_best_in_bold() -> None:
    found = markdown([row({SWAP: 4, OURS: 2, NGINX: 1, DIRECT: 0.5})])
    assert found.splitlines() == [
        "| group | direct | nginx | this service | llama-swap | ÷ nginx | ÷ best peer |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| what, ms | 0.50 | 1.00 | **2.00** | 4.00 | 2.00 | 0.50 |",
    ]


def test_what_a_target_cannot_do_is_left_empty() -> None:
    first = row({OURS: 2, SWAP: 4})
    second = Row("group", "more", "", {OURS: [3.0]}, less_is_better=False)
    lines = markdown([first, second]).splitlines()
    assert lines[3] == "| more (more is better) | **3.00** | - | - | - |"


def test_growth_is_compared_with_its_first_size() -> None:
    grown = Row("models", "RSS", "MiB", {"1": [50.0], "1,000": [75.0]})
    assert markdown([grown]).splitlines() == [
        "| models | 1 | 1,000 | last ÷ first |",
        "|---|---:|---:|---:|",
        "| RSS, MiB | 50.0 | 75.0 | 1.50 |",
    ]


def test_each_group_has_a_table() -> None:
    other = Row("other", "what", "s", {OURS: [1.0]})
    assert markdown([row({OURS: 1}), other]).count("|---") == 2 + 6


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.000"),
        (0.0123, "0.012"),
        (0.0949, "0.095"),
        (0.0951, "0.10"),
        (1.234, "1.23"),
        (9.996, "10.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (12345.6, "12,346"),
        (-0.5, "-0.50"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [(3, 2, "1.50"), (3, 0, "-"), (3, -1, "-"), (None, 2, "-"), (3, None, "-")],
)
def test_there_is_no_ratio_to_nothing(value: float | None, base: float | None, text: str) -> None:
    assert ratio(value, base) == text


def test_json_has_medians_and_rounds() -> None:
    measured = Row("group", "what", "ms", {OURS: [3.0, 1.0, 2.0]}, charted=True)
    assert json.loads(as_json([measured], "two cores")) == {
        "machine": "two cores",
        "rows": [
            {
                "group": "group",
                "what": "what",
                "unit": "ms",
                "rounds": {OURS: [3.0, 1.0, 2.0]},
                "less_is_better": True,
                "charted": True,
                "values": {OURS: 2.0},
            }
        ],
    }

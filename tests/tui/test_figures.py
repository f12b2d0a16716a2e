from __future__ import annotations

import pytest

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui import figures

_GIB = 1024**3


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "–"),  # noqa: RUF001 - the dash is meant
        (0, "0.0 GiB"),
        (1, "<0.1 GiB"),
        (_GIB // 10, "0.1 GiB"),
        (int(3.14 * _GIB), "3.1 GiB"),
        (1200 * _GIB, "1200.0 GiB"),
    ],
)
def test_memory(size: int | None, text: str) -> None:
    assert figures.memory_text(size) == text


def test_an_estimate_is_marked_as_one() -> None:
    assert figures.memory_text(3 * _GIB, estimate=True) == "~3.0 GiB"


def test_numbers() -> None:
    assert figures.number_text(8192) == "8,192"
    assert figures.number_text(21.44, decimals=1) == "21.4"
    assert figures.number_text(63, unit="%") == "63 %"
    assert figures.number_text(None, unit="%", charset=ASCII) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0:00"),
        (0, "0:00"),
        (0.2, "0:01"),
        (192, "3:12"),
        (3599.5, "1:00:00"),
        (7500, "2:05:00"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_countdown(seconds: float, text: str) -> None:
    assert figures.countdown_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "now"), (12.9, "12 s"), (60, "1 min"), (3 * 3600, "3 h"), (4 * 86400 + 5, "4 d")],
)
def test_age(seconds: float, text: str) -> None:
    assert figures.age_text(seconds) == text


def test_a_state_is_sign_and_word() -> None:
    assert figures.status_text(ModelStatus.LOADED) == "● loaded"
    assert figures.status_text(ModelStatus.LOADING, 0.999) == "◐ loading 99 %"
    assert figures.status_text(ModelStatus.FAILED, 0.5, charset=ASCII) == "x failed"

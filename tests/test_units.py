"""Numbers as people read them."""

from __future__ import annotations

import pytest

from cyber_inference_tui import units

_MIB = 1024**2
_GIB = 1024**3


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1.00 KiB"),
        (51_485_081, "49.1 MiB"),
        (100 * _MIB, "100 MiB"),
        (int(999.4 * _MIB), "999 MiB"),
        (int(999.5 * _MIB), "0.976 GiB"),
        (_GIB - 1, "1.00 GiB"),
        (int(1.3 * _GIB), "1.30 GiB"),
        (int(9.996 * _GIB), "10.0 GiB"),
        (2000 * 1024 * _GIB, "2000 TiB"),
    ],
)
def test_sizes_have_three_significant_digits(size: int, text: str) -> None:
    assert units.size_text(size) == text


def test_an_estimate_is_marked_as_one() -> None:
    assert units.size_text(3 * _GIB, estimate=True) == "~3.00 GiB"


def test_numbers() -> None:
    assert units.number_text(8192) == "8,192"
    assert units.number_text(21.44, decimals=1) == "21.4"
    assert units.number_text(63, unit="%") == "63 %"
    assert units.counted(1, "request") == "1 request"
    assert units.counted(1204, "request") == "1,204 requests"


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
    assert units.countdown_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "now"), (12.9, "12 s"), (60, "1 min"), (3 * 3600, "3 h"), (4 * 86400 + 5, "4 d")],
)
def test_age(seconds: float, text: str) -> None:
    assert units.age_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1_040_000_000_000, "1.0T"),
        (671_000_000_000, "671B"),
        (4_022_468_096, "4.0B"),
        (999_600_000, "1.0B"),
        (475_000_000, "475M"),
        (999, "999"),
    ],
)
def test_parameters(number: int, text: str) -> None:
    assert units.count_text(number) == text


@pytest.mark.parametrize(
    ("context", "trained", "text"),
    [
        (8192, 32768, "8K / 32K"),
        (5000, 1_048_576, "5,000 / 1M"),
        (2048, None, "2K"),
        (None, 32768, None),
        (0, 32768, None),
    ],
)
def test_the_context_in_force_and_the_trained_one(
    context: int | None, trained: int | None, text: str | None
) -> None:
    assert units.contexts_text(context, trained) == text


@pytest.mark.parametrize(
    ("joules", "text", "watt_hours"),
    [
        (0.0, "0.00 J", "0.00 Wh"),
        (0.418, "0.42 J", "0.00 Wh"),
        (9.996, "10.0 J", "0.00 Wh"),
        (99.96, "100 J", "0.03 Wh"),
        (2560.0, "2,560 J", "0.71 Wh"),
        (9_999.6, "2.78 Wh", "2.78 Wh"),
        (11_581_200.0, "3,217 Wh", "3,217 Wh"),
    ],
)
def test_energies(joules: float, text: str, watt_hours: str) -> None:
    assert units.energy_text(joules) == text
    assert units.watt_hours_text(joules) == watt_hours


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GB", 12 * 10**9),
        (" 1.5 gb ", 1_500_000_000),
        ("12G", 12 * _GIB),
        ("12 GiB", 12 * _GIB),
        ("800", 800),
        ("800 B", 800),
        ("2T", 2048 * _GIB),
        ("", None),
        ("GB", None),
        ("12 apples", None),
        ("-1 GB", None),
        ("1e9", None),
    ],
)
def test_a_size_that_a_person_types(text: str, size: int | None) -> None:
    assert units.bytes_of(text) == size

"""The best quantization for a machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.hub.suggestion import QuantizationOption, suggest
from cyber_inference_tui.records import Fit

GB = 10**9
SIZES = {"F16": 15, "Q8_0": 8, "Q6_K": 6, "Q5_K_M": 5, "Q4_K_M": 4, "Q3_K_M": 3, "Q2_K": 2}


def choices(room: float) -> list[QuantizationOption]:
    return [
        QuantizationOption(name, size * GB, Fit.NOW if size <= room else Fit.NEVER)
        for name, size in SIZES.items()
    ]


@pytest.mark.parametrize(
    ("room", "name"),
    [
        (100, "Q8_0"),
        (32, "Q8_0"),
        (31, "Q6_K"),
        (8, "Q6_K"),
        (7.9, "Q5_K_M"),
        (5.4, "Q4_K_M"),
        (4, "Q4_K_M"),
        (3.9, "Q3_K_M"),
        (2.1, "Q2_K"),
        (1, None),
    ],
)
def test_the_best_for_the_room(room: float, name: str | None) -> None:
    at = suggest(choices(room), int(room * GB))
    assert (None if at is None else list(SIZES)[at]) == name


def test_without_spare_memory_the_smallest_good_one_is_chosen() -> None:
    assert suggest(choices(8), None) == list(SIZES).index("Q4_K_M")


def test_unknown_quantizations_are_chosen_last() -> None:
    only = [
        QuantizationOption("F16", 5 * GB, Fit.AFTER_UNLOADING),
        QuantizationOption(None, 4 * GB, Fit.NEVER),
    ]
    assert suggest(only, 100 * GB) == 0


def test_mixtures_rank_like_the_closest_quantization() -> None:
    some = [
        QuantizationOption("Q4_K_S", 4 * GB, Fit.NOW),
        QuantizationOption("UD-Q4_K_XL", 5 * GB, Fit.NOW),
    ]
    assert suggest(some, 100 * GB) == 1


def test_unknown_sizes_give_no_suggestion() -> None:
    assert suggest([QuantizationOption("Q4_K_M", None, None)], 100) is None
    assert suggest([], 100) is None


@given(
    st.lists(
        st.builds(
            QuantizationOption,
            st.sampled_from([None, "F16", "XX", *SIZES]),
            st.none() | st.integers(0, 100),
            st.none() | st.sampled_from(Fit),
        )
    ),
    st.none() | st.integers(0, 100),
)
def test_the_suggestion_fits(some: list[QuantizationOption], room: int | None) -> None:
    at = suggest(some, room)
    fitting = [one for one in some if one.fits in {Fit.NOW, Fit.AFTER_UNLOADING}]
    assert (at is not None) == bool(fitting)
    if at is not None:
        assert some[at] in fitting

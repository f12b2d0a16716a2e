"""Results of benches in words: what is compared with what, and when a difference counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cyber_inference_tui.records.bench import BenchFigure, BenchResult
from cyber_inference_tui.terminal.benches import (
    change_text,
    difference,
    figure_text,
    latest_alike,
    names,
    settings_text,
    slow_text,
    verdict,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE

DAY = datetime(2026, 3, 4, 5, tzinfo=UTC)


def figure(*values: float) -> BenchFigure:
    return BenchFigure(median=sorted(values)[len(values) // 2], spread=0.1, values=values)


def result(number: int = 1, day: int = 0, **fields: Any) -> BenchResult:
    at = DAY + timedelta(days=day)
    base = {"id": number, "run": at, "at": at, "model": "m", "prompt": 512, "tokens": 128}
    return BenchResult(**{**base, **fields})


OLD = result(1, 0, build="b11500", tokens_per_second=figure(20.0, 20.1, 19.9, 20.0))
NEW = result(2, 9, build="b11669", tokens_per_second=figure(18.8, 18.9, 18.7, 18.8))


def test_a_verdict_names_what_is_different_and_by_how_much() -> None:
    text = verdict(OLD, NEW, UNICODE)
    assert text.startswith("b11669 is 6.0 % slower than b11500 (± ")
    assert "+- " in verdict(OLD, NEW, ASCII)
    assert "faster" in verdict(NEW, OLD, UNICODE)


def test_what_is_within_the_noise_is_the_same() -> None:
    noisy = result(2, 9, build="b11669", tokens_per_second=figure(15.0, 25.0, 18.0, 22.0))
    assert "b11669 is as fast as b11500, within " in verdict(OLD, noisy, UNICODE)
    found = difference(OLD, noisy, "tokens_per_second")
    assert change_text(found, UNICODE).startswith("± ")
    few = result(2, 9, build="b11669", tokens_per_second=figure(10.0))
    assert "too few rounds" in verdict(OLD, few, UNICODE)
    assert change_text(difference(OLD, few, "tokens_per_second"), UNICODE) == ""


def test_models_that_took_turns_are_compared_round_by_round() -> None:
    # Far apart from round to round, and always by a tenth from each other.
    slower = figure(20.0, 10.0, 15.0, 12.0)
    faster = figure(22.0, 11.0, 16.5, 13.2)
    first = result(1, model="a", tokens_per_second=slower)
    second = result(2, model="b", tokens_per_second=faster)
    found = difference(first, second, "tokens_per_second")
    assert found is not None
    assert found.is_real
    assert found.change == pytest.approx(0.1)
    later = result(2, 1, model="b", tokens_per_second=faster)
    apart = difference(first, later, "tokens_per_second")
    assert apart is not None
    assert not apart.is_real
    # In another power mode of the same bench, the rounds were others.
    mode = result(2, model="a", power_mode="15W", tokens_per_second=faster)
    apart = difference(first, mode, "tokens_per_second")
    assert apart is not None
    assert not apart.is_real


def test_only_results_of_one_workload_are_compared() -> None:
    other = result(2, 9, prompt=4096, tokens_per_second=figure(9.0, 9.0, 9.0))
    assert difference(OLD, other, "tokens_per_second") is None
    assert verdict(OLD, other, UNICODE).endswith("other tokens were asked for.")
    assert latest_alike([NEW, other, OLD]) == [OLD, NEW]


def test_the_newest_result_of_each_kind_counts_and_the_oldest_is_first() -> None:
    again = result(3, 10, build="b11669", tokens_per_second=figure(18.0))
    cache = result(4, 11, build="b11669", cache_type_k="q8_0")
    assert latest_alike([cache, again, NEW, OLD]) == [OLD, again, cache]
    assert names(again, cache) == ("q8_0/f16", "f16")
    assert names(OLD, result(5, 2, build="b11500"))[0].startswith("m on 2026-03-0")
    assert names(OLD, result(6, build="b11500", threads=4)) == ("4 threads", "default threads")


def test_settings_and_figures_in_a_few_words() -> None:
    full = result(context_size=8192, slots=4, cache_type_k="q8_0", cache_type_v="q8_0", threads=1)
    assert settings_text(full) == "8K  4 slots  q8_0  1 thread"
    assert settings_text(result()) == ""
    assert figure_text(figure(21.4, 21.4), UNICODE) == "21.4 ± 0.1"
    assert figure_text(figure(2140.0, 2140.0), ASCII) == "2,140 +- 0"
    assert figure_text(figure(21.4), UNICODE) == "21.4"
    assert figure_text(None, ASCII) == "-"
    hot = result(throttled=("cpu: temperature",))
    assert slow_text([full, hot]) == ["m: the machine was slowed down (cpu: temperature)."]

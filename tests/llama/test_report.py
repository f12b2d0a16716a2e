"""Reports of an installation's progress, from one process to another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.install.report import ProgressMeter, Report, read_report
from cyber_inference_tui.text import clean_line


def test_there_and_back() -> None:
    report = Report(source="github", step='"odd"\nstep', progress=0.25, error="x")
    line = report.line()
    assert "\n" not in line
    assert read_report(line.encode()) == report


@pytest.mark.parametrize("line", [b"", b"a line", b'{"step":"x"}', b"\x1e", b"\x1e[]", b"\x1e{"])
def test_other_lines_are_none(line: bytes) -> None:
    assert read_report(line) is None


@given(st.text())
def test_no_program_can_print_a_report(text: str) -> None:
    assert read_report(clean_line(text).encode("utf-8", "replace")) is None


def test_steps_make_up_a_whole() -> None:
    meter = ProgressMeter()
    meter.begin("github")
    assert meter.report == Report(source="github")
    meter.step("asking", 0.2)
    assert meter.report == Report(source="github", step="asking", progress=0.0)
    meter.step("downloading", 0.8)
    assert meter.report.progress == 0.2
    meter.advance(50, 100)
    assert meter.report.progress == 0.5
    meter.advance(500, 100)
    assert meter.report.progress == 0.8
    meter.advance(5, None)
    assert meter.report.progress == 0.8
    meter.step("odd", None)
    assert meter.report == Report(source="github", step="odd")
    meter.step("checking", 1.0)
    assert meter.report.progress == 0.8
    meter.begin("debian")
    assert meter.report == Report(source="debian")


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10))))
def test_it_never_goes_back(steps: list[tuple[float, int]]) -> None:
    meter = ProgressMeter()
    meter.begin("source")
    last = 0.0
    for upto, done in steps:
        meter.step("x", upto)
        for part in range(done + 1):
            meter.advance(part, 10)
            progress = meter.report.progress
            assert progress is not None
            assert last <= progress <= 1.0
            last = progress

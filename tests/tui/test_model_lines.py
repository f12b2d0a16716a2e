"""The sentences about the selected model."""

from __future__ import annotations

import pytest

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.tui.pages.models.sentences import description_text, model_sentence
from tests.tui.world import GIB, NOW, ago, model


def test_what_it_is() -> None:
    record = model(
        "a",
        capabilities=("completion", "chat", "tools", "vision"),
        pinned=True,
        aliases=("one", "two"),
        origin="hub cache",
        size_bytes=GIB,
    )
    assert description_text(record, UNICODE) == (
        "qwen3 · 4.0B parameters · Q4_K_M · context 8K / 40K · 1.00 GiB · tools · vision"
        " · pinned · also one, two · from hub cache"
    )
    assert description_text(ModelRecord(id="x"), ASCII) == "No details are known."
    split = ModelRecord(id="x", split=("jetson",))
    assert description_text(split, ASCII) == "across this box and jetson"


@pytest.mark.parametrize(
    ("changes", "text", "tone"),
    [
        (
            {"fits": Fit.NOW, "fits_reason": "needs 3.10 GiB, 4.00 GiB is free"},
            "✔ fits: needs 3.10 GiB, 4.00 GiB is free",
            "good",
        ),
        (
            {"fits": Fit.NOW, "fits_reason": "It needs 3.10 GiB, and 4.00 GiB can be had now."},
            "✔ fits. It needs 3.10 GiB, and 4.00 GiB can be had now.",
            "good",
        ),
        (
            {"fits": Fit.AFTER_UNLOADING, "fits_reason": "needs 2.90 GiB"},
            "◍ fits after unloading: needs 2.90 GiB",
            "busy",
        ),
        (
            {"fits": Fit.NEVER, "fits_reason": "needs 21.7 GiB"},
            "✖ too big: needs 21.7 GiB",
            "bad",
        ),
        (
            {"fits": None, "fits_reason": None},
            f"{UNICODE.missing} the memory it needs is unknown",
            "dim",
        ),
        (
            {"error": "its header ends too early\nmore"},
            "✖ its header ends too early",
            "bad",
        ),
        (
            {"status": ModelStatus.FAILED, "error": "out of memory\nlog line"},
            "✖ out of memory",
            "bad",
        ),
        (
            {
                "status": ModelStatus.LOADING,
                "progress": 0.999,
                "queued": 1,
                "expected_wait_seconds": 6.0,
            },
            "◐ loading 99 %, 1 request waits, ready in about 6.0 s",
            "busy",
        ),
        ({"status": ModelStatus.LOADING, "progress": None}, "◐ loading", "busy"),
        (
            {"status": ModelStatus.QUEUED, "queued": 2, "fits_reason": "no room"},
            "◌ queued for loading, 2 requests wait, no room",
            "busy",
        ),
        (
            {"status": ModelStatus.UNLOADING, "in_flight": 2},
            "◍ unloading after its 2 requests",
            "busy",
        ),
        (
            {
                "status": ModelStatus.LOADED,
                "loaded_at": ago(3600),
                "memory_bytes": 3 * GIB,
                "unload_at": ago(-192),
            },
            "● loaded for 1 h, uses 3.00 GiB, context 8K / 40K, idle, unloads in 3:12",
            "good",
        ),
        (
            {"status": ModelStatus.LOADED, "in_flight": 2, "slots": 4, "context_length": None},
            "● loaded, 2 requests in 4 slots",
            "good",
        ),
        (
            {"status": ModelStatus.LOADED, "pinned": True, "context_length": None, "port": 8338},
            "● loaded, pinned, port 8338",
            "good",
        ),
    ],
)
def test_the_sentence_about_a_state(changes: dict[str, object], text: str, tone: str) -> None:
    assert model_sentence(model("a", **changes), NOW, UNICODE) == (text, tone)

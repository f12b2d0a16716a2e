"""Messages of the service that name a shell command, as the app shows them."""

from __future__ import annotations

import pytest

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.tui.pages.models.sentences import model_sentence
from cyber_inference_tui.tui.ways_out import with_keys
from tests.tui.world import NOW, model


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("None. `cyber-inference-tui install-llama` gets one.", "None. i on page 1 gets one."),
        ("`cyber-inference-tui install-llama --force` gets another.", "i on page 1 gets another."),
        (
            "`cyber-inference-tui install-llama --from source` builds one.",
            "i, u or y on page 1 builds one.",
        ),
        ("`cyber-inference-tui config show` lists them.", "page 7 lists them."),
        (
            "`cyber-inference-tui init --config x` makes it.",
            "enter on a setting on page 7 makes it.",
        ),
        ("`cmake` is missing.", "`cmake` is missing."),
        ("`cyber-inference-tui doctor` looks at it.", "`cyber-inference-tui doctor` looks at it."),
    ],
)
def test_a_command_becomes_a_key(said: str, shown: str) -> None:
    assert with_keys(said) == shown


def test_the_sentence_about_a_failed_model_names_a_key() -> None:
    error = "There is no llama-server. `cyber-inference-tui install-llama` gets one."
    failed = model("m", status=ModelStatus.FAILED, error=error)
    text = model_sentence(failed, NOW, UNICODE)[0]
    assert text == "✖ There is no llama-server. i on page 1 gets one."

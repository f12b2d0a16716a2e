"""Secrets behind masks: which words of a command line they are, and masks that come back."""

from __future__ import annotations

from typing import Any

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.masks import (
    holds_secret,
    masked_value,
    masked_words,
    unmasked_value,
)
from cyber_inference_tui.settings.schema import KEYS, MASK, MODEL_KEYS

ARGS = MODEL_KEYS["args"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--api-key", "k", "--port", "1"], ["--api-key", MASK, "--port", "1"]),
        (["--api-key=k=l", "-c", "1"], [f"--api-key={MASK}", "-c", "1"]),
        (["-hft", "t", "--hf-token", "u"], ["-hft", MASK, "--hf-token", MASK]),
        (["--auth_token", "t"], ["--auth_token", MASK]),
        (["env", "HF_TOKEN=t", "serve", "x"], ["env", f"HF_TOKEN={MASK}", "serve", "x"]),
        (["--hf-token", "--api-key"], ["--hf-token", MASK]),
        # What only sounds like one.
        (["--max-tokens", "5", "--api-key-file", "/f"],) * 2,
        (["--api-key"],) * 2,
        (["--api-key=", "--api-key", ""],) * 2,
        (["token", "x"],) * 2,
        ([],) * 2,
    ],
)
def test_secrets_of_a_command_line(words: list[str], shown: list[str]) -> None:
    assert masked_words(words) == shown
    assert masked_value(ARGS, words) == shown
    assert holds_secret(ARGS, words) == (words != shown)
    assert unmasked_value("args", ARGS, shown, words) == words


OLD = ("--api-key", "k", "-hft=t", "--lora", "a")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--lora", "b", "--api-key", MASK], ["--lora", "b", "--api-key", "k"]),
        (["--api-key=" + MASK, "-hft", MASK], ["--api-key=k", "-hft", "t"]),
        (["--api-key", "new", "-hft=" + MASK], ["--api-key", "new", "-hft=t"]),
        ('["--api-key", "********"]', ["--api-key", "k"]),
        ([], []),
    ],
)
def test_masks_that_come_back_stand_for_the_options_value(given: Any, kept: list[str]) -> None:
    assert unmasked_value("args", ARGS, given, OLD) == kept


@pytest.mark.parametrize(
    "given",
    [
        ["--alias", MASK],
        ["--hf-token", MASK],
        ["--api-key", f"{MASK}1"],
        [f"--lora={MASK}"],
        [MASK],
    ],
)
def test_a_mask_that_stands_for_nothing_is_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="args: this mask replaces no secret"):
        unmasked_value("args", ARGS, given, OLD)


def test_several_secrets_of_one_option_keep_their_order() -> None:
    old = ("--api-key", "a", "--api-key", "b")
    given = ["--api-key", MASK, "--api-key", MASK]
    assert unmasked_value("args", ARGS, given, old) == list(old)
    assert unmasked_value("args", ARGS, ["--api-key", MASK, "--api-key", "c"], old)[1] == "a"
    with pytest.raises(ConfigError):
        unmasked_value("args", ARGS, ["--api-key", MASK], old)


def test_other_values_are_no_matter_of_masks() -> None:
    assert masked_value(KEYS["theme"], "x") == "x"
    assert unmasked_value("theme", KEYS["theme"], MASK, "x") == MASK
    assert unmasked_value("args", ARGS, 5, ()) == 5

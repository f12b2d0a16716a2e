"""A model's draft and LoRA adapters in the app."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import DraftTotals, ModelStatus
from cyber_inference_tui.terminal.drafts import gain_text
from cyber_inference_tui.tui.dialogs.adapters import AdaptersDialog
from cyber_inference_tui.tui.pages.models.details import files_to_delete_text
from tests.tui.companions_world import DRAFTED, HEAD, QWEN, companions_world
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.test_models import at, on_models, shows


def without_gain(**changes: Any) -> DraftTotals:
    return msgspec.structs.replace(DRAFTED, **changes)


async def test_details_show_the_draft_with_its_gain_and_the_adapters() -> None:
    async with on_models(companions_world()) as (app, _, pilot):
        await at(app, pilot, QWEN)
        # All parts of the memory have no room; the first two have.
        await shows(app, pilot, "CONTEXT   WEIGHTS  KV CACHE     TOTAL  FITS")
        await shows(app, pilot, "DRAFT  by an EAGLE-3 head", "eagle3-Qwen3-4B.gguf")
        await shows(app, pilot, "70 % of 51,204 tokens accepted")
        await shows(app, pilot, "+42 %: 30.2 tok/s, 21.3 without drafts")
        await shows(app, pilot, "LORA  a changes their strength")
        await shows(app, pilot, "0  legal-german-v2  66.0 MiB   0.8", "1  terse")


async def test_a_gain_that_was_not_measured_is_not_shown() -> None:
    drafted = without_gain(undrafted_tokens_per_second_p50=None)
    off = msgspec.structs.replace(HEAD, unused_because="found, and off")
    async with on_models(companions_world(drafted=drafted, draft=off)) as (app, _, pilot):
        await at(app, pilot, QWEN)
        await shows(app, pilot, "found, and off", "70 % of 51,204 tokens accepted")
        assert "without drafts" not in screen_text(app)


def test_deleting_a_model_names_its_head_but_no_draft_model() -> None:
    details = companions_world().details[QWEN]
    assert "eagle3-Qwen3-4B.gguf (unless another model uses it)" in files_to_delete_text(details)
    small = msgspec.structs.replace(HEAD, kind="draft-simple")
    details = msgspec.structs.replace(details, draft=small)
    assert "eagle3" not in files_to_delete_text(details)


@pytest.mark.parametrize(
    ("fast", "slow", "text"),
    [(30.0, 20.0, "+50 %"), (18.0, 20.0, "-10 %"), (20.0, 20.0, "+0 %"), (None, 20.0, "")],
)
def test_a_gain_in_percent(fast: float | None, slow: float, text: str) -> None:
    totals = without_gain(tokens_per_second_p50=fast, undrafted_tokens_per_second_p50=slow)
    assert gain_text(totals) == text


async def test_the_strength_of_an_adapter_is_changed_at_once() -> None:
    async with on_models(companions_world(), size=SMALL) as (app, client, pilot):
        await at(app, pilot, QWEN)
        await pilot.press("enter")
        await shows(app, pilot, "DRAFT  by")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AdaptersDialog))
        await shows(app, pilot, "LoRA adapters until the next load")
        await pilot.press("right", "right")
        await until(pilot, lambda: ("scale", QWEN, 0, 1.0) in client.calls)
        await shows(app, pilot, "66.0 MiB         1")
        await pilot.press("down", "space")
        await until(pilot, lambda: ("scale", QWEN, 1, 1.0) in client.calls)
        await pilot.press("space", "left")
        await until(pilot, lambda: ("scale", QWEN, 1, 0.0) in client.calls)
        await shows(app, pilot, "off")
        await pilot.press("escape")
        # The details are read again.
        await shows(app, pilot, "legal-german-v2", " 1\n")


async def test_strengths_are_changed_from_the_list_too() -> None:
    async with on_models(companions_world(), size=SMALL) as (app, _, pilot):
        await at(app, pilot, QWEN)
        await pilot.press("a")
        await shows(app, pilot, "LoRA adapters until the next load", "legal-german-v2")
        await pilot.press("escape")
        await at(app, pilot, "nomic-embed-text-v2")
        await pilot.press("a")
        await shows(app, pilot, "nomic-embed-text-v2 has no LoRA")


async def test_a_strength_that_the_server_refuses_is_said() -> None:
    async with on_models(companions_world()) as (app, client, pilot):
        await at(app, pilot, QWEN)
        await shows(app, pilot, "LORA")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AdaptersDialog))
        client.fail["scale"] = CyberError("Its server did not change them.")
        await pilot.press("right")
        await shows(app, pilot, "Its server did not change them.")


async def test_an_unloaded_model_has_no_strengths_to_change() -> None:
    async with on_models(companions_world()) as (app, client, pilot):
        await at(app, pilot, QWEN)
        await shows(app, pilot, "LORA")
        client.set_model(QWEN, status=ModelStatus.UNLOADED)
        await shows(app, pilot, "○ unloaded")
        await pilot.press("a")
        await shows(app, pilot, "is not loaded. Load it first (l)")
        # A model without adapters has no such key.
        await at(app, pilot, "nomic-embed-text-v2")
        await until(pilot, lambda: not app.screen.check_action("adapters", ()))


async def test_a_request_shows_the_part_of_its_draft_that_was_accepted() -> None:
    async with running(companions_world(), first_page="requests") as (app, _, pilot):
        await shows(app, pilot, "38 done")
        await pilot.press(*["down"] * 5, "enter")
        await shows(app, pilot, "600, 288 accepted (48 %), 3.3 tokens a step")


async def test_the_totals_show_acceptance_and_gain() -> None:
    async with running(companions_world(), first_page="requests", size=(200, 40)) as (
        app,
        _,
        pilot,
    ):
        await pilot.press("t")
        await shows(app, pilot, "ACCEPTED", "GAIN", "70 %", "+42 %")

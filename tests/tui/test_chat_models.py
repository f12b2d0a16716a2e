"""The Chat page with several models side by side."""

from __future__ import annotations

from functools import partial
from typing import Any

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.tui.pages.chat.page import ChatPage
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world

on_page = partial(running, first_page="chat")

QWEN, GEMMA, PHI = "qwen3-4b-q4_k_m", "gemma-3-4b-it-q4_k_m", "phi-4-mini-q4_k_m"


async def asked(pilot: Any, app: Any, *keys: str) -> None:
    """Send a message on the opened page, and leave the field after the answer."""
    await until(pilot, lambda: "You" in screen_text(app) or "Write to try" in screen_text(app))
    await pilot.press("enter", *keys, "enter")
    await until(pilot, lambda: "tok/s" in screen_text(app))
    await pilot.press("escape")


async def added(pilot: Any, client: FakeClient, *name: str) -> None:
    """Add a model, which answers the last question."""
    calls = len(client.calls)
    await pilot.press("a", *name, "enter")
    await until(pilot, lambda: len(client.calls) > calls and not client.chats_open)


async def test_a_second_model_answers_the_last_question_and_then_both_answer() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await asked(pilot, app, *"one")
        await asked(pilot, app, *"two")
        await added(pilot, client, *"gemma")
        # It knows what was said before, so that the answers can be compared.
        assert client.calls[-1][1] == GEMMA
        assert [one["content"] for one in client.calls[-1][2]] == [
            *("one", "Hello there, I am small.", "two")
        ]
        await until(pilot, lambda: screen_text(app).count("I am small") == 4)
        text = screen_text(app)
        assert "2 models answer each message" in text
        assert "3.10 GiB  21.4 tok/s  first" in text
        assert "~2.90 GiB" in text
        await pilot.press("enter", *"three", "enter")
        await until(pilot, lambda: len(client.calls) == 5 and not client.chats_open)
        assert {call[1] for call in client.calls[3:]} == {QWEN, GEMMA}
        assert all(call[2][-1]["content"] == "three" for call in client.calls[3:])


async def test_a_model_that_fails_does_not_disturb_the_others_and_is_asked_again() -> None:
    client = FakeClient(busy_world())
    client.fail[f"chat with {PHI}"] = ModelLoadError("It needs more memory.")
    client.chat_pace.clear()
    async with on_page(client) as (app, _, pilot):
        await until(pilot, lambda: "Write to try" in screen_text(app))
        await pilot.press("a", *"phi", "enter")
        await until(pilot, lambda: "2 models" in screen_text(app))
        await pilot.press("enter", *"hi", "enter")
        await until(pilot, lambda: "It needs more memory." in screen_text(app))
        await until(pilot, lambda: "answering" in screen_text(app))
        client.fail.clear()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: client.chats_open == 2)
        assert [call[1] for call in client.calls] == [QWEN, PHI]
        # One key stops both.
        await pilot.press("escape")
        await until(pilot, lambda: client.chats_open == 0)
        await until(pilot, lambda: screen_text(app).count("stopped") == 2)


async def test_on_a_small_screen_a_key_shows_the_other_model() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, client, pilot):
        await asked(pilot, app, *"hi")
        await added(pilot, client, *"gemma")
        await until(pilot, lambda: "▸ gemma-3-4b-it-q4_k_m 21.4/s" in screen_text(app))
        assert screen_text(app).count("I am small") == 1
        assert "  qwen3-4b-q4_k_m 21.4/s" in screen_text(app)
        assert "◐ loading 64 %  ~2.90 GiB  21.4 tok/s" in screen_text(app)
        await pilot.press("]")
        await until(pilot, lambda: "● loaded  3.10 GiB  21.4 tok/s" in screen_text(app))
        await until(pilot, lambda: "▸ qwen3-4b-q4_k_m 21.4/s" in screen_text(app))
        # While a message is written, too.
        await pilot.press("enter", "f3")
        await until(pilot, lambda: "▸ gemma-3-4b-it-q4_k_m 21.4/s" in screen_text(app))
        await pilot.press("escape", "d")
        await until(pilot, lambda: "Drop gemma" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: "models answer" not in screen_text(app))
        await until(pilot, lambda: "21.4 tok/s · first text" in screen_text(app))
        assert isinstance(app.screen, ChatPage)
        assert [talk.chosen for talk in app.screen.talks] == [QWEN]


async def test_three_models_are_the_most() -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        await until(pilot, lambda: "Write to try" in screen_text(app))
        for name in ("gemma", "phi"):
            await pilot.press("a", *name, "enter")
        await until(pilot, lambda: "3 models answer" in screen_text(app))
        assert "Add model" not in screen_text(app)
        # A click or a key chooses the model for m.
        await pilot.press("[", "[", "m", *"32b", "enter")
        await until(pilot, lambda: "▸ qwen3-32b-q4_k_m" in screen_text(app))
        assert isinstance(app.screen, ChatPage)
        assert [talk.chosen for talk in app.screen.talks] == ["qwen3-32b-q4_k_m", GEMMA, PHI]

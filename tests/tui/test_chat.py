"""The Chat page: its keys and its conversation."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from textual import events
from textual.widgets import Input, TextArea

from cyber_inference_tui.errors import ModelLoadError, NoLlamaServerError
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.widgets.message_input import MessageInput
from cyber_inference_tui.tui.widgets.text_view import TextView
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, empty_world, model

on_page = partial(running, first_page="chat")

QWEN = "qwen3-4b-q4_k_m"


async def opened(pilot: Any, app: Any) -> None:
    """Open the page, with a model chosen."""
    if app.current_mode != "chat":
        await pilot.press("6")
    await until(pilot, lambda: "You" in screen_text(app) or "Write to try" in screen_text(app))


async def sent(pilot: Any, app: Any, text: str = "hello") -> None:
    """Open the page and send a message; the cursor stays in the line."""
    await opened(pilot, app)
    await pilot.press("enter", *text, "enter")
    await until(pilot, lambda: "Write to try" not in screen_text(app))


def footer(app: Any) -> str:
    """Return the line of keys."""
    return screen_text(app).splitlines()[-1]


async def test_a_message_is_sent_and_answered() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        assert "Copy" not in footer(app)
        await sent(pilot, app)
        await until(pilot, lambda: "Hello there, I am small." in screen_text(app))
        assert client.calls == [("chat", QWEN, [{"role": "user", "content": "hello"}], {})]
        assert "3 tokens · 21.4 tok/s · first text after" in screen_text(app)
        assert app.screen.query_one(MessageInput).text == ""
        await pilot.press(*"more", "enter")
        await until(pilot, lambda: len(client.calls) == 2)
        assert client.calls[1][2] == [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Hello there, I am small."},
            {"role": "user", "content": "more"},
        ]
        # The last answer is copied.
        await until(pilot, lambda: screen_text(app).count("I am small") == 2)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "Copied the answer (24 characters)" in screen_text(app))
        assert app.clipboard == "Hello there, I am small."
        # The conversation is cleared after a question.
        await pilot.press("escape", "x")
        await until(pilot, lambda: "Clear the conversation?" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "I am small" in screen_text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "Clear the conversation?" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: "Write to try" in screen_text(app))


async def test_an_answer_grows_as_it_comes() -> None:
    client = FakeClient(busy_world())
    client.chat_pace.clear()
    async with on_page(client) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "answering" in screen_text(app))
        assert "Hello" in screen_text(app)
        assert "I am small" not in screen_text(app)
        assert "Stop" in footer(app)
        await pilot.press(*"next", "enter")
        await until(pilot, lambda: "Wait for the answer" in screen_text(app))
        assert app.screen.query_one(MessageInput).text == "next"
        client.chat_pace.set()
        await until(pilot, lambda: "I am small" in screen_text(app))
        await until(pilot, lambda: "answering" not in screen_text(app))
        assert len(client.calls) == 1


async def test_escape_stops_an_answer_and_ends_its_request() -> None:
    client = FakeClient(busy_world())
    client.chat_pace.clear()
    async with on_page(client) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "answering" in screen_text(app))
        assert client.chats_open == 1
        await pilot.press("escape")
        await until(pilot, lambda: client.chats_open == 0)
        await until(pilot, lambda: "stopped" in screen_text(app))
        assert "Hello" in screen_text(app)
        # The next escape leaves the line.
        assert isinstance(app.focused, MessageInput)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, TextView))
        await pilot.press("7")
        await until(pilot, lambda: app.current_mode == "settings")


async def test_what_is_written_and_sent() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        line = app.screen.query_one(MessageInput)
        # Nothing is sent without a text.
        await pilot.press("i", "space", "ctrl+j", "enter")
        await pilot.pause()
        assert not client.calls
        line.text = ""
        # Pasted text is made harmless.
        app.post_message(events.Paste("one\r\ntwo\rthree\x1b]52;c;aGk=\x07"))
        await until(pilot, lambda: "three" in app.screen.query_one(MessageInput).text)
        assert app.screen.query_one(MessageInput).text == "one\ntwo\nthree"
        line.text = ""
        # Enter sends, and ctrl+j makes a new line.
        await pilot.press("a", "ctrl+j", "b", "shift+enter", "c", "enter")
        await until(pilot, lambda: bool(client.calls))
        assert client.calls[0][2][-1]["content"] == "a\nb\nc"
        await until(pilot, lambda: "I am small" in screen_text(app) and not client.chats_open)
        # Digits are written, and open pages once the line is left.
        await pilot.press("1", "q")
        assert app.screen.query_one(MessageInput).text == "1q"
        assert "esc Leave field" in footer(app)
        await pilot.press("escape", "1")
        await until(pilot, lambda: app.current_mode == "dashboard")


async def test_while_a_model_loads_the_wait_is_shown() -> None:
    client = FakeClient(busy_world())
    client.world.answer = ("a", "b")
    client.world.thinking = ()
    async with on_page(client) as (app, _, pilot):
        await opened(pilot, app)
        await pilot.press("m", *"gemma", "enter")
        await until(pilot, lambda: "gemma-3-4b" in screen_text(app).splitlines()[3])
        client.first_piece.clear()
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "loading gemma-3-4b-it-q4_k_m 42%" in screen_text(app))
        client.first_piece.set()
        await until(pilot, lambda: "ab" in screen_text(app))
        assert "42%" not in screen_text(app)


async def test_thinking_is_folded_and_a_key_unfolds_it() -> None:
    world = busy_world()
    world.thinking = ("Let me ", "ponder.")
    async with on_page(world) as (app, client, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "thought  2 tokens" in screen_text(app))
        assert "ponder" not in screen_text(app)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "Let me ponder." in screen_text(app))
        await pilot.press("escape", "t")
        await until(pilot, lambda: "ponder" not in screen_text(app))
        await pilot.press("enter", *"on", "enter")
        await until(pilot, lambda: len(client.calls) == 2)
        assert "ponder" not in str(client.calls)


@pytest.mark.parametrize("key", ["ctrl+r", "r"])
async def test_a_failed_answer_says_why_and_is_tried_again(key: str) -> None:
    client = FakeClient(busy_world())
    client.fail["chat"] = ModelLoadError(
        "The model needs [/more] memory than there is.", hint="See its log.", log_tail=("x",)
    )
    async with on_page(client, size=SMALL) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "needs [/more] memory" in screen_text(app))
        assert "ctrl+r tries again" in screen_text(app)
        client.fail.clear()
        if key == "r":
            await pilot.press("escape")
        await pilot.press(key)
        await until(pilot, lambda: "I am small" in screen_text(app))
        assert "needs [/more] memory" not in screen_text(app)
        assert screen_text(app).count("You") == 1


async def test_without_a_service_the_page_says_so_in_place() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        await pilot.press("enter", *"hi", "enter")
        await until(pilot, lambda: "No service answers at" in screen_text(app))


async def test_the_values_are_sent_with_every_question() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        await pilot.press("s")
        await until(pilot, lambda: "Sampling options" in screen_text(app))
        await pilot.press(*"be short", "tab", *"hot", "ctrl+s")
        await until(pilot, lambda: "temperature has to be a number" in screen_text(app))
        app.screen.query_one("#temperature", Input).value = "0.5"
        await pilot.press("enter")
        await until(pilot, lambda: "system prompt · temperature 0.5" in screen_text(app))
        await pilot.press("enter", *"hi", "enter")
        await until(pilot, lambda: bool(client.calls))
        assert client.calls[0][2][0] == {"role": "system", "content": "be short"}
        assert client.calls[0][3] == {"temperature": 0.5}
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Sampling options" in screen_text(app))
        assert app.screen.query_one("#system", TextArea).text == "be short"
        await pilot.press("escape")
        await until(pilot, lambda: "Sampling options" not in screen_text(app))
        # The model is chosen from a list, with loaded models first.
        await until(pilot, lambda: not client.chats_open)
        await pilot.press("escape")
        await pilot.press("m")
        await until(pilot, lambda: "Chat with" in screen_text(app))
        shown = screen_text(app).split("Chat with")[1]
        assert "nomic-embed" not in shown
        assert shown.index("qwen3-4b") < shown.index("gemma-3-4b") < shown.index("phi-4")
        await pilot.press(*"PHI")
        await until(pilot, lambda: "gemma-3-4b" not in screen_text(app).split("Chat with")[1])
        await pilot.press("enter")
        await until(pilot, lambda: "phi-4-mini" in screen_text(app).splitlines()[3])
        assert isinstance(app.focused, MessageInput)
        await pilot.press("ctrl+o", "up", "down", "down", "escape")
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: len(client.calls) == 2)
        assert client.calls[1][1] == "phi-4-mini-q4_k_m"


async def test_another_page_opens_the_chat_with_a_model() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await app.open_chat("qwen3-32b-q4_k_m")
        await until(pilot, lambda: "is too big" in screen_text(app))
        assert isinstance(app.focused, MessageInput)
        # A model that goes is replaced.
        await app.open_chat("phi-4-mini-q4_k_m")
        await until(pilot, lambda: "phi-4-mini" in screen_text(app))
        client.publish("model", {"id": "phi-4-mini-q4_k_m", "status": None})
        await until(pilot, lambda: QWEN in screen_text(app).splitlines()[3])


async def test_an_answer_is_stopped_before_its_first_word() -> None:
    client = FakeClient(busy_world())
    client.first_piece.clear()
    async with on_page(client) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "waiting for the first word" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: client.chats_open == 0)
        await until(pilot, lambda: "waiting" not in screen_text(app))
        client.first_piece.set()
        await pilot.press(*"on", "enter")
        await until(pilot, lambda: "I am small" in screen_text(app))
        assert client.calls[-1][2] == [{"role": "user", "content": "on"}]


async def test_an_answer_goes_on_while_another_page_is_open() -> None:
    client = FakeClient(busy_world())
    client.chat_pace.clear()
    async with on_page(client) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "answering" in screen_text(app))
        await app.open_model("phi-4-mini-q4_k_m")
        client.chat_pace.set()
        await until(pilot, lambda: client.chats_open == 0)
        await pilot.press("6")
        await until(pilot, lambda: "I am small" in screen_text(app))


async def test_without_a_model_the_page_says_what_to_do() -> None:
    async with on_page(empty_world(), size=SMALL) as (app, _, pilot):
        await until(pilot, lambda: "There is no model to chat with yet." in screen_text(app))
        assert "Write" not in footer(app)
        await pilot.press("enter", "3")
        await until(pilot, lambda: app.current_mode == "hub")


async def test_a_read_only_app_does_not_chat() -> None:
    async with on_page(busy_world(), readonly=True) as (app, client, pilot):
        await until(pilot, lambda: "A read-only app cannot chat" in screen_text(app))
        for word in ("Write", "Model", "Retry", "Sampling", "Clear"):
            assert word not in footer(app)
        await app.open_chat(QWEN)
        await pilot.press("enter", "i", "x", "enter")
        await pilot.pause()
        assert not client.calls


async def test_hostile_text_is_shown_as_it_is() -> None:
    world = busy_world()
    world.answer = ("[/oops] \x1b[2J\x1b]52;c;aGk=\x07 \u202egnp", "漢" * 200, "x" * 500)
    world.models["[b]evil\x1b[2J"] = model("[b]evil\x1b[2J", status=ModelStatus.LOADED)
    async with on_page(world, size=SMALL, charset=ASCII) as (app, _, pilot):
        await opened(pilot, app)
        await pilot.press("enter", *"[/bad]", "enter")
        await until(pilot, lambda: "xxx" in screen_text(app))
        await pilot.press("escape", "g")
        await until(pilot, lambda: "[/oops]" in screen_text(app))
        text = screen_text(app)
        assert "[/bad]" in text
        assert not any(sign in text for sign in "\x1b\x07\u202e")
        await pilot.press("m")
        await until(pilot, lambda: "[b]evil" in screen_text(app))
        assert "\x1b" not in screen_text(app)


async def test_scrolled_up_the_text_stays_and_g_goes_to_its_end() -> None:
    world = busy_world()
    world.answer = tuple(f"line {number}\n" for number in range(60))
    client = FakeClient(world)
    async with on_page(client, size=SMALL) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "60 tokens" in screen_text(app))
        await pilot.press("escape", "g")
        await until(pilot, lambda: "line 59" not in screen_text(app))
        assert "You" in screen_text(app)
        view = app.screen.query_one(TextView)
        await pilot.press("j", "k", "pagedown", "pageup", "up", "down", "space", "home")
        assert not view.following
        await until(pilot, lambda: "G goes to the end" in screen_text(app))
        await pilot.press("G")
        await until(pilot, lambda: "line 59" in screen_text(app))
        assert view.following


async def test_the_answer_follows_another_size_of_the_terminal() -> None:
    world = busy_world()
    world.answer = ("word " * 60,)
    async with on_page(world) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "1 token" in screen_text(app))
        await pilot.resize_terminal(*SMALL)
        await until(
            pilot,
            lambda: (
                max(len(line) for line in screen_text(app).splitlines()) <= 80
                and "1 token" in screen_text(app)
            ),
        )
        assert screen_text(app).count("word") == 60


async def test_an_error_names_a_key_instead_of_a_shell_command() -> None:
    client = FakeClient(busy_world())
    client.fail["chat"] = NoLlamaServerError(
        "There is no llama-server on this machine.",
        hint="`cyber-inference-tui install-llama` gets one.",
    )
    async with on_page(client) as (app, _, pilot):
        await sent(pilot, app)
        await until(pilot, lambda: "i on page 1 gets one." in screen_text(app))
        assert "install-llama" not in screen_text(app)

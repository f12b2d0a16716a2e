"""The Chat page copies, saves, opens and exports conversations."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.tui.pages.chat import saved_chats
from cyber_inference_tui.tui.pages.chat.images import Image
from cyber_inference_tui.tui.pages.chat.page import ChatPage
from cyber_inference_tui.tui.pages.chat.saved_chats import SavedChats
from cyber_inference_tui.tui.pages.chat.transcript import (
    SavedChat,
    SavedTalk,
    SavedTurn,
    conversation_of,
    to_curl,
    to_markdown,
)
from tests.tui.driving import running, screen_text, until
from tests.tui.world import NOW, busy_world

on_page = partial(running, first_page="chat")

CODE = ("Two blocks:\n\n```python\nx = 1\n```\n\nand\n\n", "```sh\nls\nwc\n```\n")


async def asked(pilot: Any, app: Any, *keys: str) -> None:
    """Send a message on the opened page, and leave the field after the answer."""
    await until(pilot, lambda: "You" in screen_text(app) or "Write to try" in screen_text(app))
    await pilot.press("enter", *keys, "enter")
    await until(pilot, lambda: "21.4 tok/s" in screen_text(app))
    await pilot.press("escape")


async def test_a_block_of_code_is_copied_by_its_number() -> None:
    world = busy_world()
    world.answer = CODE
    async with on_page(world) as (app, client, pilot):
        await asked(pilot, app, *"hi")
        await pilot.press("y")
        await until(pilot, lambda: "Copy which block?" in screen_text(app))
        await pilot.press("2", "enter")
        await until(pilot, lambda: "Copied block 2 (2 lines)." in screen_text(app))
        assert app.clipboard == "ls\nwc"
        # A single block is copied at once.
        world.answer = ("```\none\n```",)
        await pilot.press("r")
        await until(pilot, lambda: len(client.calls) == 2 and not client.chats_open)
        await pilot.press("y")
        await until(pilot, lambda: "Copied block 1 (1 line)." in screen_text(app))
        assert app.clipboard == "one"
        await pilot.press("u")
        await until(pilot, lambda: "as a curl command" in screen_text(app))
        assert "http://127.0.0.1:8337/v1/chat/completions" in app.clipboard
        body = app.clipboard.split("<<'END'\n")[1].removesuffix("END\n")
        assert json.loads(body)["messages"] == client.calls[1][2]


async def test_an_opened_conversation_offers_its_code() -> None:
    turn = SavedTurn(question="what", model="m", answer="```\nx\n```")
    async with on_page(busy_world()) as (app, _, pilot):
        await until(pilot, lambda: "Write to try" in screen_text(app))
        assert isinstance(app.screen, ChatPage)
        talk = conversation_of(SavedTalk(model="m", turns=(turn,)))
        await app.screen.replace_talks([("qwen3-4b-q4_k_m", talk)])
        await until(pilot, lambda: "Copy code" in screen_text(app))
        await pilot.press("y")
        await until(pilot, lambda: app.clipboard == "x")


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_a_curl_command_is_what_a_shell_sends(tmp_path: Path) -> None:
    picture = tmp_path / "it's $HOME.png"
    picture.write_bytes(b"data" * 100)
    image = Image("x", "png", 400, str(picture), "ZGF0YQ==")
    text = "cost $5 `id` \\n 'quoted' \"double\" END\nEND\n$(id)"
    # A program in place of curl prints what it gets.
    fake = tmp_path / "curl"
    fake.write_text("#!/bin/sh\ncat\n")
    fake.chmod(0o755)
    for images, url in (((), ""), ((image,), image.url)):
        command = to_curl("http://h:1", "se'cret", {"text": text, "url": url}, images)
        done = subprocess.run(
            ["sh"],
            input=command,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/nowhere"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout)["text"] == text
        assert json.loads(done.stdout)["url"].removeprefix("data:image/png;base64,") == (
            base64.b64encode(picture.read_bytes()).decode() if images else ""
        )


async def test_conversations_are_saved_only_after_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "chats"
    async with on_page(busy_world(), chats_path=folder) as (app, client, pilot):
        await asked(pilot, app, *"hello")
        assert not folder.exists()
        await pilot.press("K")
        await until(pilot, lambda: "are saved in" in screen_text(app))
        await until(pilot, lambda: len(list(folder.glob("*.json"))) == 1)
        (path,) = folder.glob("*.json")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        await asked(pilot, app, *"more")
        await until(pilot, lambda: "more" in path.read_text())
        await pilot.pause()
        # A new conversation leaves the saved one alone, without a loss.
        await pilot.press("x")
        await until(pilot, lambda: "This one is saved" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Write to try" in screen_text(app))
    # The choice is kept.
    async with on_page(busy_world(), chats_path=folder) as (app, client, pilot):
        await until(pilot, lambda: "saved" in screen_text(app))
        await pilot.press("o")
        await until(pilot, lambda: "Saved conversations" in screen_text(app))
        assert "hello" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: screen_text(app).count("I am small") == 2)
        assert "3 tokens · 21.4 tok/s · first text after" in screen_text(app)
        await pilot.press("enter", *"on", "enter")
        await until(pilot, lambda: len(client.calls) == 1 and not client.chats_open)
        assert [one["content"] for one in client.calls[0][2]][::2] == ["hello", "more", "on"]
        await until(pilot, lambda: '"on"' in path.read_text())
        assert len(list(folder.glob("*.json"))) == 1
        await pilot.press("escape", "x")
        await until(pilot, lambda: "This one is saved" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: not path.exists())
        await pilot.press("K")
        await until(pilot, lambda: "saved no longer" in screen_text(app))
        await asked(pilot, app, *"secret")
        assert not list(folder.iterdir())


async def test_a_conversation_is_exported_as_markdown_or_json(tmp_path: Path) -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await asked(pilot, app, *"hello")
        await pilot.press("a", *"gemma", "enter")
        await until(pilot, lambda: len(client.calls) == 2 and not client.chats_open)
        await until(pilot, lambda: screen_text(app).count("I am small") == 2)
        for name in ("chat.md", "chat.json"):
            await pilot.press("e")
            await until(pilot, lambda: "Export the conversation" in screen_text(app))
            app.screen.query_one(Input).value = str(tmp_path / name)
            await pilot.press("enter")
            await until(pilot, lambda name=name: (tmp_path / name).exists())  # type: ignore[misc]
            await until(pilot, lambda: "Export the conversation" not in screen_text(app))
        text = (tmp_path / "chat.md").read_text()
        assert text.startswith("# hello\n\n## You\n\n> hello\n\n## qwen3-4b-q4_k_m\n\nHello there")
        assert text.count("## You") == 1
        assert "## gemma-3-4b-it-q4_k_m" in text
        talks = json.loads((tmp_path / "chat.json").read_text())["talks"]
        assert [talk["turns"][0]["answer"] for talk in talks] == ["Hello there, I am small."] * 2
        # An existing file stays.
        await pilot.press("e")
        await until(pilot, lambda: "Export the conversation" in screen_text(app))
        app.screen.query_one(Input).value = str(tmp_path / "chat.md")
        await pilot.press("enter")
        await until(pilot, lambda: "exists already" in screen_text(app))
        assert (tmp_path / "chat.md").read_text() == text


def chat(question: str) -> SavedChat:
    return SavedChat(
        talks=(
            SavedTalk(model="m", turns=(SavedTurn(question=question, model="m", answer="yes"),)),
        )
    )


def test_the_oldest_saved_conversations_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_chats, "CHATS_KEPT", 3)
    chats = SavedChats(tmp_path)
    for number in range(5):
        chats.save(f"{number}.json", chat(f"question {number}"))
        os.utime(tmp_path / f"{number}.json", (number, number))
    chats.save("9.json", chat("last"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.json", "4.json", "9.json"]
    # A damaged file and one of a later version are not offered.
    (tmp_path / "3.json").write_text("{")
    (tmp_path / "4.json").write_text('{"format": 2, "talks": [{"model": "m"}]}')
    assert [(one.name, one.question) for one in chats.summaries()] == [("9.json", "last")]
    with pytest.raises(CyberError, match="no saved conversation"):
        chats.read("3.json")
    assert chats.new_name(NOW) != chats.new_name(NOW)


def test_a_saved_conversation_is_cleaned_and_keeps_its_figures() -> None:
    turns = (
        SavedTurn(
            question="a\x1b[2J",
            model="m\x1b]0;x\x07",
            answer="b\x1b[2J",
            images=("c\x1b[2J.png",),
            tokens_out=7,
            tokens_per_second=3.5,
            first_text_seconds=0.5,
        ),
        SavedTurn(question="d", model="m", error="no room"),
    )
    talk = conversation_of(SavedTalk(model="m", turns=turns))
    one, failed = talk.turns
    assert (one.question, one.model, one.answer) == ("a", "m", "b")
    assert (one.tokens, one.rate, one.first_seconds) == (7, 3.5, 0.5)
    assert one.images[0].text == "image c.png, not saved"
    assert failed.error == "no room"
    assert talk.messages()[0]["content"] == "a\n[image c.png]"
    text = to_markdown(SavedChat(talks=(SavedTalk(model="m", turns=turns),), system="be short"))
    assert "> be short" in text
    assert "**no room**" in text

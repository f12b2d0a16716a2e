"""Images in messages of the Chat page."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual import events
from textual.widgets import Input

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.tui.pages.chat import conversation, images
from cyber_inference_tui.tui.pages.chat.conversation import Conversation, TurnState
from cyber_inference_tui.tui.pages.chat.images import Image, read_image
from cyber_inference_tui.tui.widgets.message_input import MessageInput, pasted_path
from tests.tui.driving import running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world

on_page = partial(running, first_page="chat")

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 100
QWEN, PHI = "qwen3-4b-q4_k_m", "phi-4-mini-q4_k_m"


def seeing_world() -> Any:
    """Return a world in which one of two models sees images."""
    world = busy_world()
    for name in (QWEN, PHI):
        world.models[name] = msgspec.structs.replace(
            world.models[name], capabilities=("completion", "chat"), vision=name == QWEN
        )
    return world


async def opened(pilot: Any, app: Any) -> None:
    await until(pilot, lambda: "Write to try" in screen_text(app))
    await pilot.press("enter")


async def test_a_pasted_path_is_sent_as_an_image(tmp_path: Path) -> None:
    picture = tmp_path / "my cat.png"
    picture.write_bytes(PNG)
    async with on_page(seeing_world()) as (app, client, pilot):
        await opened(pilot, app)
        app.post_message(events.Paste(f"'{picture}'"))
        await until(pilot, lambda: "image my cat.png PNG 108 B" in screen_text(app))
        assert app.screen.query_one(MessageInput).text == ""
        await pilot.press(*"what", "enter")
        await until(pilot, lambda: len(client.calls) == 1 and not client.chats_open)
        url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        assert client.calls[0][2][0]["content"] == [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "what"},
        ]
        await until(pilot, lambda: "⌫ removes" not in screen_text(app))
        # A model that sees none is asked with the names of earlier images.
        await pilot.press("escape", "m", *"phi", "enter")
        await pilot.press(*"and", "enter")
        await until(pilot, lambda: len(client.calls) == 2 and not client.chats_open)
        assert client.calls[1][2][0]["content"] == "what\n[image my cat.png]"


async def test_an_image_is_added_by_its_path_and_removed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "text.png").write_bytes(b"no image")
    async with on_page(seeing_world()) as (app, _, pilot):
        await until(pilot, lambda: "Write to try" in screen_text(app))
        await pilot.press("p")
        await until(pilot, lambda: "Send an image" in screen_text(app))
        app.screen.query_one(Input).value = str(tmp_path / "text.png")
        await pilot.press("enter")
        await until(pilot, lambda: "is no image" in screen_text(app))
        app.screen.query_one(Input).value = str(tmp_path / "a.png")
        await pilot.press("enter")
        await until(pilot, lambda: "image a.png" in screen_text(app))
        await until(pilot, lambda: isinstance(app.focused, MessageInput))
        await pilot.press("x", "backspace")
        assert "image a.png" in screen_text(app)
        await pilot.press("backspace")
        await until(pilot, lambda: "image a.png" not in screen_text(app))
        # The text of a path that is no image stays a text.
        app.post_message(events.Paste(str(tmp_path / "text.png")))
        await until(pilot, lambda: app.screen.query_one(MessageInput).text.endswith("text.png"))


async def test_a_model_without_a_projector_gets_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    client = FakeClient(seeing_world())
    async with on_page(client) as (app, _, pilot):
        await opened(pilot, app)
        app.post_message(events.Paste(str(tmp_path / "a.png")))
        await until(pilot, lambda: "image a.png" in screen_text(app))
        # Beside one that sees, it says why it does not answer.
        await pilot.press("escape", "a", *"phi", "enter")
        await until(pilot, lambda: "2 models" in screen_text(app))
        await pilot.press("enter", *"what", "enter")
        await until(pilot, lambda: "takes no images" in screen_text(app))
        await until(pilot, lambda: len(client.calls) == 1 and not client.chats_open)
        assert client.calls[0][1] == QWEN
        # Alone, it gets nothing.
        client.set_model(QWEN, vision=False)
        await until(pilot, lambda: not app.snapshot.models[-1].vision)
        app.post_message(events.Paste(str(tmp_path / "a.png")))
        await until(pilot, lambda: str(tmp_path) in app.screen.query_one(MessageInput).text)
        assert len(client.calls) == 1
        # Its path is not asked for.
        await pilot.press("escape", "p")
        await pilot.pause()
        assert "Send an image" not in screen_text(app)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "is WebP, which llama-server cannot read"),
        (b"\x00\x00\x00\x1cftypavif", "is AVIF"),
        (b"%PDF-1.7", "is no image"),
        (b"", "is no image"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(data)
    with pytest.raises(InvalidRequestError, match=says):
        read_image(str(path))


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="no such file"):
        read_image(str(tmp_path / "none.png"))
    with pytest.raises(InvalidRequestError, match="is a directory"):
        read_image(str(tmp_path))
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_image("~nosuchuser/\0.png")
    monkeypatch.setattr(images, "IMAGE_BYTES", 100)
    (tmp_path / "big.png").write_bytes(PNG)
    with pytest.raises(InvalidRequestError, match="larger than 100 B"):
        read_image(str(tmp_path / "big.png"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a/b.png", "/a/b.png"),
        ("  '/a b/c.JPG'\n", "/a b/c.JPG"),
        ("/a\\ b/c.jpeg", "/a b/c.jpeg"),
        ("file:///a%20b/c.gif", "/a b/c.gif"),
        ("~/c.webp", "~/c.webp"),
        ("see /a/b.png", ""),
        ("/a/b.png\n/c.png", ""),
        ("/a/b.txt", ""),
        ("", ""),
    ],
)
def test_the_paths_that_terminals_paste(text: str, path: str) -> None:
    assert pasted_path(text) == path


def test_the_images_of_a_conversation_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "IMAGE_BYTES_KEPT", 250)
    talk = Conversation()
    for number in range(3):
        image = Image("x.png", "png", 100, "/x.png", "eA==")
        talk.begin(f"{number}", "m", 0.0, (image,)).end(TurnState.DONE)
    assert [turn.question for turn in talk.turns] == ["1", "2"]
    again = talk.retry("m", 1.0)
    assert again is not None
    assert again.images

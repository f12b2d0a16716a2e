"""The part of the Chat page that copies, saves, opens and exports conversations."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from textual.binding import Binding, BindingType

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import typed_path
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.text import clean_line, clean_text
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.pages.chat.conversation import Conversation
from cyber_inference_tui.tui.pages.chat.images import takes_images
from cyber_inference_tui.tui.pages.chat.markdown_rows import CodeBlock
from cyber_inference_tui.tui.pages.chat.sampling import Sampling, read_sampling
from cyber_inference_tui.tui.pages.chat.saved_chats import SavedChats, SavedSummary
from cyber_inference_tui.tui.pages.chat.talk import Talk
from cyber_inference_tui.tui.pages.chat.transcript import (
    SavedChat,
    conversation_of,
    saved_chat,
    to_curl,
    to_json,
    to_markdown,
)
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.widgets.live_table import row_of
from cyber_inference_tui.units import age_text, counted

_FILE_LIMIT = 10.0
"""Seconds for reading or writing files."""

_BLOCKS: tuple[Column[tuple[int, CodeBlock], RenderContext], ...] = (
    Column("number", "BLOCK", 5, right=True, value=lambda one: one[0]),
    Column("language", "LANGUAGE", 12, value=lambda one: one[1].language),
    Column("lines", "LINES", 5, right=True, value=lambda one: len(one[1].lines)),
    Column("begins", "BEGINS", least=20, value=lambda one: one[1].text.strip().split("\n")[0]),
)
_SAVED: tuple[Column[SavedSummary, RenderContext], ...] = (
    Column("question", "FIRST QUESTION", least=20, value=lambda one: one.question),
    Column("models", "MODELS", 24, value=lambda one: ", ".join(one.models), priority=1),
    Column("questions", "QUESTIONS", 9, right=True, value=lambda one: one.questions, priority=2),
    Column(
        "age",
        "CHANGED",
        8,
        right=True,
        cell=lambda one, context: age_text(max(0.0, (context.now - one.at).total_seconds())),
    ),
)


KEEPING: list[BindingType] = [
    Binding("c,ctrl+g", "copy", "Copy", id="chat.copy", tooltip="copy the last answer"),
    Binding("y", "copy_code", "Copy code", id="chat.code", tooltip="copy a block of code"),
    Binding("u", "copy_curl", "As curl", id="chat.curl", tooltip="copy the question for a shell"),
    Binding("e", "export", "Export", id="chat.export", tooltip="write Markdown or JSON"),
    Binding("o", "open_saved", "Open", id="chat.open", tooltip="open a saved conversation"),
    Binding("K", "keep", "Save", id="chat.keep", tooltip="save conversations here, or no longer"),
    Binding("x,ctrl+n", "clear", "Clear", id="chat.clear", tooltip="start a new conversation"),
]
"""The bindings of ``KeepingPage``; the page has them after its own."""


class KeepingPage(Page):
    """A page of talks, of which one is ``active``."""

    def __init__(self) -> None:
        super().__init__()
        self.talks: list[Talk] = []
        """The talks, from left to right."""
        self._sampling = Sampling()
        self._chats: SavedChats | None = None
        self._saving = False
        self._saved_as = ""
        """The name of the file of this chat, once it is saved."""
        self._unsaved = False
        """A question was asked since it was saved or opened."""

    @property
    def active(self) -> Talk:
        """The talk that the keys act on."""
        raise NotImplementedError

    async def replace_talks(self, talks: list[tuple[str, Conversation]]) -> None:
        """Show these conversations instead, each with the id of its model."""
        raise NotImplementedError

    def begin_keeping(self) -> None:
        """Find out whether conversations are saved."""
        if (folder := self.cyber.options.chats_path) is not None:
            self._chats = SavedChats(folder)
            self.run_worker(self._told(self._look()), group="chats")

    async def _look(self) -> None:
        if self._chats is not None and await in_time(self._chats.is_on):
            self._saving = True
            self.redraw()

    @property
    def saving(self) -> bool:
        """Whether conversations are saved."""
        return self._saving

    def is_possible(self, action: str) -> bool:
        """Return whether one of these actions is available now; it is asked for each key."""
        match action:
            case "copy":
                return bool(self._last_answer)
            case "copy_code":
                return bool(self.active.code_blocks)
            case "copy_curl":
                return bool(self.active.conversation.turns)
            case "export":
                return self._has_turns
            case "open_saved":
                return self._chats is not None and not self.answering
            case "keep":
                return self._chats is not None
            case "clear":
                return self._has_turns and not self.answering
        return True

    @property
    def answering(self) -> bool:
        """Whether a model answers."""
        return any(talk.turn is not None for talk in self.talks)

    @property
    def _has_turns(self) -> bool:
        return any(talk.conversation.turns for talk in self.talks)

    # Copying

    @property
    def _last_answer(self) -> str:
        turns = self.active.conversation.turns
        return next((turn.answer for turn in reversed(turns) if turn.answer), "")

    def action_copy(self) -> None:
        """Copy the last answer to the clipboard."""
        text = self._last_answer.strip()
        self.app.copy_to_clipboard(text)
        self.cyber.show_message(f"Copied the answer ({len(text):,} characters).")

    def action_copy_code(self) -> None:
        """Copy the block of code of the last answer; one of several is chosen by its number."""
        blocks = self.active.code_blocks

        def chosen(key: str | None) -> None:
            if key is not None:
                block = blocks[int(key) - 1]
                self.app.copy_to_clipboard(block.text)
                lines = counted(len(block.lines), "line")
                self.cyber.show_message(f"Copied block {key} ({lines}).")

        if len(blocks) < 2:
            chosen("1" if blocks else None)
            return
        context = self.cyber.options.render_context()
        numbered = [(str(number), (number, block)) for number, block in enumerate(blocks, 1)]
        self._choose("Copy which block?", _BLOCKS, numbered, context, chosen)

    def _choose(
        self,
        title: str,
        columns: tuple[Column[Any, RenderContext], ...],
        records: list[tuple[str, Any]],
        context: RenderContext,
        chosen: Callable[[str | None], None],
    ) -> None:
        rows = [row_of(key, record, columns, context) for key, record in records]
        self.app.push_screen(ChoiceDialog(title, columns, rows, charset=context.charset), chosen)

    def action_copy_curl(self) -> None:
        """Copy the command that sends the last question as the app did."""
        talk = self.active
        last = talk.conversation.last
        if last is None:
            return
        model = self.cyber.snapshot.model(last.model)
        sees = model is None or takes_images(model)
        turns = talk.conversation.turns
        images = [image for turn in turns for image in turn.images if image.data and sees]
        body = {
            "model": last.model,
            **self._sampling.values(),
            "messages": talk.conversation.messages(self._sampling.system, images=sees),
        }
        self.app.copy_to_clipboard(to_curl(self.client.url, self.client.api_key, body, images))
        hidden = ", with the API key" if self.client.api_key else ""
        self.cyber.show_message(f"Copied the last question as a curl command{hidden}.")

    # Files

    def _chat(self) -> SavedChat:
        talks = [(talk.chosen or "", talk.conversation) for talk in self.talks]
        return saved_chat(talks, self._sampling)

    def note_question(self) -> None:
        """Remember that there is something to lose."""
        self._unsaved = True

    def save_chat(self) -> None:
        """Save the conversations, if the person wants that."""
        chats = self._chats
        if chats is None or not self._saving or not self._has_turns:
            return
        name = self._saved_as or chats.new_name(self.cyber.options.now())
        self._saved_as = name

        async def save() -> None:
            await in_time(chats.save, name, self._chat())
            self._unsaved = False

        self.cyber.do(save(), group="chats")

    def action_keep(self) -> None:
        """Save conversations from now on, or no longer."""
        chats = self._chats
        if chats is None:
            return
        on = not self._saving

        async def switch() -> None:
            await in_time(lambda: chats.switch(on=on))
            self._saving = on
            if on:
                self.save_chat()
            self.redraw()
            self.refresh_bindings()

        done = (
            f"Conversations are saved in {chats.folder} from now on. K ends that."
            if on
            else "Conversations are saved no longer. o opens the saved ones."
        )
        self.cyber.do(switch(), done=done, group="chats")

    def action_open_saved(self) -> None:
        """Choose a saved conversation and show it."""
        chats = self._chats
        if chats is None:
            return

        async def show() -> None:
            found = await in_time(chats.summaries)
            if not found:
                self.cyber.show_message("No conversation is saved. K saves them from now on.")
                return
            context = self.cyber.options.render_context()
            records = [(one.name, one) for one in found]
            self._choose("Saved conversations", _SAVED, records, context, chosen)

        def chosen(name: str | None) -> None:
            if name is not None:
                self._unless_lost("Open another conversation?", lambda: self._open(name))

        self.keep_keys(self.run_worker(self._told(show()), group="chats"))

    async def _told(self, work: Any) -> None:
        try:
            await work
        except CyberError as error:
            self.cyber.show_message(str(error), "error")

    def _open(self, name: str) -> None:
        chats = self._chats
        if chats is None:
            return

        async def show() -> None:
            chat = await in_time(chats.read, name)
            values = {key: f"{value}" for key, value in chat.sampling.items()}
            self._sampling = read_sampling(clean_text(chat.system), values)
            await self.replace_talks(
                [(clean_line(talk.model, limit=200), conversation_of(talk)) for talk in chat.talks]
            )
            self._saved_as, self._unsaved = name, False

        self.cyber.do(show(), group="chats")

    def action_export(self) -> None:
        """Write the conversations to a file, after asking for its path."""
        name = f"chat-{self.cyber.options.now():%Y-%m-%d-%H%M}.md"
        self.app.push_screen(
            Prompt(
                "Export the conversation",
                "A new file on the machine of this app. A name with .json gets JSON, "
                "any other one Markdown.",
                self._export,
                value=os.path.expanduser(f"~/{name}"),  # noqa: PTH111 - without a home: as it is
            )
        )

    async def _export(self, text: str) -> None:
        chat = self._chat()

        def write() -> str:
            path = typed_path(text)
            data = to_json(chat) if path.suffix == ".json" else to_markdown(chat).encode()
            with path.open("xb") as file:
                file.write(data)
            return str(path)

        try:
            path = await in_time(write)
        except FileExistsError:
            raise CyberError(f"{text} exists already. Choose another name.") from None
        except OSError as error:
            reason = (error.strerror or "the file cannot be written").lower()
            raise CyberError(f"Not exported: {reason}. Choose another path.") from error
        self.cyber.show_message(f"Exported to {path}.")

    # Clearing

    def action_clear(self) -> None:
        """Start a new conversation after a question."""
        if not self._saved_as:
            self._unless_lost("Clear the conversation?", self._clear)
            return

        def answered(value: str | None) -> None:
            if value == "delete" and self._chats is not None:
                deleted = in_time(self._chats.delete, self._saved_as)
                self.cyber.do(deleted, done="The saved conversation is deleted.", group="chats")
            if value in {"clear", "delete"}:
                self._clear()

        self.app.push_screen(
            Question(
                "Start a new conversation?",
                "What was said since it was saved is stored nowhere else."
                if self._unsaved
                else "This one is saved: o opens it again.",
                (
                    Answer("clear", "c", "Start a new one"),
                    Answer("keep", "k", "Keep this one"),
                    Answer("delete", "d", "Delete this one", destructive=True),
                ),
            ),
            answered,
        )

    def _unless_lost(self, title: str, then: Callable[[], None]) -> None:
        """Call ``then``; ask before if a conversation would be lost."""
        count = sum(len(talk.conversation.turns) for talk in self.talks)
        if not count or not self._unsaved:
            then()
            return
        self.ask_to_lose(title, count, then)

    def ask_to_lose(self, title: str, count: int, then: Callable[[], None]) -> None:
        """Call ``then`` if the person agrees to lose ``count`` questions."""

        def answered(value: str | None) -> None:
            if value == "clear":
                then()

        what = "question and its answer" if count == 1 else f"{count} questions and their answers"
        self.app.push_screen(
            Question(
                title,
                f"The {what} are stored nowhere else.",
                (
                    Answer("keep", "k", "Keep it"),
                    Answer("clear", "c", "Clear it", destructive=True),
                ),
            ),
            answered,
        )

    def _clear(self) -> None:
        for talk in self.talks:
            talk.clear()
        self._saved_as, self._unsaved = "", False
        self.refresh_bindings()


async def in_time(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of work on files, in a thread."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(work, *arguments), _FILE_LIMIT)
    except TimeoutError:
        raise CyberError(f"The disk did not answer for {_FILE_LIMIT:g} s.") from None

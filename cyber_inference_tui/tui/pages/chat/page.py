"""The Chat page: try models over the same endpoint as any client, up to three at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import DescendantBlur, DescendantFocus
from textual.timer import Timer
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.pages.chat import markdown
from cyber_inference_tui.tui.pages.chat.conversation import Conversation
from cyber_inference_tui.tui.pages.chat.images import (
    IMAGES,
    Image,
    blind_text,
    read_image,
    takes_images,
)
from cyber_inference_tui.tui.pages.chat.keeping import KEEPING, KeepingPage, in_time
from cyber_inference_tui.tui.pages.chat.model_choice import (
    COLUMNS,
    chat_models,
    model_rows,
    talks_content,
    title_content,
)
from cyber_inference_tui.tui.pages.chat.rows import talk_word
from cyber_inference_tui.tui.pages.chat.sampling import Sampling
from cyber_inference_tui.tui.pages.chat.sampling_form import SamplingForm
from cyber_inference_tui.tui.pages.chat.talk import Talk, fastest_of
from cyber_inference_tui.tui.pages.models.favourites import favourites
from cyber_inference_tui.tui.pages.models.sentences import unreadable_text
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import EVERYWHERE, Snapshot
from cyber_inference_tui.tui.widgets.message_input import MessageInput
from cyber_inference_tui.tui.widgets.text_line import TEXT_CHARACTERS
from cyber_inference_tui.tui.widgets.text_view import TextView

PAINTS = 8
"""Updates per second of a growing answer."""
TALKS = 3
"""Models that can be asked at once."""


class ChatPage(KeepingPage):
    """Shows a conversation with each chosen model above the message field.

    Keys act on the active one. A message goes to all. On a narrow screen only the active one is
    shown. ``clock`` returns monotonic seconds.
    """

    MODE: ClassVar[str] = "chat"
    CSS_PATH = "page.tcss"
    STEERING: ClassVar[frozenset[str]] = frozenset(
        {
            *("write", "stop", "model", "add", "drop", "retry", "sampling", "clear", "image"),
            *("keep", "open_saved"),
        }
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,i", "write", "Write", id="chat.write", tooltip="write a message"),
        Binding("escape", "stop", "Stop", id="chat.stop", tooltip="stop the answer"),
        Binding(
            "escape", "leave", "Leave field", id="chat.leave", tooltip="make letters keys again"
        ),
        Binding("m,ctrl+o", "model", "Model", id="chat.model", tooltip="choose another model"),
        Binding("a", "add", "Add model", id="chat.add", tooltip="ask another model as well"),
        Binding("d", "drop", "Drop model", id="chat.drop", tooltip="ask this model no longer"),
        Binding("],f3", "next(1)", "Next model", key_display="]", id="chat.next"),
        Binding("[", "next(-1)", "Previous model", show=False, id="chat.previous"),
        Binding(
            "r,ctrl+r", "retry", "Retry", id="chat.retry", tooltip="ask the last question again"
        ),
        Binding(
            "t,ctrl+t",
            "thinking",
            "Thinking",
            id="chat.thinking",
            tooltip="show or hide the model's thinking",
        ),
        Binding(
            "p", "image", "Image", id="chat.image", tooltip="send an image with the next message"
        ),
        Binding(
            "s,ctrl+s",
            "sampling",
            "Sampling",
            id="chat.sampling",
            tooltip="system prompt, temperature and more",
        ),
        *KEEPING,
    ]

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self.talks = [self._talk(None)]
        self._active = 0
        self._images: tuple[Image, ...] = ()
        """The images of the next message."""
        self._prepared = False
        self._timer: Timer | None = None

    def body(self) -> ComposeResult:
        """Compose the title, the first talk, the images and the message field."""
        with Vertical(classes="body"):
            yield Static(id="title")
            with Horizontal(id="talks"):
                yield from self.talks
            yield Static(id="images")
            yield MessageInput(placeholder="message; enter sends it", id="message")

    def _talk(self, model_id: str | None, conversation: Conversation | None = None) -> Talk:
        return Talk(model_id, self._clock, conversation)

    def on_mount(self) -> None:
        """Focus the conversation, so that numbers open pages."""
        self.begin_keeping()
        self._mark_active()
        self.active.view.focus()
        self._timer = self.set_interval(1 / PAINTS, self._paint, pause=True)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the titles; a conversation is drawn when it changes."""
        for talk in self.talks:
            if talk.chosen is None or (snapshot.live and snapshot.model(talk.chosen) is None):
                found = chat_models(snapshot.models) or chat_models(snapshot.elsewhere)
                talk.chosen = next((model.id for model in found), None)
        self._show_message(self._model is not None and not self.cyber.options.readonly)
        self._show_title()
        self._paint()

    def _show_title(self) -> None:
        talks, options = self.talks, self.cyber.options
        if len(talks) > 1 and not self.has_class("-wide"):
            names = [(talk.chosen or "", talk_word(talk.conversation.last)) for talk in talks]
            content = talks_content(names, self._active, self.size.width - 4, options.charset)
        else:
            content = title_content(
                self._model, self._sampling, options.charset, len(talks), saving=self.saving
            )
        update_static(self.query_one("#title", Static), content)

    def _show_message(self, shown: bool) -> None:
        message = self.query_one(MessageInput)
        shown = shown or message.has_focus  # a message that is being written stays
        if message.display != shown:
            message.display = shown
            self.refresh_bindings()

    @property
    def active(self) -> Talk:
        """The talk that the keys act on."""
        talks = self.talks
        return talks[min(self._active, len(talks) - 1)]

    @property
    def _model(self) -> ModelRecord | None:
        return self.active.model

    def chosen(self) -> ModelRecord | None:
        """Return the model to chat with."""
        return self._model

    def choose(self, model_id: str) -> None:
        """Choose this model and focus the message field."""
        self.active.chosen = model_id
        self.redraw()
        self.action_write()

    # Drawing

    def _paint(self) -> None:
        """Draw the conversations."""
        if not self.is_current:
            return
        talks = self.talks
        fastest = None if self.answering else fastest_of(talks)
        for talk in talks:
            talk.paint(fastest=talk is fastest)
        if len(talks) > 1 and not self.has_class("-wide"):
            self._show_title()

    def _mark_active(self) -> None:
        talks = self.talks
        self._active = min(self._active, len(talks) - 1)
        self.query_one("#talks").set_class(len(talks) > 1, "-several")
        for number, talk in enumerate(talks):
            talk.set_class(number == self._active, "-active")
            talk.set_class(len(talks) == 1, "-alone")

    @on(DescendantFocus)
    @on(DescendantBlur)
    def _focus_changed(self) -> None:
        talk = self.focused.parent if isinstance(self.focused, TextView) else None
        if isinstance(talk, Talk) and talk in self.talks:
            self._activate(self.talks.index(talk))
        self.refresh_bindings()

    def _activate(self, number: int) -> None:
        if number != self._active:
            self._active = number
            self._mark_active()
            self._changed()
            self.call_after_refresh(self._paint)  # it may have been hidden

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return super().check_action(action, parameters)
        return super().check_action(action, parameters) if self.is_possible(action) else False

    def is_possible(self, action: str) -> bool:
        """Return whether an action of the page is available now."""
        match action:
            case "write":
                return self._model is not None and not self._writing
            case "stop":
                return self.answering
            case "leave":
                return self._writing
            case "model":
                return self._model is not None and self.active.turn is None
            case "add":
                return self._model is not None and len(self.talks) < TALKS
            case "drop" | "next":
                return len(self.talks) > 1
            case "retry":
                return bool(self._to_retry())
            case "thinking":
                turns = (turn for talk in self.talks for turn in talk.conversation.turns)
                return any(turn.thinking for turn in turns)
            case "image":
                return self._model is not None and len(self._images) < IMAGES
            case "sampling":
                return self._model is not None
        return super().is_possible(action)

    @property
    def _writing(self) -> bool:
        return isinstance(self.focused, MessageInput)

    # Asking

    def action_write(self) -> None:
        """Focus the message field."""
        if self._model is not None and not self.cyber.options.readonly:
            self.screen.set_focus(self.query_one(MessageInput))

    def action_leave(self) -> None:
        """Leave the message field, so that letters are keys again."""
        self.screen.set_focus(self.active.view)

    @on(MessageInput.Sent)
    def _send(self) -> None:
        message = self.query_one(MessageInput)
        text = message.text.strip()
        if not (text or self._images) or self._model is None or self.cyber.options.readonly:
            return
        if self.answering:
            self.cyber.show_message("Wait for the answer, or press esc to stop it.", "warning")
        elif len(text) > TEXT_CHARACTERS:
            self.cyber.show_message(
                f"A message may have at most {TEXT_CHARACTERS:,} characters.", "warning"
            )
        elif self._images and not self._sees:
            self.cyber.show_message(blind_text(self.active.chosen or ""), "warning")
        else:
            message.clear()
            images, self._images = self._images, ()
            self._show_images()
            for talk in self.talks:
                talk.ask(text, images, self._sampling)
            self._asked()

    def _asked(self) -> None:
        """Draw the answers that come."""
        self.note_question()
        if not self._prepared:
            self._prepared = True
            # Imported now, so that the first answer does not delay a key.
            self.run_worker(asyncio.to_thread(markdown.prepare), exit_on_error=False)
        self._changed()

    @on(Talk.Ended)
    def _ended(self) -> None:
        if self.is_mounted:
            self._changed()
            self.save_chat()

    def _changed(self) -> None:
        """Draw the page; answers that grow are drawn by the timer."""
        if self._timer is not None:
            (self._timer.resume if self.answering else self._timer.pause)()
        self._paint()
        self.refresh_bindings()

    def action_stop(self) -> None:
        """Stop the answers."""
        for talk in self.talks:
            talk.stop()

    def _to_retry(self) -> list[Talk]:
        """Return the talks whose answers failed, else the active one."""
        idle = [talk for talk in self.talks if talk.turn is None and talk.conversation.turns]
        failed = [talk for talk in idle if (last := talk.conversation.last) and last.error]
        return failed or [talk for talk in idle if talk is self.active]

    def action_retry(self) -> None:
        """Ask the last question again."""
        for talk in self._to_retry():
            talk.retry(self._sampling)
        self._asked()

    def action_thinking(self) -> None:
        """Show or hide the model's thinking."""
        unfolded = not self.active.unfolded
        for talk in self.talks:
            talk.unfold(unfolded=unfolded)

    # Models

    def _choose_model(self, title: str, first: str | None, chosen: Callable[[str], None]) -> None:
        """Let the user choose a model; the cursor begins at ``first``."""

        def checked(model_id: str | None) -> None:
            model = None if model_id is None else self.cyber.snapshot.model(model_id)
            if model is None:
                return
            if reason := unreadable_text(model):
                self.cyber.show_message(reason, "warning")
            else:
                chosen(model.id)

        options = self.cyber.options
        models = self.cyber.snapshot.models_of(EVERYWHERE)
        context = replace(options.render_context(), favourites=favourites(self))
        rows, charset = model_rows(models, context), options.charset
        dialog = ChoiceDialog(title, COLUMNS, rows, chosen=first, charset=charset)
        self.app.push_screen(dialog, checked)

    def action_model(self) -> None:
        """Choose another model."""
        self._choose_model("Chat with", self.active.chosen, self.choose)

    def action_add(self) -> None:
        """Choose a model to ask as well; it answers the last question at once."""
        asked = {talk.chosen for talk in self.talks}
        names = (one.id for one in chat_models(self.cyber.snapshot.models_of(EVERYWHERE)))
        other = next((name for name in names if name not in asked), None)
        self._choose_model(
            "Also ask", other, lambda model_id: self._keeping_keys(self._add(model_id))
        )

    async def _add(self, model_id: str) -> None:
        # It knows what was said before, so that the answers can be compared.
        turns = self.active.conversation.turns
        talk = self._talk(model_id, Conversation(turns[:-1]))
        await self.query_one("#talks").mount(talk)
        self._active = len(self.talks)
        self.talks.append(talk)
        self._mark_active()
        if not self._writing:
            talk.view.focus()
        if turns:
            talk.ask(turns[-1].question, turns[-1].images, self._sampling)
            self._asked()
        self.redraw()

    def action_drop(self) -> None:
        """Remove the active talk."""
        talk = self.active

        def drop() -> None:
            self._keeping_keys(self._remove(talk))

        if count := len(talk.conversation.turns):
            self.ask_to_lose(f"Drop {talk.chosen}?", count, drop)
        else:
            drop()

    async def _remove(self, talk: Talk) -> None:
        talk.stop()
        self.talks.remove(talk)
        await talk.remove()
        self._mark_active()
        if not self._writing:
            self.active.view.focus()
        self.redraw()
        self._changed()

    def _keeping_keys(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry out ``work`` before the next keys."""
        self.keep_keys(self.run_worker(work))

    async def replace_talks(self, talks: list[tuple[str, Conversation]]) -> None:
        """Show these conversations instead, each with the id of its model."""
        self._active = 0
        old = self.talks
        self.talks = [self._talk(model_id, known) for model_id, known in talks[:TALKS]]
        await self.query_one("#talks").mount(*self.talks)
        for talk in old:
            await talk.remove()
        self._mark_active()
        self.active.view.focus()
        self.redraw()
        self._changed()

    def action_next(self, step: int) -> None:
        """Make the next or the previous talk the active one."""
        self._activate((self._active + step) % len(self.talks))
        if not self._writing:
            self.call_after_refresh(self.active.view.focus)

    # Images and options

    @property
    def _sees(self) -> bool:
        """Whether a chosen model takes images."""
        return any(talk.model is not None and takes_images(talk.model) for talk in self.talks)

    def action_image(self) -> None:
        """Ask for the path of an image."""
        if not self._sees:
            self.cyber.show_message(blind_text(self.active.chosen or ""), "warning")
            return
        self.app.push_screen(
            Prompt(
                "Send an image with the next message",
                "The path of a PNG, JPEG, GIF or BMP file on the machine of this app. "
                "You can also paste a path, or drop a file, into the message.",
                self._add_image,
                placeholder="~/picture.png",
            )
        )

    async def _add_image(self, path: str) -> None:
        if not self._sees:
            raise CyberError(blind_text(self.active.chosen or ""))
        if len(self._images) >= IMAGES:
            raise CyberError(f"A message may have at most {IMAGES} images.")
        self._images = (*self._images, await in_time(read_image, path))
        self._show_images()
        self.action_write()

    @on(MessageInput.PathPasted)
    def _path_pasted(self, event: MessageInput.PathPasted) -> None:
        async def attach() -> None:
            try:
                await self._add_image(event.path)
            except CyberError as error:
                self.cyber.show_message(str(error), "warning")
                self.query_one(MessageInput).insert(event.text)

        self._keeping_keys(attach())

    @on(MessageInput.Emptied)
    def _image_removed(self) -> None:
        self._images = self._images[:-1]
        self._show_images()

    def _show_images(self) -> None:
        line = self.query_one("#images", Static)
        line.display = bool(self._images)
        names = "   ".join(image.text for image in self._images)
        sign = self.cyber.options.charset.key("⌫")
        update_static(line, Content.assemble((names, ""), (f"   {sign} removes", "$text-muted")))
        self.refresh_bindings()

    def action_sampling(self) -> None:
        """Edit the options that are sent with every question."""

        def saved(sampling: Sampling | None) -> None:
            if sampling is not None:
                self._sampling = sampling
                self.redraw()

        self.app.push_screen(SamplingForm(self._sampling), saved)

"""The form for a model's own settings in the configuration file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import msgspec
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from cyber_inference_tui.client.service_client import model_key
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    ModelDetails,
    ModelSettingRecord,
    SettingEffect,
    endpoints,
    queries,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.models.form_values import (
    SOURCES,
    Change,
    change_of,
    effect_text,
    setting_text,
    type_hint,
)
from cyber_inference_tui.tui.widgets.text_line import TEXT_CHARACTERS, TextLine

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

CHECK_DELAY = 0.3
"""Seconds without a key until the service checks a value."""


class SettingLine(Vertical):
    """A setting: its name, its input and, below it, the problem of the value."""

    def __init__(self, setting: ModelSettingRecord) -> None:
        super().__init__()
        self.setting = setting
        self.effect = ""
        """Effect of saving the value, if known."""
        self.warns = False
        """The effect deserves a warning."""
        self.problem = ""

    def compose(self) -> ComposeResult:
        """Compose the line."""
        with Horizontal():
            yield Static(self._label(changed=False), classes="label")
            yield TextLine(
                setting_text(self.setting.key, self.setting.value),
                placeholder=placeholder_text(self.setting),
                select_on_focus=False,
                limit=TEXT_CHARACTERS,
            )
        yield Static(classes="problem")

    def _label(self, *, changed: bool) -> Content:
        name = clean_line(self.setting.key, limit=24)
        if changed:
            return Content.styled(f"* {name}", "bold $accent")
        return Content(f"  {name}")

    @property
    def input(self) -> Input:
        """The input."""
        return self.query_one(Input)

    @property
    def changed(self) -> bool:
        """The input differs from the saved value."""
        before = setting_text(self.setting.key, self.setting.value)
        return self.input.value.strip() != before.strip()

    def change(self) -> Change | None:
        """Return the change; raise ``InvalidRequestError`` if the value cannot be parsed."""
        return change_of(self.setting, self.input.value)

    def show_change(self) -> None:
        """Mark the name if the value differs."""
        self.query_one(".label", Static).update(self._label(changed=self.changed))

    def show_result(self, *, problem: str = "", effect: str = "", warns: bool = False) -> None:
        """Show the problem of the value; remember the effect of saving."""
        self.effect, self.warns = effect, warns
        if problem != self.problem:
            self.problem = problem
            text = " ".join(clean_line(line) for line in problem.splitlines())
            below = self.query_one(".problem", Static)
            below.update(Content(text))
            below.display = bool(text)

    def saved(self, change: Change) -> None:
        """Take over the value that was saved."""
        self.setting = msgspec.structs.replace(self.setting, value=change.value)
        self.show_change()
        self.show_result()


class Lines(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The lines of the form; the arrow keys move between them."""

    KEYS_TITLE = "Form"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "Previous line", show=False),
        Binding("down", "app.focus_next", "Next line", show=False),
    ]


class ModelForm(ModalScreen[str | None]):
    """Returns the saved changes in a few words, or ``None`` if there are none."""

    CSS_PATH = "form.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+s", "save", "Save", id="model-form.save", tooltip="write the changes to the file"
        ),
        Binding("escape", "leave", "Cancel", id="model-form.leave", tooltip="leave without saving"),
    ]

    def __init__(self, details: ModelDetails, *, config_path: str = "") -> None:
        super().__init__()
        self._model_id = details.model.id
        self._preset_of = details.model.preset_of
        self._settings = details.settings
        self._config_path = config_path
        self._saving = False

    def compose(self) -> ComposeResult:
        """Compose the lines, the help and the effect of saving."""
        name = clean_line(self._model_id, limit=200)
        table = clean_line(self._key("")[:-1], limit=200)
        where = f" in {clean_line(self._config_path)}" if self._config_path else ""
        with Vertical(id="box"):
            yield Static(Content.styled(f"Settings of {name}", "bold"), id="title")
            yield Static(Content(f"[{table}]{where}"), id="where")
            with Lines(id="lines"):
                for setting in self._settings:
                    yield SettingLine(setting)
            yield Static(id="help")
            yield Static(id="effect")
            cancels = "cancels    an empty line removes its key"
            yield Static(key_hints(("ctrl+s", "saves"), ("esc", cancels)), id="keys")

    def on_mount(self) -> None:
        """Focus the first line."""
        for line in self._lines():
            line.query_one(".problem").display = False
        first = next(iter(self._lines()), None)
        if first is not None:
            first.input.focus()
        self._show_effect()

    def on_resize(self) -> None:
        """Fit the lines into the new size."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        limit_height(self, "#lines", least=3)

    def _key(self, name: str) -> str:
        return model_key(self._model_id, name, self._preset_of)

    def _lines(self) -> list[SettingLine]:
        return list(self.query(SettingLine))

    @property
    def _app(self) -> CyberApp:
        return cast("CyberApp", self.app)

    # Typing

    @on(events.DescendantFocus)
    def _focused(self, event: events.DescendantFocus) -> None:
        line = _line_of(event.widget)
        if line is not None:
            self.query_one("#help", Static).update(help_content(line.setting))
            self.call_after_refresh(self._fit)

    @on(events.DescendantBlur)
    def _blurred(self, event: events.DescendantBlur) -> None:
        line = _line_of(event.widget)
        if line is not None and line.changed:
            self._check_soon(line, delay=0.0)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        line = _line_of(event.input)
        if line is None:
            return
        line.show_change()
        if line.changed:
            self._check_soon(line, delay=CHECK_DELAY)
        else:
            self.workers.cancel_node(line)
            line.show_result()
        self._show_effect()

    @on(Input.Submitted)
    def _next(self) -> None:
        self.focus_next()

    def _check_soon(self, line: SettingLine, *, delay: float) -> None:
        line.run_worker(
            partial(self._check, line, delay),  # type: ignore[arg-type]
            group="check",
            exclusive=True,
            exit_on_error=False,
        )

    async def _check(self, line: SettingLine, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._check_line(line)
        self._show_effect()

    async def _check_line(self, line: SettingLine) -> Change | None:
        """Check a line and show the result; return its change, if it is valid."""
        try:
            change = line.change()
            if change is None:
                line.show_result()
            elif change.unset:
                line.show_result(effect="removed from the file")
            else:
                path = self._key(change.key)
                check = await self._app.client.check_config(path, change.value)
                warns = check.effect not in {SettingEffect.NOW, SettingEffect.NOTHING}
                line.show_result(effect=effect_text(check), warns=warns)
        except CyberError as error:
            line.show_result(problem=str(error))
            return None
        return change

    def _show_effect(self) -> None:
        """Show the effect of saving."""
        changed = [line for line in self._lines() if line.changed]
        effects = [line for line in changed if line.effect and not line.problem]
        if any(line.problem for line in changed):
            text, style = "Correct the values marked in red to save.", "$text-error"
        elif effects:
            text = f"Saving {grouped((line.setting.key, line.effect) for line in effects)}."
            warns = any(line.warns for line in effects)
            style = "$text-warning" if warns else "$text-success"
        else:
            text, style = ("" if changed else "No changes."), "$text-muted"
        self.query_one("#effect", Static).update(Content.styled(clean_line(text), style))
        self.call_after_refresh(self._fit)

    # Saving and leaving

    def action_save(self) -> None:
        """Check all changes, then write them."""
        if not self._saving:
            self._saving = True
            self.run_worker(self._save(), group=OPENING, exit_on_error=True)

    async def _save(self) -> None:
        try:
            saved = await self._write()
        finally:
            self._saving = False
        if saved:
            self.dismiss(saved)

    async def _write(self) -> str:
        """Write the changes if all are valid; return them in words, or "" after an error."""
        changes: list[tuple[SettingLine, Change]] = []
        for line in self._lines():
            self.workers.cancel_node(line)
            if line.changed and (change := await self._check_line(line)) is not None:
                changes.append((line, change))
        wrong = next((line for line in self._lines() if line.changed and line.problem), None)
        saved: list[tuple[str, str]] = []
        if wrong is None and changes and not await self._may_replace(changes):
            return ""
        for line, change in changes if wrong is None else ():
            effect = line.effect
            try:
                await self._put(change)
            except CyberError as error:
                line.show_result(problem=str(error))
                wrong = line
                break
            line.saved(change)
            saved.append((change.key, effect))
        if wrong is not None:
            self.screen.set_focus(wrong.input)
        self._show_effect()
        return "" if wrong is not None else grouped(saved)

    async def _may_replace(self, changes: list[tuple[SettingLine, Change]]) -> bool:
        """Return whether nobody changed the values since the form was opened; else ask."""
        try:
            details = await self._app.client.call(endpoints.DETAILS, self._model_id)
        except CyberError as error:
            changes[0][0].show_result(problem=str(error))
            return False
        now = {setting.key: setting for setting in details.settings}
        changed = [
            (line, now[change.key])
            for line, change in changes
            if now[change.key].value not in (line.setting.value, change.value)
        ]
        if changed:
            self._ask_replace(changed)
        return not changed

    def _ask_replace(self, changed: list[tuple[SettingLine, ModelSettingRecord]]) -> None:
        values = "; ".join(
            f"{new.key} is {clean_line(setting_text(new.key, new.value) or 'not set', limit=100)}"
            for _, new in changed
        )
        answers = (
            Answer("keep", "k", "Keep the new ones"),
            Answer("replace", "r", "Replace them with mine", destructive=True),
        )

        def answered(answer: str | None) -> None:
            for line, new in changed if answer else ():
                line.setting = new
                if answer == "keep":
                    line.input.value = setting_text(new.key, new.value)
            if answer == "replace":
                self.action_save()

        self.app.push_screen(
            Question("Somebody changed these settings meanwhile", f"{values}.", answers), answered
        )

    async def _put(self, change: Change) -> None:
        path = self._key(change.key)
        client = self._app.client
        if change.unset:
            await client.call(endpoints.UNSET_CONFIG, path)
        else:
            await client.call(endpoints.SET_CONFIG, path, body=queries.NewValue(change.value))

    def action_leave(self) -> None:
        """Leave; ask first if changes would be lost."""
        if self._saving:
            return
        typed = [line.setting.key for line in self._lines() if line.changed]
        if not typed:
            self.dismiss(None)
            return

        def answered(value: str | None) -> None:
            if value == "leave":
                self.dismiss(None)

        self.app.push_screen(
            Question(
                "Leave without saving?",
                f"Your changes are lost: {clean_line(', '.join(typed), limit=300)}.",
                (Answer("stay", "s", "Stay"), Answer("leave", "l", "Leave", destructive=True)),
            ),
            answered,
        )


def _line_of(widget: object) -> SettingLine | None:
    if not isinstance(widget, Input):
        return None
    return next((node for node in widget.ancestors if isinstance(node, SettingLine)), None)


def grouped(effects: Iterable[tuple[str, str]]) -> str:
    """Return the keys by the effect of their change."""
    keys: dict[str, list[str]] = {}
    for key, effect in effects:
        keys.setdefault(effect, []).append(clean_line(key, limit=24))
    return "; ".join(f"{', '.join(names)}: {effect}" for effect, names in keys.items())


def placeholder_text(setting: ModelSettingRecord) -> str:
    """Return the grey text of an empty line: the value in effect and its source."""
    if setting.source == "model":
        return "not set"
    value = setting_text(setting.key, setting.effective) or "none"
    source = SOURCES.get(setting.source, clean_line(setting.source, limit=20))
    return f"{clean_line(value, limit=400)}  ({source})"


def help_content(setting: ModelSettingRecord) -> Content:
    """Return what the setting is for, how to type it, and its value in effect."""
    now = setting_text(setting.key, setting.effective) or "none"
    source = SOURCES.get(setting.source, clean_line(setting.source, limit=20))
    return Content.assemble(
        (f"{clean_line(setting.help, limit=400)}\n", ""),
        (f"Type {type_hint(setting)}. ", "$text-muted"),
        (f"Now {clean_line(now, limit=120)} ({source}).", "$text-muted"),
    )

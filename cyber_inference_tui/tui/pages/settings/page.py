"""The Settings page: all settings with their sources, edited with a preview of the effect."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widgets import Input, Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    ConfigCheckRecord,
    ConfigValueRecord,
    SettingEffect,
    endpoints,
    queries,
)
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.editor import run_editor
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.key_table import every_binding
from cyber_inference_tui.tui.keymap import example_text, read_keymap
from cyber_inference_tui.tui.pages.page import SIDE_BY_SIDE, Page, update_static
from cyber_inference_tui.tui.pages.settings.table import (
    COLUMNS,
    GROUP,
    SettingTable,
    effect_text,
    effect_tone,
    setting_help,
    setting_rows,
)
from cyber_inference_tui.tui.setting_text import parse, to_text
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from cyber_inference_tui.tui.widgets.text_line import TEXT_CHARACTERS, TextLine

CHECK_DELAY = 0.3
"""Seconds without a key until the service checks a value."""


class ValueLine(TextLine):
    """The input for a value."""

    KEYS_TITLE = "Value"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Save", id="settings.save", tooltip="write it to the file"),
        Binding(
            "escape", "screen.back", "Cancel", id="settings.leave", tooltip="leave without saving"
        ),
    ]


class SettingsPage(Page):
    """Shows a table of settings, the help of the selected one, and a line to edit it."""

    MODE: ClassVar[str] = "settings"
    CSS_PATH = "page.tcss"
    # The filter must not get the focus: it would take a key for text.
    AUTO_FOCUS = "#table"
    STEERING: ClassVar[frozenset[str]] = frozenset({"edit", "reset", "file", "key_map"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "reset", "Default", id="settings.reset", tooltip="reset to the default"),
        Binding("slash", "filter", "Filter", key_display="/", id="settings.filter"),
        Binding(
            "e",
            "file",
            "Edit file",
            id="settings.file",
            tooltip="edit the settings file in $EDITOR",
        ),
        Binding(
            "a", "api_keys", "API keys", id="settings.api-keys", tooltip="show and create API keys"
        ),
        Binding(
            "t", "app.change_theme", "Theme", id="settings.theme", tooltip="choose the colours"
        ),
        Binding(
            "m", "key_map", "Key map", id="settings.keys", tooltip="change the keys, in $EDITOR"
        ),
        Binding("escape", "back", "Back", show=False, id="settings.back", tooltip="show all again"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[str, ConfigValueRecord] = {}
        self._version = -1
        self._filter = ""
        self._editing: str | None = None
        self._shown_first = ""
        """The text of the line when it was opened."""
        self._replaces: Any = None
        """The value that the line replaces."""
        self._file_edited = False
        """The editor was open, and the service has reported no change of the file since."""
        self._select: str | None = None
        """The setting to select once the settings are there."""
        self._at = 0
        """The row of the setting that was selected last."""

    def body(self) -> ComposeResult:
        """Compose the table, and the help and the line: below it, or beside it on a wide screen."""
        with Vertical(classes="body"):
            yield Static(id="title", classes="heading")
            with Container(id="middle"):
                yield SettingTable(
                    COLUMNS,
                    empty="Waiting for the service.",
                    charset=self.cyber.options.charset,
                    id="table",
                )
                with Vertical(id="pane"):
                    yield Static(id="help")
                    yield ValueLine(id="value", placeholder="value", limit=TEXT_CHARACTERS)
                    yield Static(id="effect")
            yield FilterLine("part of a setting's name or help", id="filter")

    def on_mount(self) -> None:
        """Focus the table."""
        self.query_one("#value").display = False
        self.query_one("#table").focus()

    def on_resize(self) -> None:
        """Arrange the parts for the new size."""
        self.set_class(self.size.width >= SIDE_BY_SIDE, "-beside")
        self.call_after_refresh(self._show_pane)

    def select(self, key: str) -> None:
        """Move the cursor to a setting, and show all settings."""
        self._select = key
        if self._settings:
            self.action_back()
            self._show_table()

    def show(self, snapshot: Snapshot) -> None:
        """Read the settings again when they have changed."""
        if snapshot.live and snapshot.config_version != self._version:
            self._version = snapshot.config_version
            if self._file_edited and snapshot.config_problem:
                self._show_refusal(snapshot.config_problem)
            self._file_edited = False
            reading = self.run_worker(
                self._read(), group="settings", exclusive=True, exit_on_error=False
            )
            if not self._settings:
                self.keep_keys(reading)

    async def _read(self) -> None:
        try:
            settings = await self.client.call(endpoints.CONFIG)
        except CyberError as error:
            self.cyber.show_message(str(error), "error")
            return
        self._settings = {record.key: record for record in settings}
        self._show_table()
        if self._is_outdated:
            self._show_effect("")

    @property
    def _is_outdated(self) -> bool:
        """Somebody changed the value that the line would replace."""
        key = self._editing
        return key is not None and self._settings[key].value != self._replaces

    # Drawing

    def _show_table(self) -> None:
        chosen = [
            record
            for record in self._settings.values()
            if self._has(record, self._filter) and record.key != "models"
        ]
        table = self.query_one("#table", LiveTable)
        table.show_empty("No name or help contains this text. esc shows all settings.")
        table.show(setting_rows(chosen, self.cyber.options.render_context()))
        if self._select is not None and table.move_to(self._select):
            self._select = None
        keys = [row.key for row in table.rows]
        if table.cursor_key is not None and table.cursor_key.startswith(GROUP):
            # Move at once, because the next key is for a setting.
            table.move_to(keys[keys.index(table.cursor_key) + 1])
        snapshot = self.cyber.snapshot
        path = snapshot.status.config_path if snapshot.status else None
        there = "edit the file on the service's machine: " if self.cyber.options.attached else ""
        title = f"  {there}{clean_line(path)}" if path else ""
        if self._filter:
            among = sum(record.key != "models" for record in self._settings.values())
            title += f"   {len(chosen)} of {among}  /{self._filter}"
        content = Content.assemble("SETTINGS", (title, "not bold"))
        update_static(self.query_one("#title", Static), content)
        self._show_pane()
        self.refresh_bindings()

    @staticmethod
    def _has(record: ConfigValueRecord, wanted: str) -> bool:
        text = f"{record.key} {record.help}".casefold()
        return all(word in text for word in wanted.casefold().split())

    def _show_pane(self) -> None:
        record = self._chosen()
        box = self.query_one("#help", Static)
        whole = max(20, box.content_size.width) if self.has_class("-beside") else None
        text = setting_help(record, whole=whole) if record else Content("")
        update_static(box, text, layout=True)

    def _chosen(self) -> ConfigValueRecord | None:
        key = self.query_one("#table", LiveTable).cursor_key
        return self._settings.get(key) if key else None

    @on(LiveTable.RowHighlighted)
    def _highlighted(self, event: LiveTable.RowHighlighted) -> None:
        # The cursor may have moved on since: `select` moves it right after the rows have come.
        keys, key = [row.key for row in event.table.rows], event.table.cursor_key
        if key is None or not key.startswith(GROUP):
            self._at = keys.index(key) if key in keys else 0
        else:
            # Skip a title in the direction of the last move.
            here = keys.index(key)
            step = -1 if here < self._at and here > 0 else 1
            event.table.move_to(keys[here + step])
            return
        self._show_pane()
        self.refresh_bindings()

    @on(LiveTable.RowChosen)
    def _row_chosen(self) -> None:
        # A double click chooses a row even if editing is not available.
        if self.check_action("edit", ()):
            self.action_edit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: not for titles, defaults and remote files."""
        if action == "file" and self.is_mounted and self._config_path() is None:
            return False
        if action in {"edit", "reset"} and self.is_mounted:
            record = self._chosen()
            if record is None or (action == "reset" and record.source != "file"):
                return False
        return super().check_action(action, parameters)

    # Editing one value

    def action_edit(self) -> None:
        """Edit the selected setting."""
        record = self._chosen()
        if record is None or self._editing is not None:
            return
        self._editing, self._replaces = record.key, record.value
        value = self.query_one("#value", Input)
        value.password = record.secret
        value.value = "" if record.secret else to_text(record.value)
        value.display = True
        self.screen.set_focus(value)
        self._shown_first = value.value
        self._show_effect(
            "The secret is not shown. Type a new value to replace it; an empty line keeps it."
            if record.secret
            else "enter saves, esc cancels."
        )

    def _stop_editing(self) -> None:
        self._editing = None
        self.workers.cancel_group(self, "check")
        self.query_one("#value", Input).display = False
        self._show_effect("")
        self.screen.set_focus(self.query_one("#table"))

    @on(Input.Changed, "#value")
    def _typed(self, event: Input.Changed) -> None:
        key = self._editing
        if key is not None and event.value != self._shown_first:
            self.run_worker(
                partial(self._ask, key, event.value),  # type: ignore[arg-type]
                group="check",
                exclusive=True,
                exit_on_error=False,
            )

    async def _ask(self, key: str, text: str) -> None:
        """Show the effect of a value before it is saved."""
        await asyncio.sleep(CHECK_DELAY)
        try:
            check = await self.client.check_config(key, self._parsed(key, text))
        except CyberError as error:
            self._show_effect(str(error), "bad")
        else:
            self._show_effect(effect_text(check), effect_tone(check))

    def _parsed(self, key: str, text: str) -> Any:
        record = self._settings[key]
        return parse(text, record.value if record.default is None else record.default)

    @on(Input.Submitted, "#value")
    def _save(self, event: Input.Submitted) -> None:
        if self._editing is not None and event.value.strip() == self._shown_first.strip():
            self._stop_editing()  # the value is unchanged, or no new secret was typed
        elif self._editing is not None:
            self.workers.cancel_group(self, "check")
            self._start_saving(self._editing, event.value)

    def _start_saving(self, key: str, text: str) -> None:
        self.run_worker(self._set(key, text), group=OPENING, exclusive=True, exit_on_error=False)

    async def _set(self, key: str, text: str) -> None:
        try:
            value = self._parsed(key, text)
            check = await self.client.check_config(key, value)
            settings = await self.client.call(endpoints.CONFIG)
            now = next((one.value for one in settings if one.key == key), None)
            if now not in (self._replaces, value):
                self._ask_replace(key, text, value, now)
                return
            record = await self.client.call(endpoints.SET_CONFIG, key, body=queries.NewValue(value))
        except CyberError as error:
            self._show_effect(str(error), "bad")
            return
        self._settings[key] = record
        if self._editing == key:
            self._stop_editing()
        self._show_table()
        self._take_theme(key, record)
        self.cyber.show_message(f"Saved {key}. {effect_text(check)}")

    def _ask_replace(self, key: str, text: str, value: Any, now: Any) -> None:
        """Ask before a value replaces the one that somebody saved meanwhile."""
        said = f"It is {to_text(now) or 'not set'} now."
        if not self._settings[key].secret:
            said += f" You typed {to_text(value) or 'nothing'}."
        answers = (
            Answer("keep", "k", "Keep the new one"),
            Answer("replace", "r", "Replace it with mine", destructive=True),
        )

        def answered(answer: str | None) -> None:
            if answer == "keep":
                self._stop_editing()
            elif answer == "replace":
                self._replaces = now
                self._start_saving(key, text)

        question = Question(
            f"Somebody changed {key} meanwhile", clean_line(said, limit=400), answers
        )
        self.app.push_screen(question, answered)

    def _show_effect(self, text: str, tone: Tone = "dim") -> None:
        if self._is_outdated and self._editing is not None and tone != "bad":
            now = to_text(self._settings[self._editing].value) or "not set"
            text, tone = f"Somebody changed it: it is {now} now. {text}", "busy"
        style = {"good": "$success", "busy": "$warning", "bad": "$error"}.get(tone, "$text-muted")
        line = clean_line(text.replace("\n", " "), limit=400)
        self.query_one("#effect", Static).update(Content.styled(line, style))

    def action_reset(self) -> None:
        """Reset the setting; ask first if that restarts a model or removes a secret."""
        record = self._chosen()
        if record is not None and record.source == "file":
            self.cyber.do(self._ask_reset(record), group=OPENING)

    async def _ask_reset(self, record: ConfigValueRecord) -> None:
        check = await self.client.check_config(record.key, record.default)
        restarts = check.effect is SettingEffect.RESTARTS_MODELS and bool(check.models)
        if not self.is_current:
            return  # another page or dialog is open by now
        if not (restarts or record.secret):
            await self._unset(record, check)
            return
        secret = "The secret is stored nowhere else. " if record.secret else ""
        text = f"{secret}{effect_text(check)}" if restarts else secret.strip()

        def answered(value: str | None) -> None:
            if value == "reset":
                self.cyber.do(self._unset(record, check), group=OPENING)

        self.app.push_screen(
            Question(
                f"Reset {record.key} to its default?",
                text,
                (
                    Answer("keep", "k", "Keep it"),
                    Answer("reset", "r", "Reset", destructive=True),
                ),
            ),
            answered,
        )

    async def _unset(self, record: ConfigValueRecord, check: ConfigCheckRecord) -> None:
        key = record.key
        self._settings[key] = await self.client.call(endpoints.UNSET_CONFIG, key)
        self._show_table()
        self.refresh_bindings()
        self._take_theme(key, self._settings[key])
        default = to_text(record.default)
        value = f"reset to {default}" if default else "no longer set"
        self.cyber.show_message(f"{key} is {value}. {effect_text(check)}")

    def _take_theme(self, key: str, record: ConfigValueRecord) -> None:
        """Apply a changed theme to this app, if the service is on this machine."""
        name = record.value
        if key == "theme" and not self.cyber.options.attached and name in self.app.available_themes:
            self.app.theme = name

    # The filter, and going back

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterLine).open(self.query_one("#table"))

    @on(FilterLine.Filtered)
    def _filtered(self, event: FilterLine.Filtered) -> None:
        self._filter = event.text
        self._show_table()

    def action_back(self) -> None:
        """Cancel editing, or clear the filter."""
        if self._editing is not None:
            self._stop_editing()
        else:
            self.query_one(FilterLine).clear_filter()

    # The file, the theme and the keys

    def _config_path(self) -> Path | None:
        """Return the configuration file, if it is on this machine."""
        status = self.cyber.snapshot.status
        if status is None or not status.config_path or self.cyber.options.attached:
            return None
        return Path(status.config_path)

    def action_file(self) -> None:
        """Open the configuration file in the user's editor; the service applies changes."""
        path = self._config_path()
        if path is None:
            return
        if not path.is_file():
            self.cyber.show_message(
                f"There is no file {path} on this machine. Change a setting (enter) to create it.",
                "error",
            )
            return
        self._file_edited = True
        try:
            run_editor(self.app, path)
        except CyberError as error:
            self.cyber.show_message(str(error), "error")

    def _show_refusal(self, problem: str) -> None:
        """Show the errors of the edited file with their lines."""
        text = "\n".join(clean_line(line) for line in problem.splitlines()[:20])
        again = Answer("again", "e", "Edit again")
        later = Answer("later", "l", "Later")

        def answered(value: str | None) -> None:
            if value == "again":
                self.action_file()

        asked = Question("The file has errors. The old settings stay in use.", text, (again, later))
        self.app.push_screen(asked, answered)

    def action_api_keys(self) -> None:
        """Show the API keys with names."""
        from cyber_inference_tui.tui.dialogs.api_keys import ApiKeysDialog  # noqa: PLC0415 - seldom

        self.app.push_screen(ApiKeysDialog())

    def action_key_map(self) -> None:
        """Edit the key map in the user's editor."""
        path = self.cyber.options.keymap_path
        if path is None:
            self.cyber.show_message("This app has no key map file.", "warning")
            return
        bindings = every_binding(type(self.app))
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(example_text(bindings), encoding="utf-8")
            run_editor(self.app, path)
        except OSError as error:
            self.cyber.show_message(f"{path}: {error.strerror}.", "error")
            return
        except CyberError as error:
            self.cyber.show_message(str(error), "error")
            return
        keymap = read_keymap(path, (one.id for _, one in bindings if one.id is not None))
        self.app.set_keymap(keymap.keys)
        for problem in keymap.problems:
            self.cyber.show_message(problem, "error")
        if not keymap.problems:
            self.cyber.show_message("The key map is in use.")

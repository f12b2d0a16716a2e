"""All settings: what holds, where it comes from, and changing it with a look before the leap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
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
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.editor import run_editor
from cyber_inference_tui.tui.key_table import every_binding
from cyber_inference_tui.tui.keymap import example_text, read_keymap
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.pages.settings.table import (
    COLUMNS,
    GROUP,
    effect_text,
    effect_tone,
    setting_help,
    setting_rows,
)
from cyber_inference_tui.tui.setting_text import parse, to_text
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of

CHECK_DELAY = 0.3
"""Seconds without a key until the service is asked what a value would do."""


class SettingTable(LiveTable):
    """The settings; enter edits one."""

    KEYS_TITLE = "Settings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Edit", id="settings.edit", tooltip="change the value"),
    ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be edited."""
        if action == "choose":
            return self.screen.check_action("edit", ())
        return super().check_action(action, parameters)


class ValueLine(Input):
    """Where a value is typed."""

    KEYS_TITLE = "Value"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Save", id="settings.save", tooltip="write it to the file"),
        Binding(
            "escape", "screen.back", "Cancel", id="settings.leave", tooltip="leave without saving"
        ),
    ]


class SettingsPage(Page):
    """A table of settings, the help of the chosen one, and a line to edit it in."""

    MODE: ClassVar[str] = "settings"
    CSS_PATH = "page.tcss"
    # No key that comes early may be taken for text.
    AUTO_FOCUS = "#table"
    STEERING: ClassVar[frozenset[str]] = frozenset({"edit", "reset", "file", "key_map"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "reset", "Default", id="settings.reset", tooltip="reset to the default"),
        Binding("slash", "filter", "Filter", key_display="/", id="settings.filter"),
        Binding(
            "e", "file", "Edit file", id="settings.file", tooltip="the file itself, in $EDITOR"
        ),
        Binding("t", "theme", "Theme", id="settings.theme", tooltip="choose the colours"),
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
        self._told = Content("")
        self._shown_first = ""
        """What stood in the line when it was opened."""
        self._file_edited = False
        """The file was opened in the editor, and no change of it has been reported since."""
        self._at = 0
        """The place of the setting that was under the cursor last."""

    def body(self) -> ComposeResult:
        """The table over the pane of the chosen setting."""
        with Vertical(classes="body"):
            yield Static(id="title", classes="heading")
            yield SettingTable(
                COLUMNS,
                empty="Waiting for the service.",
                charset=self.cyber.options.charset,
                id="table",
            )
            with Vertical(id="pane"):
                yield Static(id="help")
                value = ValueLine(id="value", placeholder="value")
                value.cursor_blink = False
                yield value
                yield Static(id="effect")
            yield FilterLine("part of a setting's name or help", id="filter")

    def on_mount(self) -> None:
        """Begin with the table."""
        self.query_one("#value").display = False
        self.query_one("#table").focus()

    def show(self, snapshot: Snapshot) -> None:
        """Read the settings anew when they have changed."""
        if not self._settings and snapshot.problem:
            told = Content.styled(clean_line(snapshot.problem, limit=400), "$text-error")
            self.query_one("#table", LiveTable).show_empty(told)
        if snapshot.live and snapshot.config_version != self._version:
            self._version = snapshot.config_version
            if self._file_edited and snapshot.config_problem:
                self._show_refusal(snapshot.config_problem)
            self._file_edited = False
            self.run_worker(self._read(), group="settings", exclusive=True, exit_on_error=False)

    async def _read(self) -> None:
        try:
            settings = await self.client.call(endpoints.CONFIG)
        except CyberError as error:
            self.cyber.tell(str(error), "error")
            return
        self._settings = {record.key: record for record in settings}
        self._show_table()

    # Drawing

    def _show_table(self) -> None:
        chosen = [
            record
            for record in self._settings.values()
            if self._has(record, self._filter) and record.key != "models"
        ]
        table = self.query_one("#table", LiveTable)
        table.show_empty("No setting has this in its name or help. esc shows all again.")
        table.show(setting_rows(chosen, self.cyber.options.render_context()))
        keys = [row.key for row in table.rows]
        if table.cursor_key is not None and table.cursor_key.startswith(GROUP):
            # At once: a key that comes now is meant for a setting.
            table.move_to(keys[keys.index(table.cursor_key) + 1])
        snapshot = self.cyber.snapshot
        path = snapshot.status.config_path if snapshot.status else None
        there = "edit the file on the service's machine: " if self.cyber.options.attached else ""
        title = f"Settings  {there}{clean_line(path)}" if path else "Settings"
        if self._filter:
            among = sum(record.key != "models" for record in self._settings.values())
            title += f"   {len(chosen)} of {among}  /{self._filter}"
        self.query_one("#title", Static).update(Content(title))
        self._show_pane()
        self.refresh_bindings()

    @staticmethod
    def _has(record: ConfigValueRecord, wanted: str) -> bool:
        told = f"{record.key} {record.help}".casefold()
        return all(word in told for word in wanted.casefold().split())

    def _show_pane(self) -> None:
        record = self._chosen()
        told = setting_help(record) if record else Content("")
        if not told.is_same(self._told):
            self._told = told
            self.query_one("#help", Static).update(told)

    def _chosen(self) -> ConfigValueRecord | None:
        key = self.query_one("#table", LiveTable).cursor_key
        return self._settings.get(key) if key else None

    @on(LiveTable.RowHighlighted)
    def _highlighted(self, event: LiveTable.RowHighlighted) -> None:
        keys = [row.key for row in event.table.rows]
        if event.key is None or not event.key.startswith(GROUP):
            self._at = keys.index(event.key) if event.key in keys else 0
        else:
            # Titles are stepped over, in the direction of the last move.
            here = keys.index(event.key)
            step = -1 if here < self._at and here > 0 else 1
            event.table.move_to(keys[here + step])
            return
        self._show_pane()
        self.refresh_bindings()

    @on(LiveTable.RowChosen)
    def _row_chosen(self) -> None:
        # A double click comes here, whatever the keys may do.
        if self.check_action("edit", ()):
            self.action_edit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No editing of a heading, of a file elsewhere, and no default for what has it already."""
        if action == "file" and self.is_mounted and self._config_path() is None:
            return False
        if action in {"edit", "reset"} and self.is_mounted:
            record = self._chosen()
            if record is None or (action == "reset" and record.source != "file"):
                return False
        return super().check_action(action, parameters)

    # Editing one value

    def action_edit(self) -> None:
        """Open the line for the chosen setting."""
        record = self._chosen()
        if record is None or self._editing is not None:
            return
        self._editing = record.key
        value = self.query_one("#value", Input)
        value.password = record.secret
        value.value = "" if record.secret else to_text(record.value)
        value.display = True
        self.screen.set_focus(value)
        self._shown_first = value.value
        self._show_effect(
            "It is not shown. What is typed takes its place; an empty line leaves it as it is."
            if record.secret
            else "Enter saves, esc leaves it as it is."
        )

    def _stop_editing(self) -> None:
        self._editing = None
        self.workers.cancel_group(self, "check")
        self.query_one("#value", Input).display = False
        self._show_effect("")
        self.screen.set_focus(self.query_one("#table"))

    @on(Input.Changed, "#value")
    def _typed(self, event: Input.Changed) -> None:
        if self._editing is not None and event.value != self._shown_first:
            self.run_worker(
                self._ask(self._editing, event.value),
                group="check",
                exclusive=True,
                exit_on_error=False,
            )

    async def _ask(self, key: str, text: str) -> None:
        """Show what a value would do, before it is saved."""
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
            self._stop_editing()  # nothing was changed; of a secret, nothing was typed
        elif self._editing is not None:
            self.workers.cancel_group(self, "check")
            self.run_worker(
                self._set(self._editing, event.value),
                group="save",
                exclusive=True,
                exit_on_error=False,
            )

    async def _set(self, key: str, text: str) -> None:
        try:
            value = self._parsed(key, text)
            check = await self.client.check_config(key, value)
            record = await self.client.call(endpoints.SET_CONFIG, key, body=queries.NewValue(value))
        except CyberError as error:
            self._show_effect(str(error), "bad")
            return
        self._settings[key] = record
        if self._editing == key:
            self._stop_editing()
        self._show_table()
        self._take_theme(key, record)
        self.cyber.tell(f"{key} is saved. {effect_text(check)}")

    def _show_effect(self, text: str, tone: Tone = "dim") -> None:
        style = {"good": "$success", "busy": "$warning", "bad": "$error"}.get(tone, "$text-muted")
        line = clean_line(text.replace("\n", " "), limit=400)
        self.query_one("#effect", Static).update(Content.styled(line, style))

    def action_reset(self) -> None:
        """Take the setting out of the file; asks where that is more than a change of a value."""
        record = self._chosen()
        if record is not None and record.source == "file":
            self.cyber.do(self._ask_reset(record), group="ask")

    async def _ask_reset(self, record: ConfigValueRecord) -> None:
        check = await self.client.check_config(record.key, record.default)
        restarts = check.effect is SettingEffect.RESTARTS_MODELS and bool(check.models)
        if not self.is_current:
            return  # meanwhile something else was asked for
        if not (restarts or record.secret):
            await self._unset(record, check)
            return
        secret = "It is not shown anywhere else. " if record.secret else ""
        text = f"{secret}{effect_text(check)}" if restarts else secret.strip()

        def answered(value: str | None) -> None:
            if value == "reset":
                self.cyber.do(self._unset(record, check))

        self.app.push_screen(
            Question(
                f"Take {record.key} out of the file?",
                text,
                (
                    Answer("keep", "k", "Keep it"),
                    Answer("reset", "t", "Take it out", grave=True),
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
        now = f"{default} again" if default else "not set any more"
        self.cyber.tell(f"{key} is {now}. {effect_text(check)}")

    def _take_theme(self, key: str, record: ConfigValueRecord) -> None:
        """This app's own colours follow, unless the service is another machine's."""
        name = record.value
        if key == "theme" and not self.cyber.options.attached and name in self.app.available_themes:
            self.app.theme = name

    # The filter, and going back

    def action_filter(self) -> None:
        """Type a part of a name."""
        self.query_one(FilterLine).open(self.query_one("#table"))

    @on(FilterLine.Filtered)
    def _filtered(self, event: FilterLine.Filtered) -> None:
        self._filter = event.text
        self._show_table()

    def action_back(self) -> None:
        """Leave the line, or show all again."""
        if self._editing is not None:
            self._stop_editing()
        else:
            self.query_one(FilterLine).clear_filter()

    # The file, the theme and the keys

    def _config_path(self) -> Path | None:
        """The configuration file, if it is on this machine."""
        status = self.cyber.snapshot.status
        if status is None or not status.config_path or self.cyber.options.attached:
            return None
        return Path(status.config_path)

    def action_file(self) -> None:
        """Open the configuration file in the person's editor; the service applies what changes."""
        path = self._config_path()
        if path is None:
            return
        if not path.is_file():
            hint = "`cyber-inference-tui init` makes one."
            self.cyber.tell(f"There is no file {path} on this machine. {hint}", "error")
            return
        self._file_edited = True
        try:
            run_editor(self.app, path)
        except CyberError as error:
            self.cyber.tell(str(error), "error")

    def _show_refusal(self, problem: str) -> None:
        """Show why the service refused the edited file, each mistake with its line."""
        text = "\n".join(clean_line(line) for line in problem.splitlines()[:20])
        again = Answer("again", "e", "Edit again")
        later = Answer("later", "l", "Later")

        def answered(value: str | None) -> None:
            if value == "again":
                self.action_file()

        asked = Question("The service refused the file; its settings stay", text, (again, later))
        self.app.push_screen(asked, answered)

    def action_theme(self) -> None:
        """Choose a theme, and keep it."""

        def chosen(name: str | None) -> None:
            if name is None:
                return
            self.app.theme = name
            options = self.cyber.options
            if not (options.readonly or options.attached):
                self.cyber.do(
                    self.client.call(endpoints.SET_CONFIG, "theme", body=queries.NewValue(name))
                )

        context = self.cyber.options.render_context()
        names = sorted(self.app.available_themes, key=_own_first)
        rows = [row_of(name, name, (_THEME,), context) for name in names]
        self.app.push_screen(
            ChoiceDialog(
                "Colours",
                (_THEME,),
                rows,
                chosen=self.app.theme,
                charset=self.cyber.options.charset,
            ),
            chosen,
        )

    def action_key_map(self) -> None:
        """The key map in the person's editor."""
        path = self.cyber.options.keymap_path
        if path is None:
            self.cyber.tell("There is no place for a key map here.", "warning")
            return
        bindings = every_binding(type(self.app))
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(example_text(bindings), encoding="utf-8")
            run_editor(self.app, path)
        except OSError as error:
            self.cyber.tell(f"{path}: {error.strerror}.", "error")
            return
        except CyberError as error:
            self.cyber.tell(str(error), "error")
            return
        keymap = read_keymap(path, (one.id for _, one in bindings if one.id is not None))
        self.app.set_keymap(keymap.keys)
        for problem in keymap.problems:
            self.cyber.tell(problem, "error")
        if not keymap.problems:
            self.cyber.tell("The keys are taken up.")


_THEME: Column[str, RenderContext] = Column("theme", "THEME", least=12, value=str)


def _own_first(name: str) -> tuple[bool, str]:
    return (not name.startswith("cyber-"), name)

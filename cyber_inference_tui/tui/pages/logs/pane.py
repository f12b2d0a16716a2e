"""A log on the Logs page, with its title, its keys and its fields."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.timer import Timer
from textual.widgets import Input, Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import typed_path
from cyber_inference_tui.records import LogLevel
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.pages.logs.feed import At, LogFeed
from cyber_inference_tui.tui.pages.logs.title import title_content
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.text_line import TextLine
from cyber_inference_tui.units import counted

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_TYPING_SECONDS = 0.2
"""The service gets a text to filter by once nobody has typed for so long."""
_NAME_CHARACTERS = 60
"""Of a log's id in the name of its file: 240 bytes at most."""
_LEVELS: tuple[LogLevel | None, ...] = (None, LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR)


class LogPane(Vertical):
    """Shows one log under a title, with fields for a search and a filter."""

    KEYS_TITLE = "Log"
    DEFAULT_CSS = """
    LogPane { width: 1fr; height: 1fr; padding: 0 1; }
    LogPane > .pane-title { height: 1; color: $text-muted; }
    /* Textual styles the title again only if the pane itself has such a rule. */
    LogPane:focus-within { padding: 0 1; }
    LogPane:focus-within > .pane-title {
        color: $foreground; background: $primary 20%; text-style: bold;
    }
    LogPane:nocolor:focus-within > .pane-title { text-style: bold reverse; }
    LogPane > Input { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/", id="pane.search"),
        Binding("n", "match(1)", "Next", id="pane.next", tooltip="go to the next match"),
        Binding("N", "match(-1)", "Previous", show=False, tooltip="go to the previous match"),
        Binding(
            "ampersand",
            "filter",
            "Filter",
            key_display="&",
            id="pane.filter",
            tooltip="show only lines with a text",
        ),
        Binding(
            "l",
            "level",
            "Level",
            id="pane.level",
            tooltip="minimum level: all, info, warning or error",
        ),
        Binding("e", "error", "Error", id="pane.error", tooltip="go to the last error"),
        Binding(
            "left_square_bracket",
            "run(-1)",
            "Previous run",
            show=False,
            key_display="[",
            id="pane.run-before",
            tooltip="go to the start of this run or of the previous run",
        ),
        Binding(
            "right_square_bracket",
            "run(1)",
            "Next run",
            show=False,
            key_display="]",
            id="pane.run-after",
            tooltip="go to the start of the next run",
        ),
        Binding("space", "pause", "Pause", id="pane.pause", tooltip="stop following"),
        Binding("space", "resume", "Follow", id="pane.resume", tooltip="follow the end of the log"),
        Binding("c", "copy", "Copy", show=False, id="pane.copy", tooltip="copy the visible lines"),
        Binding(
            "ctrl+s",
            "save",
            "Save",
            show=False,
            id="pane.save",
            tooltip="write the log, or the filtered lines, to a file",
        ),
        Binding(
            "r", "reload", "Reload", show=False, id="pane.reload", tooltip="read the log again"
        ),
        Binding(
            "escape",
            "clear",
            "Clear",
            show=False,
            id="pane.clear",
            tooltip="end the search, then the filter",
        ),
    ]

    def __init__(self, at: At, source: str) -> None:
        super().__init__()
        self._at = at
        self._first_source = source
        self._typing: Timer | None = None

    @property
    def _app(self) -> CyberApp:
        return cast("CyberApp", self.app)

    @property
    def view(self) -> LogFeed:
        """The view of the lines."""
        return self.query_one(LogFeed)

    @property
    def source(self) -> str:
        """The id of the log."""
        return self.view.source if self.is_mounted else self._first_source

    def compose(self) -> ComposeResult:
        """Compose the title, the lines and the fields."""
        charset = self._app.options.charset
        yield Static(classes="pane-title")
        yield LogFeed(
            self._at,
            self._first_source,
            self._show_title,
            timezone=self._app.options.now().tzinfo,
            empty=f"reading {charset.ellipsis}",
            gap_hint="r reads them",
            charset=charset,
        )
        yield TextLine(placeholder="search text", classes="search")
        yield TextLine(placeholder="show only lines with this text", classes="filter")

    def on_mount(self) -> None:
        """Follow the state of the view."""
        # Watch instead of handling messages, which would draw the title a frame late.
        self.watch(self.view, "following", self._following_changed, init=False)
        self.watch(self.view, "new_lines", self._show_title, init=False)
        self._show_title()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return True
        view = self.view
        fields = self.query(TextLine)
        possible = {
            "pause": view.following,
            "resume": not view.following,
            "match": bool(view.search),
            "clear": bool(view.search or view.reader.only) or any(one.display for one in fields),
        }
        return possible.get(action, True)

    def action_search(self) -> None:
        """Open the search field."""
        self._open_field(".search", self.view.search)

    def action_filter(self) -> None:
        """Open the field that filters the lines."""
        self._open_field(".filter", self.view.reader.only)

    def _open_field(self, name: str, text: str) -> None:
        field = self.query_one(name, TextLine)
        with self.prevent(Input.Changed):
            field.value = text
        field.display = True
        self.screen.set_focus(field)

    def _close_fields(self) -> None:
        self._stop_typing()
        for field in self.query(TextLine):
            field.display = False
        self.screen.set_focus(self.view)

    @on(Input.Changed, ".search")
    def _search_typed(self, event: Input.Changed) -> None:
        self.view.show_search(event.value)

    @on(Input.Changed, ".filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        self._stop_typing()
        self._typing = self.set_timer(_TYPING_SECONDS, lambda: self._filter(event.value))

    def _stop_typing(self) -> None:
        if self._typing is not None:
            self._typing.stop()
            self._typing = None

    def _filter(self, text: str) -> None:
        self.view.select(level=self.view.reader.level, only=text)

    @on(Input.Submitted, ".search")
    def _searched(self) -> None:
        self._close_fields()
        if self.view.search:
            self.view.run(self.view.search_end())

    @on(Input.Submitted, ".filter")
    def _filtered(self, event: Input.Submitted) -> None:
        self._close_fields()
        self._filter(event.value)

    def action_clear(self) -> None:
        """Clear the open field, or else the search, or else the filter."""
        view = self.view
        only_filter = self.query_one(".filter").display or not view.search
        if only_filter and not self.query_one(".search").display:
            self._filter("")
        else:
            view.show_search("")
        self._close_fields()

    def action_match(self, step: int) -> None:
        """Go to the next (1) or previous (-1) match."""
        self.view.run(self.view.search_on(step))

    def action_level(self) -> None:
        """Show the next level: all, info, warning, error."""
        reader = self.view.reader
        place = _LEVELS.index(reader.level) + 1
        self.view.select(level=_LEVELS[place % len(_LEVELS)], only=reader.only)

    def action_error(self) -> None:
        """Go to the newest error."""
        self.view.drop_former_lines()
        self.view.run(self.view.to_error())

    def action_run(self, step: int) -> None:
        """Go to the start of the next (1) or previous (-1) run of the process."""
        self.view.drop_former_lines()
        self.view.run(self.view.to_run(step))

    def action_pause(self) -> None:
        """Stop following."""
        self.view.pause()

    def action_resume(self) -> None:
        """Follow the end again."""
        self.view.action_follow()

    def action_reload(self) -> None:
        """Read the end of the log again and follow it."""
        self.view.reload()

    def action_copy(self) -> None:
        """Copy the visible lines."""
        view = self.view
        rows = max(1, view.size.height)
        top = view.top_number
        lines = [line for line in view.lines if line.number >= top][:rows]
        self.app.copy_to_clipboard("\n".join(line.text for line in lines))
        view.remark(f"{counted(len(lines), 'line')} copied")

    def action_save(self) -> None:
        """Save the log to a file on this machine, after asking for its path."""
        letters = (sign if sign.isalnum() or sign in "-._" else "-" for sign in self.source)
        name = "".join(letters)[:_NAME_CHARACTERS]
        part = "the filtered lines" if self.view.reader.selects else "the log"
        self.app.push_screen(
            Prompt(
                f"Save {part} of {clean_line(self.source, limit=60)}",
                "A new file on the machine of this app.",
                self._save,
                value=os.path.expanduser(f"~/{name}.log"),  # noqa: PTH111 - without a home: as it is
            )
        )

    async def _save(self, text: str) -> None:
        try:
            path = typed_path(text)
            saved = await self.view.reader.save(path)
        except FileExistsError:
            raise CyberError(f"{text} exists already. Choose another name.") from None
        except OSError as error:
            reason = (error.strerror or "the file cannot be written").lower()
            raise CyberError(f"Not saved: {reason}. Choose another path.") from error
        self._app.show_message(f"Saved {counted(saved, 'line')} to {path}.")

    # The title

    def _following_changed(self) -> None:
        self._show_title()
        self.screen.refresh_bindings()

    def on_resize(self) -> None:
        """Fit the title to the new width."""
        self._show_title()

    def _show_title(self) -> None:
        with contextlib.suppress(LookupError):  # the pane may be opening or closing
            title = self.query_one(".pane-title", Static)
            ellipsis = self._app.options.charset.ellipsis
            update_static(title, title_content(self.view.state, self.size.width, ellipsis))

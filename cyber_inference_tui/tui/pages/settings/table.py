"""The table of settings, their help and the effect of a change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from cyber_inference_tui.records import ConfigCheckRecord, ConfigValueRecord, SettingEffect
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import fold, plain
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.setting_text import to_text, with_unit
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row, row_of

GROUP = "group:"
"""Prefix of the key of a row with a group's title."""
_LONGEST = 1000
_SOURCES: dict[str, str] = {
    "default": "default",
    "file": "file",
    "env": "environment",
    "flag": "flag",
}


class SettingTable(LiveTable):
    """The table of settings; enter edits the selected one."""

    KEYS_TITLE = "Settings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Edit", id="settings.edit", tooltip="change the value"),
    ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available; some rows cannot be edited."""
        if action == "choose":
            return self.screen.check_action("edit", ())
        return super().check_action(action, parameters)


def _key_cell(record: ConfigValueRecord, _: RenderContext) -> str:
    return f"  {plain(record.key)}"


def _value_cell(record: ConfigValueRecord, _: RenderContext) -> Cell:
    return Cell(plain(_shown(record.value, record)) or "none", _tone(record))


def _shown(value: Any, record: ConfigValueRecord) -> str:
    return with_unit(to_text(value), value, record.help)


def _source_cell(record: ConfigValueRecord, _: RenderContext) -> Cell:
    return Cell(_SOURCES.get(record.source, record.source), _tone(record))


def _tone(record: ConfigValueRecord) -> Tone:
    return "dim" if record.source == "default" else "none"


def _applies(record: ConfigValueRecord) -> str:
    return "at once" if record.live else "on restart"


COLUMNS: tuple[Column[ConfigValueRecord, RenderContext], ...] = (
    Column("key", "SETTING", 26, cell=_key_cell),
    Column("value", "VALUE", least=16, cell=_value_cell),
    Column("source", "FROM", 11, cell=_source_cell),
    Column("live", "APPLIES", 12, _applies, priority=1, tone="dim"),
)


def setting_rows(settings: Sequence[ConfigValueRecord], context: RenderContext) -> list[Row]:
    """Return the rows: each group's title, then its settings."""
    rows = []
    for group, members in groupby(settings, lambda record: record.group or "Other"):
        rows.append(Row(f"{GROUP}{group}", (Cell(group, "accent"),)))
        rows += [row_of(record.key, record, COLUMNS, context) for record in members]
    return rows


def setting_help(record: ConfigValueRecord, *, whole: int | None = None) -> Content:
    """Return the help of a setting, its default, and what overrides the file.

    ``whole`` adds its name and its value, which the table may have cut, in so many cells.
    """
    default = _shown(record.default, record) or "none"
    parts = []
    if whole is not None:
        value = plain(_shown(record.value, record) or "none", limit=_LONGEST)
        if isinstance(record.value, int | float) and value.endswith("B"):
            value += f" ({to_text(record.value)} bytes)"
        lines = "\n".join(fold(value, whole, after="/") if " " not in value else [value])
        parts = [(clean_line(record.key), "bold"), (f"\n{lines}\n\n", "")]
    parts.append((clean_line(record.help), ""))
    if whole is not None and record.source == "default":
        parts.append(("\nThis is the default.", "$text-muted"))
    else:
        parts.append((f"\nDefault: {clean_line(default)}.", "$text-muted"))
    if record.source == "env":
        name = f"CYBER_INFERENCE_{record.key.upper()}"
        parts.append((f"  The environment variable {name} overrides the file.", "$warning"))
    elif record.source == "flag":
        parts.append(("  A command-line flag of the service overrides the file.", "$warning"))
    elif not record.live:
        parts.append(("  Applies after a restart of the service.", "$text-muted"))
    return Content.assemble(*parts)


def effect_text(check: ConfigCheckRecord) -> str:
    """Return the effect of saving in one sentence."""
    match check.effect:
        case SettingEffect.NOTHING:
            return "The value is unchanged."
        case SettingEffect.NOW:
            return "Applies at once."
        case SettingEffect.RESTARTS_MODELS:
            names = ", ".join(clean_line(name, limit=60) for name in check.models)
            return f"Reloads {names} after its requests." if names else "Applies at once."
        case SettingEffect.RESTARTS_SERVICE:
            return "Applies after a restart of the service."
        case SettingEffect.OVERRIDDEN:
            return "Saved to the file, but overridden by the environment or a flag."


def effect_tone(check: ConfigCheckRecord) -> Tone:
    """Return the tone of the effect."""
    tones: dict[SettingEffect, Tone] = {SettingEffect.NOTHING: "dim", SettingEffect.NOW: "good"}
    return tones.get(check.effect, "busy")

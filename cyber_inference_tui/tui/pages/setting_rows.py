"""Settings as the rows of a table, and what is said of one and of its change. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from cyber_inference_tui.records import ConfigCheckRecord, ConfigValueRecord, SettingEffect
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.setting_groups import grouped
from cyber_inference_tui.tui.setting_text import to_text
from cyber_inference_tui.tui.widgets.table import Cell, Row

GROUP = "group:"
"""Before the key of a row that is a group's title."""
_SOURCES: dict[str, str] = {
    "default": "default",
    "file": "file",
    "env": "environment",
    "flag": "flag",
}


def setting_rows(settings: Sequence[ConfigValueRecord]) -> list[Row]:
    """The table's rows: each group's title, then its settings."""
    rows = []
    for group, members in grouped(settings):
        rows.append(Row(f"{GROUP}{group}", (Cell(group, "accent"), "", "", "")))
        for record in members:
            own = record.source != "default"
            tone: Tone = "none" if own else "dim"
            shown = to_text(record.value)
            value = clean_line(shown, limit=300) or "none"
            rows.append(
                Row(
                    record.key,
                    (
                        f"  {clean_line(record.key, limit=60)}",
                        Cell(value, tone),
                        Cell(_SOURCES.get(record.source, record.source), tone),
                        Cell("at once" if record.live else "on restart", "dim"),
                    ),
                )
            )
    return rows


def setting_help(record: ConfigValueRecord) -> Content:
    """What a setting is for, its default, and what keeps the file from having its way."""
    default = to_text(record.default) or "none"
    parts = [(clean_line(record.help), ""), (f"\nDefault: {clean_line(default)}.", "$text-muted")]
    if record.source == "env":
        name = f"CYBER_INFERENCE_{record.key.upper()}"
        parts.append((f"  The environment variable {name} wins over the file.", "$warning"))
    elif record.source == "flag":
        parts.append(("  A flag of the running service wins over the file.", "$warning"))
    elif not record.live:
        parts.append(("  Applies when the service is started again.", "$text-muted"))
    return Content.assemble(*parts)


def effect_text(check: ConfigCheckRecord) -> str:
    """What saving would do, in one sentence."""
    match check.effect:
        case SettingEffect.NOTHING:
            return "This is the value that holds already."
        case SettingEffect.NOW:
            return "Applies at once."
        case SettingEffect.RESTARTS_MODELS:
            names = ", ".join(clean_line(name, limit=60) for name in check.models)
            return f"Loads {names} again, after its requests." if names else "Applies at once."
        case SettingEffect.RESTARTS_SERVICE:
            return "Applies when the service is started again."
        case SettingEffect.OVERRIDDEN:
            return "Is written to the file, but the environment or a flag wins over it."


def effect_tone(check: ConfigCheckRecord) -> Tone:
    """How much of a warning that is."""
    tones: dict[SettingEffect, Tone] = {SettingEffect.NOTHING: "dim", SettingEffect.NOW: "good"}
    return tones.get(check.effect, "busy")

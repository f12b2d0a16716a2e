"""The title of a log's pane, and its text if it has no lines."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content

from cyber_inference_tui.records import LogLevel, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.ways_out import with_keys

_SHORTEST_NAME = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PaneState:
    """The state of a pane.

    ``only`` is the text of the filter, ``place`` that of the search among its matches. ``remark``
    is the result of the last key, ``problem`` an error. ``former``: the lines are from a service
    process that has ended.
    """

    source: str
    level: LogLevel | None = None
    only: str = ""
    search: str = ""
    place: str = ""
    following: bool = True
    new_lines: int = 0
    former: bool = False
    remark: str = ""
    problem: str = ""


def title_content(state: PaneState, width: int, ellipsis: str) -> Content:
    """Return the title in ``width`` cells; hints and the log's name are cut if they do not fit."""
    space = " " * (3 if width >= 60 else 2)
    parts = _parts(state, hints=True)
    if _width_of(parts, space) > width - min(_SHORTEST_NAME, len(state.source)):
        parts = _parts(state, hints=False)
    name = cut(plain(state.source), max(_SHORTEST_NAME, width - _width_of(parts, space)), ellipsis)
    return Content.assemble((name, "$accent"), *((space + text, style) for text, style in parts))


def _width_of(parts: list[tuple[str, str]], space: str) -> int:
    return sum(cell_len(text) + len(space) for text, _ in parts)


def _parts(state: PaneState, *, hints: bool) -> list[tuple[str, str]]:
    """Return the state in texts with their styles; ``hints`` name the key that follows again."""
    follows = ": G follows" if hints else ""
    parts: list[tuple[str, str]] = []
    if state.level is not None:
        more = "" if state.level is LogLevel.ERROR else " and worse"
        parts.append((f"{state.level.value}{more}", "$warning"))
    if state.only:
        parts.append((f"&{plain(state.only, limit=60)}", "$warning"))
    if state.search:
        place = f"  {state.place}" if state.place else ""
        parts.append((f"/{plain(state.search, limit=60)}{place}", "$warning"))
    if state.former:
        parts.append((f"from before the restart{follows}", "$warning"))
    elif state.following:
        parts.append(("following", "$text-muted"))
    elif state.new_lines:
        parts.append((f"paused, +{state.new_lines:,} new{follows}", "bold $warning"))
    else:
        parts.append((f"paused{follows}", "$warning"))
    if state.problem:
        parts.append((plain(state.problem), "$error"))
    elif state.remark:
        parts.append((plain(state.remark), "$accent"))
    return parts


def empty_text(level: LogLevel | None, only: str, model: ModelRecord | None) -> str:
    """Return why a log has no lines, and what to do."""
    if only:
        of = "" if level is None else f" of level {level.value} or worse"
        return f"No line{of} has the text {plain(only, limit=60)}. esc shows all lines."
    if level is not None:
        return f"No line has level {level.value} or worse. l changes the level."
    if model is None:
        return "Nothing has been written to this log yet."
    if model.status is ModelStatus.FAILED:
        why = clean_line(with_keys(model.error or "it failed"), limit=600)
        return f"The server wrote nothing. {why}"
    return (
        "The server has written nothing since the service started. Load the model to see its log."
    )

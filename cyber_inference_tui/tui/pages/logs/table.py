"""The list of logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyber_inference_tui.records import LogRecord, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.terminal.tone import STATUS_TONES
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.live_table import Row, row_of

SERVICE = "service"
INSTALL = "install"


@dataclass(frozen=True, slots=True)
class LogItem:
    """A log, its model if it has one, and whether a pane shows it."""

    log: LogRecord
    model: ModelRecord | None
    opened: bool


def _sign_cell(line: LogItem, context: RenderContext) -> Cell:
    if line.model is None:
        return Cell(context.charset.dot)
    status = line.model.status
    return Cell(context.charset.status_sign(status), STATUS_TONES[status])


def _name_cell(line: LogItem, _: RenderContext) -> Cell:
    return Cell(plain(line.log.id), "accent" if line.opened else "none")


def _error_cell(line: LogItem, _: RenderContext) -> Cell:
    return Cell("" if line.log.last_error is None else "error", "bad")


COLUMNS: tuple[Column[LogItem, RenderContext], ...] = (
    Column("sign", "", 1, cell=_sign_cell),
    Column("id", "LOG", least=22, cell=_name_cell),
    Column("error", "", 5, priority=1, cell=_error_cell),
)


def source_ids(logs: Sequence[LogRecord], snapshot: Snapshot) -> list[str]:
    """Return the ids of the logs: service, installation, active and failed models, the rest."""
    # The log of installations always exists; list it once it has lines.
    known = {log.id for log in logs if log.id != INSTALL or log.end}
    active = [
        model.id
        for model in snapshot.models
        if model.status is not ModelStatus.UNLOADED and model.id in known
    ]
    first = [name for name in (SERVICE, INSTALL) if name in known]
    rest = sorted(known - {*first, *active})
    return [*first, *active, *rest]


def source_rows(
    logs: Sequence[LogRecord], snapshot: Snapshot, opened: Sequence[str], context: RenderContext
) -> list[Row]:
    """Return a row for each log; those in ``opened`` are marked."""
    by_id = {log.id: log for log in logs}
    lines = (
        LogItem(by_id[name], snapshot.model(name), name in opened)
        for name in source_ids(logs, snapshot)
    )
    return [row_of(line.log.id, line, COLUMNS, context) for line in lines]

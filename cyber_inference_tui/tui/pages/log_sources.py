"""The logs there are, as rows to choose from."""

from __future__ import annotations

from collections.abc import Sequence

from cyber_inference_tui.records import LogRecord, ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.tone import STATUS_TONES, Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.table import Cell, Row

SERVICE = "service"
INSTALL = "install"


def source_ids(logs: Sequence[LogRecord], snapshot: Snapshot) -> list[str]:
    """The service first, then models that are awake or failed, then all others that have a log."""
    # That of installations is there from the start, for those who want to follow the first one.
    known = {log.id for log in logs if log.id != INSTALL or log.end}
    lively = [
        model.id
        for model in snapshot.models
        if model.status is not ModelStatus.UNLOADED and model.id in known
    ]
    first = [name for name in (SERVICE, INSTALL) if name in known]
    rest = sorted(known - {*first, *lively})
    return [*first, *lively, *rest]


def source_rows(
    logs: Sequence[LogRecord],
    snapshot: Snapshot,
    opened: Sequence[str],
    charset: Charset,
) -> list[Row]:
    """One row for each log; those in ``opened`` are marked."""
    by_id = {log.id: log for log in logs}
    rows = []
    for name in source_ids(logs, snapshot):
        log = by_id[name]
        model = snapshot.model(name)
        tone: Tone = STATUS_TONES[model.status] if model is not None else "none"
        sign = charset.status_sign(model.status) if model is not None else charset.dot
        shown = clean_line(name, limit=200)
        errors = "" if log.last_error is None else "error"
        rows.append(
            Row(
                name,
                (
                    Cell(sign, tone),
                    Cell(shown, "accent" if name in opened else "none"),
                    Cell(errors, "bad"),
                ),
            )
        )
    return rows

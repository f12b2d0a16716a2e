"""What the hub has, as rows and sentences: repositories, the models in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    Fit,
    HubFilesRecord,
    HubModelRecord,
    ModelStatus,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.figures import age_text, memory_text, number_text
from cyber_inference_tui.tui.pages.model_rows import fit_cell
from cyber_inference_tui.tui.widgets.table import Cell, Column, Row
from cyber_inference_tui.units import context_text

SORTS = ("downloads", "likes", "trending", "new")
"""The orders that the service can be asked for."""

RESULT_COLUMNS = (
    Column(key="repo", title="REPO", width=None, least=28),
    Column(key="gated", title="ACCESS", width=6, priority=1),
    Column(key="parameters", title="PARAMS", width=7, align="right"),
    Column(key="architecture", title="ARCH", width=10, priority=4),
    Column(key="context", title="CONTEXT", width=8, align="right", priority=5),
    Column(key="downloads", title="DOWNLOADS", width=11, align="right"),
    Column(key="likes", title="LIKES", width=7, align="right", priority=3),
    Column(key="new", title="UPDATED", width=9, align="right", priority=2),
)
FILE_COLUMNS = (
    Column(key="quantization", title="QUANT", width=10),
    Column(key="size", title="SIZE", width=9, align="right"),
    Column(key="memory", title="MEMORY", width=10, align="right", priority=1),
    Column(key="fits", title="FITS", width=9),
    Column(key="shards", title="FILES", width=5, align="right", priority=2),
    Column(key="vision", title="VISION", width=6, priority=3),
    Column(key="note", title="", width=14),
    Column(key="file", title="FILE", width=None, least=16, priority=4),
)

_GATED = "Gated: accept its licence on its page on the hub, then set hf_token in Settings (7)."
_UNDER_WAY = frozenset(
    {
        DownloadStatus.QUEUED,
        DownloadStatus.RUNNING,
        DownloadStatus.PAUSED,
        DownloadStatus.VERIFYING,
    }
)


def parameters_text(count: int | None, charset: Charset) -> str:
    """The number of weights as model cards give it: ``8.2 B``, ``475 M``."""
    if count is None:
        return charset.missing
    if count >= 999_500_000:
        return f"{count / 1e9:.1f} B"
    return f"{count / 1e6:.0f} M"


def result_rows(found: Sequence[HubModelRecord], now: datetime, charset: Charset) -> list[Row]:
    """The repositories, in the order in which they were found."""
    rows = []
    for one in found:
        age = None if one.updated_at is None else (now - one.updated_at).total_seconds()
        context = context_text(one.context_length) if one.context_length else charset.missing
        rows.append(
            Row(
                one.repo,
                (
                    clean_line(one.repo, limit=200),
                    Cell("gated", "busy") if one.gated else "",
                    parameters_text(one.parameters, charset),
                    clean_line(one.architecture or charset.missing, limit=60),
                    context,
                    number_text(one.downloads, charset=charset),
                    number_text(one.likes, charset=charset),
                    Cell(age_text(age, charset=charset), "dim"),
                ),
            )
        )
    return rows


def in_order(files: Sequence[HubFilesRecord]) -> list[HubFilesRecord]:
    """The smallest first, those of one quantization together."""
    least: dict[str, int] = {}
    for one in files:
        quantization, size = one.quantization or "", one.size_bytes or 0
        least[quantization] = min(least.get(quantization, size), size)
    return sorted(
        files,
        key=lambda one: (
            least[one.quantization or ""],
            one.quantization or "",
            one.size_bytes or 0,
            one.name,
        ),
    )


def under_way(
    downloads: Sequence[DownloadRecord], repo: str, name: str | None = None
) -> DownloadRecord | None:
    """The download of this model that is not over, if there is one."""
    return next(
        (
            one
            for one in downloads
            if one.repo == repo and one.status in _UNDER_WAY and name in {None, one.filename}
        ),
        None,
    )


def file_rows(
    files: Sequence[HubFilesRecord],
    repo: str,
    downloads: Sequence[DownloadRecord],
    charset: Charset,
) -> list[Row]:
    """The models of a repository."""
    rows = []
    for one in files:
        note: Cell | str = ""
        if one.local_id is not None:
            note = Cell(f"{charset.check} here already", "good")
        elif under_way(downloads, repo, one.name):
            note = Cell(f"{charset.signs[ModelStatus.LOADING]} downloading", "busy")
        elif one.suggested:
            note = Cell(f"{charset.pin} suggested", "accent")
        rows.append(
            Row(
                one.name,
                (
                    clean_line(one.quantization or charset.missing, limit=60),
                    memory_text(one.size_bytes, charset=charset),
                    memory_text(one.memory_estimate_bytes, estimate=True, charset=charset),
                    fit_cell(one.fits, charset),
                    f"{len(one.files)}",
                    Cell("vision" if one.projector is not None else "", "dim"),
                    note,
                    Cell(clean_line(one.name, limit=300), "dim"),
                ),
            )
        )
    return rows


def result_sentence(one: HubModelRecord | None) -> str:
    """What the keys do to a repository."""
    if one is None:
        return ""
    return _GATED if one.gated else "enter shows its files, and which of them fit this machine."


def file_sentence(one: HubFilesRecord | None, *, gated: bool) -> str:
    """What there is to know before a model is downloaded."""
    if one is None:
        return ""
    parts = [f"{clean_line(one.name, limit=200)}:"]
    if one.local_id is not None:
        parts.append(f"here already as {clean_line(one.local_id, limit=200)}.")
    elif one.fits is Fit.NOW:
        parts.append("fits in what is free.")
    elif one.fits is Fit.AFTER_UNLOADING:
        gone = " and ".join(clean_line(name, limit=200) for name in one.evicts)
        verb = "are" if len(one.evicts) > 1 else "is"
        parts.append(f"fits once {gone or 'something idle'} {verb} unloaded.")
    elif one.fits is Fit.NEVER:
        parts.append("too big for this machine, whatever is unloaded.")
    else:
        parts.append("what it needs is not known.")
    if one.suggested and one.local_id is None:
        parts.append("The best of them for this machine.")
    if one.projector is not None:
        parts.append("Its projector for pictures comes with it.")
    if gated:
        parts.append(_GATED)
    return " ".join(parts)


def gated_sentence(repo: str) -> str:
    """What to do before a gated repository's files can be had."""
    return (
        f"{clean_line(repo, limit=200)} is given to those only who accepted its licence. Do that "
        "on its page on the hub, then set hf_token in Settings (7) to a token of that account."
    )

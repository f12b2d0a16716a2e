"""The Hub page's tables of repositories and of their models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    HubFilesRecord,
    HubModelRecord,
    ModelStatus,
)
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.hub.catalog import Offer
from cyber_inference_tui.tui.pages.models.table import fit_cell
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import (
    age_text,
    context_text,
    count_text,
    number_text,
    percent_text,
    size_text,
)

UNDER_WAY = frozenset(
    {
        DownloadStatus.QUEUED,
        DownloadStatus.RUNNING,
        DownloadStatus.PAUSED,
        DownloadStatus.VERIFYING,
    }
)
"""States of downloads that are not over and have not failed."""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A repository, and the best of its models for this machine."""

    model: HubModelRecord
    offer: Offer | None = None
    """Its best model, once that is known."""
    download: DownloadRecord | None = None
    """The unfinished download from it."""
    suggested: bool = False
    """It is one of the repositories for this machine."""


@dataclass(frozen=True, slots=True)
class FileLine:
    """A model of a repository, and whether it is being downloaded."""

    file: HubFilesRecord
    downloading: bool


def _repo_cell(line: ResultLine, _: RenderContext) -> Cell:
    return Cell(line.model.repo, "accent" if line.suggested else "none")


def _licence_cell(line: ResultLine, context: RenderContext) -> Cell:
    if line.model.gated:
        return Cell("gated", "busy")
    licence = clean_line(line.model.licence or "", limit=80)
    return Cell(licence or context.charset.missing, "dim")


def _best(line: ResultLine) -> HubFilesRecord | None:
    return line.offer.best if line.offer is not None else None


def _quantization_cell(line: ResultLine, context: RenderContext) -> Cell:
    best = _best(line)
    name = best.quantization if best is not None else None
    return Cell(clean_line(name, limit=80) if name else context.charset.missing, "dim")


def _size_cell(line: ResultLine, context: RenderContext) -> str:
    best = _best(line)
    return context.charset.known(best.size_bytes if best is not None else None, size_text)


def _offer_cell(line: ResultLine, context: RenderContext) -> Cell:
    charset = context.charset
    if line.download is not None:
        share = line.download.share
        done = "queued" if share is None else percent_text(share)
        return Cell(f"{charset.status_sign(ModelStatus.LOADING)} {done}", "busy")
    if line.offer is not None and line.offer.local_id is not None:
        return Cell(f"{charset.check} here", "good")
    best = _best(line)
    return fit_cell(best.fits if best is not None else None, charset)


def _memory_cell(line: FileLine, context: RenderContext) -> str:
    needed = line.file.memory_estimate_bytes
    return context.charset.known(needed, partial(size_text, estimate=True))


def _vision_cell(line: FileLine, _: RenderContext) -> Cell:
    return Cell("vision" if line.file.projector is not None else "", "dim")


def _updated_cell(line: ResultLine, context: RenderContext) -> Cell:
    at = line.model.updated_at
    age = None if at is None else (context.now - at).total_seconds()
    return Cell(context.charset.known(age, age_text), "dim")


def _note_cell(line: FileLine, context: RenderContext) -> Cell:
    charset = context.charset
    if line.file.local_id is not None:
        return Cell(f"{charset.check} downloaded", "good")
    if line.downloading:
        return Cell(f"{charset.status_sign(ModelStatus.LOADING)} downloading", "busy")
    return Cell(f"{charset.pin} suggested" if line.file.suggested else "", "accent")


RESULT_COLUMNS: tuple[Column[ResultLine, RenderContext], ...] = (
    Column("repo", "REPO", least=28, cell=_repo_cell),
    Column(
        "parameters",
        "PARAMS",
        6,
        lambda line: line.model.parameters,
        right=True,
        priority=6,
        text=count_text,
    ),
    Column("fits", "FITS", 9, cell=_offer_cell),
    Column("best", "BEST", 8, priority=7, cell=_quantization_cell),
    Column("size", "SIZE", 8, right=True, priority=1, cell=_size_cell),
    Column("licence", "LICENCE", 10, priority=2, cell=_licence_cell),
    Column(
        "downloads",
        "DOWNLOADS",
        11,
        lambda line: line.model.downloads,
        right=True,
        priority=5,
        text=number_text,
    ),
    Column(
        "likes",
        "LIKES",
        6,
        lambda line: line.model.likes,
        right=True,
        priority=3,
        text=number_text,
    ),
    Column("new", "UPDATED", 7, right=True, priority=4, cell=_updated_cell),
    Column("architecture", "ARCH", 10, lambda line: line.model.architecture, priority=8),
    Column(
        "context",
        "TRAINED",
        8,
        lambda line: line.model.context_length or None,
        right=True,
        priority=9,
        text=context_text,
    ),
)
FILE_COLUMNS: tuple[Column[FileLine, RenderContext], ...] = (
    Column("quantization", "QUANT", 10, lambda line: line.file.quantization),
    Column("size", "SIZE", 9, lambda line: line.file.size_bytes, right=True, text=size_text),
    Column("memory", "MEMORY", 10, right=True, priority=1, cell=_memory_cell),
    Column("fits", "FITS", 9, cell=lambda line, context: fit_cell(line.file.fits, context.charset)),
    Column("shards", "FILES", 5, lambda line: len(line.file.files), right=True, priority=2),
    Column("vision", "VISION", 6, priority=3, cell=_vision_cell),
    Column("note", "NOTE", 14, cell=_note_cell),
    Column("file", "FILE", least=16, priority=4, value=lambda line: line.file.name, tone="dim"),
)


def sorted_files(files: Sequence[HubFilesRecord]) -> list[HubFilesRecord]:
    """Return the smallest models first, with those of one quantization together."""
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


def active_download(
    downloads: Sequence[DownloadRecord], repo: str, name: str
) -> DownloadRecord | None:
    """Return the unfinished download of this model, if any."""
    return next(
        (
            one
            for one in downloads
            if one.repo == repo and one.filename == name and one.status in UNDER_WAY
        ),
        None,
    )


def active_downloads(downloads: Sequence[DownloadRecord]) -> dict[str, DownloadRecord]:
    """Return an unfinished download of each repository that has one."""
    return {one.repo: one for one in downloads if one.status in UNDER_WAY}


def bytes_to_come(downloads: Sequence[DownloadRecord]) -> int:
    """Return the bytes that the unfinished downloads still have to get, as far as known."""
    return sum(
        max(0, (one.bytes_total or 0) - one.bytes_done)
        for one in downloads
        if one.status in UNDER_WAY
    )


def result_rows(lines: Sequence[ResultLine], context: RenderContext) -> list[Row]:
    """Return the rows of the repositories in their order."""
    return [row_of(line.model.repo, line, RESULT_COLUMNS, context) for line in lines]


def file_rows(
    files: Sequence[HubFilesRecord],
    repo: str,
    downloads: Sequence[DownloadRecord],
    context: RenderContext,
) -> list[Row]:
    """Return the rows of a repository's models."""
    lines = (FileLine(one, active_download(downloads, repo, one.name) is not None) for one in files)
    return [row_of(line.file.name, line, FILE_COLUMNS, context) for line in lines]

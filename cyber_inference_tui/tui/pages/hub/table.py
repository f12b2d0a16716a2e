"""The Hub page's tables of repositories and of their models, and their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    Fit,
    HubFilesRecord,
    HubModelRecord,
    ModelStatus,
)
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.models.table import fit_cell
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import (
    age_text,
    context_text,
    count_text,
    number_text,
    size_text,
)

SORTS = ("downloads", "likes", "trending", "new")
"""The orders that the search offers."""

_GATED = "Gated: accept its licence on its Hugging Face page, then set hf_token in Settings (7)."
_UNDER_WAY = frozenset(
    {
        DownloadStatus.QUEUED,
        DownloadStatus.RUNNING,
        DownloadStatus.PAUSED,
        DownloadStatus.VERIFYING,
    }
)


@dataclass(frozen=True, slots=True)
class FileLine:
    """A model of a repository, and whether it is being downloaded."""

    file: HubFilesRecord
    downloading: bool


def _gated_cell(model: HubModelRecord, _: RenderContext) -> Cell:
    return Cell("gated" if model.gated else "", "busy")


def _memory_cell(line: FileLine, context: RenderContext) -> str:
    needed = line.file.memory_estimate_bytes
    return context.charset.known(needed, partial(size_text, estimate=True))


def _vision_cell(line: FileLine, _: RenderContext) -> Cell:
    return Cell("vision" if line.file.projector is not None else "", "dim")


def _updated_cell(one: HubModelRecord, context: RenderContext) -> Cell:
    age = None if one.updated_at is None else (context.now - one.updated_at).total_seconds()
    return Cell(context.charset.known(age, age_text), "dim")


def _note_cell(line: FileLine, context: RenderContext) -> Cell:
    charset = context.charset
    if line.file.local_id is not None:
        return Cell(f"{charset.check} downloaded", "good")
    if line.downloading:
        return Cell(f"{charset.status_sign(ModelStatus.LOADING)} downloading", "busy")
    return Cell(f"{charset.pin} suggested" if line.file.suggested else "", "accent")


RESULT_COLUMNS: tuple[Column[HubModelRecord, RenderContext], ...] = (
    Column("repo", "REPO", least=28, value=lambda m: m.repo),
    Column("gated", "ACCESS", 6, priority=1, cell=_gated_cell),
    Column("parameters", "PARAMS", 7, lambda m: m.parameters, right=True, text=count_text),
    Column("architecture", "ARCH", 10, lambda m: m.architecture, priority=4),
    Column(
        "context",
        "TRAINED",
        8,
        lambda m: m.context_length or None,
        right=True,
        priority=5,
        text=context_text,
    ),
    Column("downloads", "DOWNLOADS", 11, lambda m: m.downloads, right=True, text=number_text),
    Column("likes", "LIKES", 7, lambda m: m.likes, right=True, priority=3, text=number_text),
    Column("new", "UPDATED", 9, right=True, priority=2, cell=_updated_cell),
)
FILE_COLUMNS: tuple[Column[FileLine, RenderContext], ...] = (
    Column("quantization", "QUANT", 10, lambda line: line.file.quantization),
    Column("size", "SIZE", 9, lambda line: line.file.size_bytes, right=True, text=size_text),
    Column("memory", "MEMORY", 10, right=True, priority=1, cell=_memory_cell),
    Column("fits", "FITS", 9, cell=lambda line, context: fit_cell(line.file.fits, context.charset)),
    Column("shards", "FILES", 5, lambda line: len(line.file.files), right=True, priority=2),
    Column("vision", "VISION", 6, priority=3, cell=_vision_cell),
    Column("note", "", 14, cell=_note_cell),
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
    downloads: Sequence[DownloadRecord], repo: str, name: str | None = None
) -> DownloadRecord | None:
    """Return the unfinished download of this model, if any."""
    return next(
        (
            one
            for one in downloads
            if one.repo == repo and one.status in _UNDER_WAY and name in {None, one.filename}
        ),
        None,
    )


def result_rows(found: Sequence[HubModelRecord], context: RenderContext) -> list[Row]:
    """Return the rows of the repositories, in the order of the search."""
    return [row_of(one.repo, one, RESULT_COLUMNS, context) for one in found]


def file_rows(
    files: Sequence[HubFilesRecord],
    repo: str,
    downloads: Sequence[DownloadRecord],
    context: RenderContext,
) -> list[Row]:
    """Return the rows of a repository's models."""
    lines = (FileLine(one, active_download(downloads, repo, one.name) is not None) for one in files)
    return [row_of(line.file.name, line, FILE_COLUMNS, context) for line in lines]


def result_sentence(one: HubModelRecord | None) -> str:
    """Return the hint for the selected repository."""
    if one is None:
        return ""
    return _GATED if one.gated else "enter lists its files, and which fit this machine."


def file_sentence(one: HubFilesRecord | None, *, gated: bool) -> str:
    """Return what to know before downloading a model."""
    if one is None:
        return ""
    parts = [f"{clean_line(one.name, limit=200)}:"]
    if one.local_id is not None:
        parts.append(f"downloaded already as {clean_line(one.local_id, limit=200)}.")
    elif one.fits is Fit.NOW:
        parts.append("fits in the free memory.")
    elif one.fits is Fit.AFTER_UNLOADING:
        idle = " and ".join(clean_line(name, limit=200) for name in one.evicts)
        verb = "are" if len(one.evicts) > 1 else "is"
        parts.append(f"fits once {idle or 'an idle model'} {verb} unloaded.")
    elif one.fits is Fit.NEVER:
        parts.append("too big for this machine, even with all models unloaded.")
    else:
        parts.append("the memory it needs is unknown.")
    if one.suggested and one.local_id is None:
        parts.append("Suggested for this machine.")
    if one.projector is not None:
        parts.append("Its vision projector is downloaded, too.")
    if gated:
        parts.append(_GATED)
    return " ".join(parts)


def gated_sentence(repo: str) -> str:
    """Return what to do before downloading from a gated repository."""
    return (
        f"Accept the licence of {clean_line(repo, limit=200)} on its Hugging Face page first, then "
        "set hf_token in Settings (7) to a token of that account."
    )

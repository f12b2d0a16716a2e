"""The models to talk to: which comes first, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.tone import STATUS_TONES
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.figures import memory_text, status_text
from cyber_inference_tui.tui.pages.chat_sampling import Sampling, sampling_text
from cyber_inference_tui.tui.widgets.table import Cell, Column, Row

_ORDER = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.QUEUED,
    ModelStatus.UNLOADING,
    ModelStatus.UNLOADED,
    ModelStatus.FAILED,
)

COLUMNS = (
    Column(key="model", title="MODEL", width=None, least=20),
    Column(key="state", title="STATE", width=16),
    Column(key="kind", title="KIND", width=8, priority=2),
    Column(key="memory", title="MEMORY", width=10, align="right", priority=1),
    Column(key="fits", title="FITS", width=15),
)


def in_order(models: Sequence[ModelRecord]) -> list[ModelRecord]:
    """Those that answer soonest first: loaded, then those that fit, by id."""
    return sorted(
        models,
        key=lambda one: (_ORDER.index(one.status), one.fits is Fit.NEVER, one.id),
    )


def first_choice(models: Sequence[ModelRecord]) -> str | None:
    """The model to begin with: one that makes text, if there is any."""
    ordered = in_order(models)
    return next(
        (one.id for one in ordered if not one.embedding), ordered[0].id if ordered else None
    )


def model_rows(models: Sequence[ModelRecord], charset: Charset) -> list[Row]:
    """The rows to choose from."""
    rows = []
    for one in in_order(models):
        fits = {
            None: "",
            Fit.NOW: "fits",
            Fit.AFTER_UNLOADING: "after unloading",
            Fit.NEVER: "too big",
        }[one.fits]
        loaded = one.memory_bytes is not None
        memory = one.memory_bytes if loaded else one.memory_estimate_bytes
        estimate = not loaded and one.memory_estimate_source != "measured"
        rows.append(
            Row(
                one.id,
                (
                    clean_line(one.id, limit=200),
                    Cell(
                        status_text(one.status, one.progress, charset=charset),
                        STATUS_TONES[one.status],
                    ),
                    Cell("vectors" if one.embedding else "chat", "dim"),
                    memory_text(memory, estimate=estimate, charset=charset),
                    Cell(fits, "bad" if one.fits is Fit.NEVER else "dim"),
                ),
            )
        )
    return rows


def title_content(model: ModelRecord | None, sampling: Sampling, charset: Charset) -> Content:
    """The page's first line: the model, how it stands with it, what is sent along."""
    if model is None:
        return Content.styled("Chat", "bold $text-muted")
    colour = {"good": "$text-success", "busy": "$text-warning", "bad": "$text-error"}
    tone = STATUS_TONES[model.status]
    context = f"context {model.context_length:,}" if model.context_length else ""
    remarks = [context, sampling_text(sampling, charset.dot)]
    return Content.assemble(
        (clean_line(model.id, limit=60), "bold"),
        "  ",
        (
            status_text(model.status, model.progress, charset=charset),
            colour.get(tone, "$text-muted"),
        ),
        (f"   {f' {charset.dot} '.join(filter(None, remarks))}", "$text-muted"),
    )


def invitation(model: ModelRecord | None, url: str) -> str:
    """What an empty page says, a paragraph a line."""
    if model is None:
        return (
            "There is no model to talk to yet.\n\n"
            "3 opens the Hub, where models are found and downloaded; "
            "on the dashboard (1) a demo model can be added without a download."
        )
    name = clean_line(model.id, limit=200)
    if model.status is ModelStatus.LOADED:
        ready = f"{name} is loaded: it answers at once."
    elif model.status is ModelStatus.FAILED:
        reason = clean_line(model.error or "", limit=400)
        ready = f"{name} failed the last time: {reason} A message tries to load it again."
    elif model.fits is Fit.NEVER:
        ready = f"{name} is too big: {clean_line(model.fits_reason or '', limit=400)}."
    else:
        ready = f"{name} is {model.status.value}: the first message loads it, which takes a while."
    if model.embedding:
        return f"{ready}\n\nIt makes vectors, not text: type two texts, and see how alike they are."
    return (
        f"Write to try a model.\n\n{ready}\n\n"
        f"It is asked as any client asks, at {clean_line(url, limit=200)}/v1/chat/completions."
    )

"""Sentences about a model and its state, the same on every page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len
from textual.content import Content

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus, ProblemRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.terminal.tone import STATUS_TONES, Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.models.table import FIT_TONES, fit_cell
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.units import (
    age_text,
    contexts_text,
    count_text,
    countdown_text,
    counted,
    duration_text,
    size_text,
)

STYLES: dict[Tone, str] = {
    "none": "",
    "good": "$text-success",
    "busy": "$text-warning",
    "bad": "$text-error",
    "dim": "$text-muted",
    "accent": "$text-accent",
    "strong": "bold",
}
"""The style of each tone."""
_LONGEST = 1000
_USUAL = frozenset({"completion", "chat"})
"""Capabilities that need no words, because most models have them."""


def description_text(model: ModelRecord, charset: Charset) -> str:
    """Describe a model in one line, from the facts that are known."""
    # The sentence about a loaded model says it.
    loaded = model.status is ModelStatus.LOADED
    parts = [
        model.architecture,
        f"{count_text(model.parameters)} parameters" if model.parameters else None,
        model.quantization,
        None if loaded else _context(model),
        size_text(model.size_bytes) if model.size_bytes is not None else None,
        *(one for one in model.capabilities if one not in _USUAL),
        f"across this box and {', '.join(model.split)}" if model.split else None,
        "pinned" if model.pinned else None,
        f"also {', '.join(model.aliases[:5])}" if model.aliases else None,
        f"from {model.origin}" if model.origin != "models_dir" else None,
    ]
    text = f" {charset.dot} ".join(part for part in parts if part)
    return clean_line(text or "No details are known.", limit=_LONGEST)


def _context(model: ModelRecord) -> str | None:
    text = contexts_text(model.context_length, model.trained_context_length)
    return f"context {text}" if text else None


def model_sentence(model: ModelRecord, now: datetime, charset: Charset) -> tuple[str, Tone]:
    """Return a model's state with its reason as a sentence, and the sentence's tone."""
    text, tone = _state(model, now, charset)
    return clean_line(text, limit=_LONGEST), tone


def unreadable_text(model: ModelRecord) -> str:
    """Return why a model cannot be used and the way out; empty if its file is readable."""
    if not model.unreadable:
        return ""
    name = clean_line(model.id, limit=200)
    reason = clean_line(_first(model.error or "its file cannot be read").rstrip("."), limit=400)
    if model.origin != "models_dir":
        return f"{name} is unreadable: {reason}. Replace its file."
    return f"{name} is unreadable: {reason}. x on page 2 deletes it, and 3 downloads models."


def chosen_content(model: ModelRecord, *, now: datetime, charset: Charset, width: int) -> Content:
    """Return name and description, and on the next line the state, each cut to ``width`` cells."""
    name = cut(plain(model.id), width, charset.ellipsis)
    left = width - cell_len(name) - 2
    what = cut(plain(description_text(model, charset)), left, charset.ellipsis) if left > 3 else ""
    text, tone = model_sentence(model, now, charset)
    return Content.assemble(
        (name, "bold"),
        (f"  {what}\n" if what else "\n", STYLES["dim"]),
        (cut(plain(text), width, charset.ellipsis), STYLES[tone]),
    )


def problems_content(
    problems: Sequence[ProblemRecord], lines: int, width: int, charset: Charset
) -> Content:
    """Return the files that cannot be used, with reasons, in ``lines`` of ``width`` cells."""
    shown = list(problems if len(problems) <= lines else problems[: max(1, lines - 1)])
    sign = charset.status_sign(ModelStatus.FAILED)
    texts = [f"{sign} {_file_name(one.where)}: {one.reason}" for one in shown]
    more = len(problems) - len(shown)
    if more and lines > 1:
        texts.append(f"  and {more} more that cannot be used; the service's log (4) names them")
    elif more:
        texts[0] = f"{sign} {len(problems)} files cannot be used; the service's log (4) names them"
    return Content.assemble(
        ("\n".join(cut(plain(text), width, charset.ellipsis) for text in texts), STYLES["busy"])
    )


def _file_name(where: str) -> str:
    """Return the last part of a path; other text unchanged."""
    return where.rpartition("/")[2] if where.startswith("/") else where


def _state(model: ModelRecord, now: datetime, charset: Charset) -> tuple[str, Tone]:
    status, tone = model.status, STATUS_TONES[model.status]
    sign = charset.status_sign(status)
    if status is ModelStatus.UNLOADED:
        if model.error:
            return f"{charset.status_sign(ModelStatus.FAILED)} {_first(model.error)}", "bad"
        return _fit(model, charset)
    if status is ModelStatus.FAILED:
        return f"{sign} {_first(model.error or 'failed')}", tone
    if status is ModelStatus.UNLOADING:
        after = f" after its {counted(model.in_flight, 'request')}" if model.in_flight else ""
        return f"{sign} unloading{after}", tone
    if status is ModelStatus.LOADED:
        return f"{sign} {_loaded(model, now, charset)}", tone
    return f"{sign} {_waiting(model)}", tone


def _first(error: str) -> str:
    return with_keys(error.strip().partition("\n")[0])


def _fit(model: ModelRecord, charset: Charset) -> tuple[str, Tone]:
    if model.fits is None:
        reason = model.fits_reason or "the memory it needs is unknown"
        return f"{charset.missing} {reason}", "dim"
    reason = model.fits_reason or ""
    # A reason that is a whole sentence follows a full stop.
    reason = f"{'.' if reason[:1].isupper() else ':'} {reason}" if reason else ""
    text = fit_cell(model.fits, charset).text
    if model.fits is Fit.AFTER_UNLOADING:
        text = f"{text[:1]} fits after unloading"
    return f"{text}{reason}", FIT_TONES[model.fits]


def _loaded(model: ModelRecord, now: datetime, charset: Charset) -> str:
    since = (now - model.loaded_at).total_seconds() if model.loaded_at else None
    parts = ["loaded" + (f" for {age_text(max(1.0, since))}" if since is not None else "")]
    if model.memory_bytes is not None:
        parts.append(f"uses {size_text(model.memory_bytes)}")
    if (context := _context(model)) is not None:
        parts.append(context)
    if model.in_flight:
        of = f" in {model.slots} slots" if model.slots else ""
        parts.append(f"{counted(model.in_flight, 'request')}{of}")
    elif model.pinned:
        parts.append("pinned")
    elif model.unload_at is not None:
        left = countdown_text((model.unload_at - now).total_seconds())
        parts.append(f"idle, unloads in {left}")
    if model.port:
        parts.append(f"port {model.port}")
    return ", ".join(parts)


def _waiting(model: ModelRecord) -> str:
    parts = []
    if model.status is ModelStatus.QUEUED:
        parts.append("queued for loading")
    elif model.progress is None:
        parts.append("loading")
    else:
        parts.append(f"loading {min(99, int(model.progress * 100))} %")
    if model.queued:
        parts.append(
            f"{counted(model.queued, 'request')} {'waits' if model.queued == 1 else 'wait'}"
        )
    if model.expected_wait_seconds is not None:
        parts.append(f"ready in about {duration_text(model.expected_wait_seconds)}")
    if model.status is ModelStatus.QUEUED and model.fits_reason:
        parts.append(model.fits_reason)
    return ", ".join(parts)

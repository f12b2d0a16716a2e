"""The models to chat with, and the texts about the selected model."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.chat.conversation import Turn
from cyber_inference_tui.tui.pages.chat.rows import rate_text
from cyber_inference_tui.tui.pages.chat.sampling import Sampling, sampling_text
from cyber_inference_tui.tui.pages.models.sentences import STYLES, unreadable_text
from cyber_inference_tui.tui.pages.models.table import fits_cell, memory_cell, state_cell
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import contexts_text

_ORDER = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.QUEUED,
    ModelStatus.UNLOADING,
    ModelStatus.UNLOADED,
    ModelStatus.FAILED,
)


def _name_cell(model: ModelRecord, context: RenderContext) -> str:
    # With the box of a model of another one.
    sign = f"{context.charset.favourite} " if model.id in context.favourites else ""
    return plain(f"{sign}{model.id}")


COLUMNS: tuple[Column[ModelRecord, RenderContext], ...] = (
    Column("model", "MODEL", least=20, value=lambda m: m.id, cell=_name_cell),
    Column("state", "STATE", 14, cell=lambda m, context: state_cell(m, context.charset)),
    Column("memory", "MEMORY", 10, right=True, priority=1, cell=memory_cell),
    Column("fits", "FITS", 9, cell=fits_cell),
)


def chat_models(models: Sequence[ModelRecord]) -> list[ModelRecord]:
    """Return the models that can chat, the fastest to answer first.

    Loaded models come first, then those that fit in the memory; unreadable ones come last. Each
    group is sorted by id.
    """
    return sorted(
        (model for model in models if not model.embedding),
        key=lambda model: (
            model.unreadable,
            _ORDER.index(model.status),
            model.fits is Fit.NEVER,
            model.id,
        ),
    )


def model_rows(models: Sequence[ModelRecord], context: RenderContext) -> list[Row]:
    """Return the rows to choose from, favourites first."""
    ordered = sorted(chat_models(models), key=lambda model: model.id not in context.favourites)
    return [row_of(model.id, model, COLUMNS, context) for model in ordered]


def title_content(
    model: ModelRecord | None,
    sampling: Sampling,
    charset: Charset,
    talks: int = 1,
    *,
    saving: bool = False,
) -> Content:
    """Return the page's title: the model, its state and the options that are set."""
    if model is None:
        return Content.styled("Chat", "bold $text-muted")
    saved = "saved" if saving else ""
    if talks > 1:
        options = [
            f"{talks} models answer each message",
            sampling_text(sampling, charset.dot),
            saved,
        ]
        return Content.styled(f" {charset.dot} ".join(filter(None, options)), "$text-muted")
    state = state_cell(model, charset)
    context = contexts_text(model.context_length, model.trained_context_length)
    remarks = [
        f"context {context}" if context else "",
        sampling_text(sampling, charset.dot),
        saved,
    ]
    return Content.assemble(
        (clean_line(model.id, limit=60), "bold"),
        "  ",
        (state.text, STYLES[state.tone]),
        (f"   {f' {charset.dot} '.join(filter(None, remarks))}", "$text-muted"),
    )


def talk_content(
    model: ModelRecord | None,
    name: str,
    turn: Turn | None,
    context: RenderContext,
    *,
    lines: int,
    active: bool,
    fastest: bool,
) -> Content:
    """Return the title of one talk beside others: its model, and the figures of its last answer.

    It has one line if the model is named elsewhere, else two, or three narrow ones.
    """
    charset = context.charset
    cursor = charset.cursor if active else " "
    named = [(f"{cursor} ", "$text-accent"), (plain(name, limit=60), "bold")]
    if model is None:
        return Content.assemble(*named)
    state = state_cell(model, charset)
    rate = None if turn is None else turn.rate
    first = None if turn is None else turn.first_seconds
    gap, line = ("  ", ""), ("\n  ", "")
    parts = [
        *((gap,) if lines == 1 else (*named, line if lines == 3 else gap)),
        (state.text, STYLES[state.tone]),
        line if lines == 2 else gap,
        (memory_cell(model, context).text, ""),
        line if lines == 3 else gap,
        (charset.known(rate, rate_text), "bold" if rate is not None else "$text-muted"),
        (f"  first {charset.known(first, '{:.2f} s'.format)}", "$text-muted"),
        ("  fastest" if fastest else "", "$text-success"),
    ]
    return Content.assemble(*parts)


def talks_content(
    names: Sequence[tuple[str, str]], active: int, width: int, charset: Charset
) -> Content:
    """Return the names of the talks of which one is shown, each with a word about its answer."""
    room = width // len(names) - 2
    parts: list[tuple[str, str]] = []
    for number, (name, word) in enumerate(names):
        shown = number == active
        most = max(4, room - len(word) - 3)
        parts += [
            (f"{charset.cursor if shown else ' '} ", "$text-accent"),
            (cut(plain(name), most, charset.ellipsis), "bold" if shown else "$text-muted"),
            (f" {word}" if word else "", "" if shown else "$text-muted"),
            ("  ", ""),
        ]
    return Content.assemble(*parts[:-1])


def invitation(model: ModelRecord | None, url: str) -> str:
    """Return the text of an empty page; each paragraph is a line."""
    if model is None:
        return (
            "There is no model to chat with yet.\n\n"
            "Press 3 to find and download models in the Hub. "
            "The dashboard (1) offers a demo model that needs no download."
        )
    name = clean_line(model.id, limit=200)
    if model.unreadable:
        ready = unreadable_text(model)
    elif model.status is ModelStatus.LOADED:
        ready = f"{name} is loaded and answers at once."
    elif model.status is ModelStatus.FAILED:
        reason = clean_line(with_keys(model.error or ""), limit=400)
        ready = f"{name} failed the last time: {reason} A message loads it again."
    elif model.fits is Fit.NEVER:
        ready = f"{name} is too big: {clean_line(model.fits_reason or '', limit=400)}."
    else:
        ready = f"{name} is {model.status.value}. The first message loads it, which takes a while."
    return (
        f"Write to try a model.\n\n{ready}\n\n"
        f"Messages go to {clean_line(url, limit=200)}/v1/chat/completions, as from any client."
    )

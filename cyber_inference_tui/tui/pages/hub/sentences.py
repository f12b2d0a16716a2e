"""The sentences of the Hub page about repositories and their models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.content import Content
from textual.screen import Screen

from cyber_inference_tui.records import Fit, HubFilesRecord, HubModelRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.hub.catalog import Offer
from cyber_inference_tui.tui.pages.models.table import fit_cell
from cyber_inference_tui.tui.suggested_models import Suggestion
from cyber_inference_tui.units import size_text

_GATED = "Gated: accept its licence on its Hugging Face page, then set hf_token in Settings (7)."
_NAMED = 3
"""Repositories that a sentence names."""


def result_sentence(
    one: HubModelRecord | None,
    offer: Offer | None = None,
    suggestion: Suggestion | None = None,
    *,
    downloading: bool = False,
    keys: str = "",
) -> str:
    """Return what to know about a repository; ``keys`` are what to press for a model of it that
    is downloaded."""
    if one is None:
        return ""
    parts = []
    if suggestion is not None:
        parts.append(f"Suggested for this machine ({suggestion.good_for}).")
    if one.gated:
        parts.append(_GATED)
    if downloading:
        parts.append("A model of it is being downloaded; ] shows that.")
    elif offer is not None and offer.local_id is not None:
        parts.append(_downloaded(offer.local_id, keys))
    elif offer is not None and offer.best is not None:
        best = offer.best
        size = f" ({size_text(best.size_bytes)})" if best.size_bytes is not None else ""
        name = clean_line(best.quantization or best.name, limit=200)
        which = "The best here" if best.suggested else "The smallest"
        parts.append(f"{which} is {name}{size}: {_fit_text(best)}")
    if not one.gated and (offer is None or offer.local_id is None):
        parts.append("enter lists its files.")
    return " ".join(parts)


def file_sentence(one: HubFilesRecord | None, *, gated: bool, keys: str = "") -> str:
    """Return what to know before downloading a model, and ``keys`` once it is downloaded."""
    if one is None:
        return ""
    parts = [f"{clean_line(one.name, limit=200)}:"]
    if one.local_id is not None:
        parts.append(_lower(_downloaded(one.local_id, keys)))
    else:
        parts.append(_fit_text(one))
    if one.suggested and one.local_id is None:
        parts.append("Suggested for this machine.")
    if one.projector is not None:
        parts.append("Its vision projector is downloaded, too.")
    if one.draft is not None:
        parts.append("Its draft head is downloaded, too.")
    if gated:
        parts.append(_GATED)
    return " ".join(parts)


def _fit_text(one: HubFilesRecord) -> str:
    how = ", with its projector in main memory" if one.projector_kept_back else ""
    if one.fits is Fit.NOW:
        return f"fits in the free memory{how}."
    if one.fits is Fit.AFTER_UNLOADING:
        idle = " and ".join(clean_line(name, limit=200) for name in one.evicts)
        verb = "are" if len(one.evicts) > 1 else "is"
        return f"fits once {idle or 'an idle model'} {verb} unloaded{how}."
    if one.fits is Fit.NEVER:
        return "too big for this machine, even with all models unloaded."
    return "the memory it needs is unknown."


def _downloaded(local_id: str, keys: str) -> str:
    after = f"; {keys}" if keys else ""
    return f"Downloaded already as {clean_line(local_id, limit=200)}{after}."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def gated_sentence(repos: Sequence[str]) -> str:
    """Return what to do before downloading from gated repositories."""
    each = "its" if len(repos) == 1 else "each"
    names = " and of ".join(clean_line(repo, limit=200) for repo in repos[:_NAMED])
    more = f" and of {len(repos) - _NAMED} more" if len(repos) > _NAMED else ""
    return (
        f"Accept the licence of {names}{more} on {each} Hugging Face page first, then set hf_token "
        "in Settings (7) to a token of that account."
    )


def marked_content(sizes: Sequence[int | None], free: int | None, charset: Charset) -> Content:
    """Return one line on marked models of these sizes, with ``free`` bytes on the disk."""
    marked = (f"{len(sizes)} marked", "bold")
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return Content.assemble(marked, ("  the size of one of them is unknown", "$text-muted"))
    size = sum(known)
    parts = [marked, (f"  {size_text(size)}", "")]
    if free is not None and size <= free:
        fit = "fit" if len(sizes) > 1 else "fits"
        parts.append((f"  {charset.check} {fit} on the disk", "$text-success"))
        parts.append((f"  {size_text(free - size)} left", "$text-muted"))
    elif free is not None:
        sign = fit_cell(Fit.NEVER, charset).text[:1]
        parts.append((f"  {sign} the disk lacks {size_text(size - free)}", "$text-error"))
        parts += [("  R", "bold $accent"), (" makes room", "$text-muted")]
    return Content.assemble(*parts)


def local_keys(page: Screen[Any]) -> str:
    """Return the keys of ``page`` that load the selected model and chat with it."""
    keys = {"load": "l loads it", "chat": "t chats with it"}
    return ", ".join(text for name, text in keys.items() if page.check_action(name, ()))

"""The sections of a model's details for its draft and its LoRA adapters."""

from __future__ import annotations

from cyber_inference_tui.records import AdapterRecord, DraftTotals, ModelDetails
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.drafts import accepted_text, gain_text
from cyber_inference_tui.terminal.text_width import cells, cut, fold, plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.models.parts import MUTED, Parts, file_parts, heading
from cyber_inference_tui.units import number_text, size_text, speed_text

SMALL_MODEL = "draft-simple"
"""The kind of a draft that is a model of its own."""
_KINDS = {
    "draft-mtp": "its prediction layers (MTP)",
    "draft-eagle3": "an EAGLE-3 head",
    "draft-dflash": "a DFlash head",
    SMALL_MODEL: "a small model",
}


def draft_parts(details: ModelDetails, charset: Charset, width: int) -> Parts:
    """Return what drafts the model's answers, and what that gained so far."""
    draft, drafted = details.draft, details.drafted
    if draft is None and drafted is None:
        return []
    parts = heading("DRAFT", f"by {_KINDS.get(draft.kind, plain(draft.kind))}" if draft else "")
    if draft is not None:
        if draft.kind == SMALL_MODEL:
            parts.append((f"{cut(plain(draft.name), width, charset.ellipsis)}\n", ""))
        else:
            for file in draft.files:
                parts += file_parts(file, "", charset, width)
        if draft.unused_because is not None:
            lines = _wrapped(clean_line(draft.unused_because), width)
            parts += [(f"{line}\n", MUTED) for line in lines]
    if drafted is not None:
        parts += [(f"{line}\n", "") for line in _gains(drafted)]
    return parts


def _gains(drafted: DraftTotals) -> list[str]:
    tokens, accepted = drafted.tokens_drafted, drafted.tokens_accepted
    lines = [f"{accepted_text(tokens, accepted)} of {number_text(tokens)} tokens accepted"]
    with_drafts, without = drafted.tokens_per_second_p50, drafted.undrafted_tokens_per_second_p50
    if with_drafts is not None and without is not None:
        speeds = f"{speed_text(with_drafts)} tok/s, {speed_text(without)} without drafts"
        lines.append(f"{gain_text(drafted)}: {speeds}")
    return lines


def adapter_parts(details: ModelDetails, charset: Charset, width: int, remark: str) -> Parts:
    """Return the adapters with their numbers and strengths."""
    if not details.adapters:
        return []
    parts = heading("LORA", remark)
    sizes = [charset.known(one.size_bytes, size_text) for one in details.adapters]
    longest = max(cells(one.name) for one in details.adapters)
    room = max(8, min(longest + 2, width - 18))
    for one, size in zip(details.adapters, sizes, strict=True):
        name = cut(plain(one.name), room, charset.ellipsis)
        space = " " * (room - cells(name))
        parts += [
            (f"{one.id:>2}  ", MUTED),
            (f"{name}{space}", ""),
            (f"{size:>8}", MUTED),
            (f"{scale_text(one, charset):>6}\n", "bold" if one.scale else MUTED),
        ]
    return parts


def scale_text(adapter: AdapterRecord, charset: Charset) -> str:
    """Return an adapter's strength."""
    return "off" if adapter.scale == 0 else charset.known(adapter.scale, "{:.4g}".format)


def _wrapped(text: str, width: int) -> list[str]:
    return fold(text, width, after=" ")

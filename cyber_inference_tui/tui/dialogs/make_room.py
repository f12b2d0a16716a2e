"""Makes room on the disk of the models: asks how much, shows what would go, and deletes it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from cyber_inference_tui.errors import ConflictError, InvalidRequestError
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.gc import GcItem, GcOrder, GcPart, GcPlan, GcQuery
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.dialogs.question import Answer
from cyber_inference_tui.tui.pages.marks import CANCEL, ask
from cyber_inference_tui.units import age_text, bytes_of, counted, size_text

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_GIB: Final = 1 << 30
_LISTED: Final = 12
"""Items that a question lists."""
_LINE: Final = 66
"""Cells of an item: the widest line of the question, beside its scroll bar."""
_NAME: Final = 24
"""Cells of the name behind "a copy of"."""
_POLL: Final = 0.5
_POLLS: Final = 120
"""Questions while files are compared; then the plan leaves out the duplicates among them."""
_SECONDS: Final = 600.0


def make_room(app: CyberApp, wished: int | None = None) -> None:
    """Ask how many bytes should be free, with ``wished`` as the answer to accept or change."""
    disks = app.snapshot.sample.disks if app.snapshot.sample is not None else ()
    # The first one is that of the models.
    free = disks[0].available if disks else None
    now = "" if free is None else f"The disk of the models has {size_text(free)} free. "
    plans: list[tuple[int, GcPlan]] = []

    async def accept(text: str) -> None:
        size = bytes_of(text)
        if size is None:
            raise InvalidRequestError(f"{clean_line(text, limit=60)} is no size, such as 12 GB.")
        plan = await _plan(app, size)
        if not plan.own.items and not plan.others.items:
            raise ConflictError(_nothing(plan))
        plans.append((size, plan))

    def shown(_: None) -> None:
        for size, plan in plans:
            _ask(app, size, plan)

    # Rounded up, so that what is needed fits.
    value = "" if wished is None else f"{math.ceil(wished / _GIB * 10) / 10:.1f} GiB"
    text = f"{now}How much should be free? Nothing is deleted without a question."
    app.push_screen(Prompt("Make room", text, accept, value=value, placeholder="12 GB"), shown)


async def _plan(app: CyberApp, size: int) -> GcPlan:
    for _ in range(_POLLS):
        plan = await app.client.call(endpoints.GC, query=GcQuery(room_bytes=size), timeout=_SECONDS)
        if not plan.hashing:
            break
        app.show_message(f"Comparing {counted(plan.hashing, 'file')} of the same size.")
        await asyncio.sleep(_POLL)
    return plan


def _nothing(plan: GcPlan) -> str:
    free = f"{size_text(plan.free_bytes)} are free"
    if not plan.missing_bytes:
        return f"{free} already."
    return (
        f"{free}, and nothing here may be deleted: models in use, pinned or in the settings stay."
    )


def _ask(app: CyberApp, size: int, plan: GcPlan) -> None:
    """Ask about the next part of a plan: our own files, then those of other programs."""
    others = not plan.own.items
    part = plan.others if others else plan.own
    whose = " of other programs" if others else ""
    what = counted(len(part.items), "item")

    async def delete(_: str) -> None:
        order = GcOrder(room_bytes=size, token=part.token)
        result = await app.client.call(endpoints.DO_GC, body=order, timeout=_SECONDS)
        app.show_message(
            " ".join([f"Freed {size_text(result.freed_bytes)}.", *result.problems]),
            "warning" if result.problems else "information",
        )
        if not others and plan.others.items:
            left = await _plan(app, size)
            if not left.own.items and left.others.items:
                _ask(app, size, left)

    ask(
        app,
        f"Delete {what}{whose} and free {size_text(part.freed_bytes)}?",
        "\n".join([*_lines(app, part), *_rest(plan, others=others)]),
        (Answer(CANCEL, "k", "Keep"), Answer("delete", "d", "Delete", destructive=True)),
        delete,
    )


def _lines(app: CyberApp, part: GcPart) -> list[str]:
    sizes = [size_text(item.freed_bytes) for item in part.items]
    width = max(map(cell_len, sizes))
    dots = app.options.charset.ellipsis
    lines = []
    for size, item in zip(sizes[:_LISTED], part.items, strict=False):
        why = f", {_why(app, item)}"
        name = cut(plain(item.name), _LINE - width - 2 - cell_len(why), dots)
        lines.append(f"{size:>{width}}  {name}{why}")
    more = len(part.items) - _LISTED
    return [*lines, f"and {more} more"] if more > 0 else lines


def _why(app: CyberApp, item: GcItem) -> str:
    if item.copy_of is not None:
        return f"a copy of {cut(plain(item.copy_of), _NAME, app.options.charset.ellipsis)}"
    if item.reason != "unused":
        return item.reason
    if item.last_used_at is None:
        return "never used"
    return f"used {age_text(max(1.0, (app.options.now() - item.last_used_at).total_seconds()))} ago"


def _rest(plan: GcPlan, *, others: bool) -> list[str]:
    """Return what is to be known besides: a further question, and bytes that stay missing."""
    rest = []
    if not others and plan.others.items:
        rest.append(
            f"Then {counted(len(plan.others.items), 'item')} of other programs "
            f"({size_text(plan.others.freed_bytes)}), after another question."
        )
    if plan.missing_bytes:
        rest.append(f"{size_text(plan.missing_bytes)} would still be missing.")
    return ["", *rest] if rest else []

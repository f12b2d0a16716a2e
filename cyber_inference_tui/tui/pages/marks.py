"""Marked rows of a table, and what is done with all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.widgets.live_table import LiveTable

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

T = TypeVar("T")
CANCEL = "cancel"
"""The answer after which nothing is done."""


def toggled(marks: frozenset[str], table: LiveTable) -> frozenset[str]:
    """Return ``marks`` with or without the row under the cursor, which goes to the next one."""
    if (key := table.cursor_key) is None:
        return marks
    table.action_move(1)
    return marks ^ {key}


def ask(
    app: CyberApp,
    title: str,
    text: str,
    answers: tuple[Answer, ...],
    work: Callable[[str], Coroutine[Any, Any, None]],
) -> None:
    """Ask, and do ``work`` with the answer, unless that is ``CANCEL``."""

    def answered(value: str | None) -> None:
        if value not in {None, CANCEL}:
            app.do(work(str(value)))

    app.push_screen(Question(title, text, answers), answered)


async def act_on_each(things: Iterable[T], act: Callable[[T], Awaitable[object]]) -> None:
    """Act on each thing, also if that fails for one of them; raise the first error."""
    failed: list[CyberError] = []
    for thing in things:
        try:
            await act(thing)
        except CyberError as error:
            failed.append(error)
    if failed:
        raise failed[0]

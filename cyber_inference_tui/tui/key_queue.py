"""Handles keys one at a time: each after the app has carried out the key before it.

A slow line, tmux and macro keyboards deliver several keys in one packet. Textual forwards each of
them to the focused widget at once, before the first key has opened the field or the dialog for
the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from textual import events
from textual.app import App
from textual.message_pump import MessagePump
from textual.widgets import Input, TextArea
from textual.worker import Worker, WorkerError

_LIMIT = 2.0
"""Seconds after which the next key is handled in any case."""
_CAPACITY = 10_000
"""Maximum waiting keys, such as of a paste in a terminal that does not mark pastes."""
OPENING = "opening"
"""Group of workers that carry out a key, such as opening a dialog; the next keys wait for them."""


class KeyQueue:
    """The keys and pastes that an app has not handled yet.

    It calls ``on_dropped`` for each key that it cannot keep.
    """

    def __init__(self, app: App[Any], on_dropped: Callable[[], None]) -> None:
        self._app = app
        self._on_dropped = on_dropped
        self._waiting: deque[events.Event] = deque()
        self._due: events.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._late: WeakSet[Worker[Any]] = WeakSet()
        """Workers that took too long once: no other key waits for them."""

    def admits(self, event: events.Event) -> bool:
        """Return whether the app may handle ``event`` now; else post it again later."""
        if event is self._due:
            self._due = None
        elif self._task is not None or self._due is not None:
            if len(self._waiting) < _CAPACITY:
                self._waiting.append(event)
            else:
                self._on_dropped()
            return False
        if self._is_text(event):
            self._post_next()
        else:
            self._task = asyncio.create_task(self._settle())
        return True

    def _is_text(self, event: events.Event) -> bool:
        """Return whether the event only changes the text of the focused field."""
        if isinstance(event, events.Key) and not event.is_printable:
            return False
        return isinstance(self._app.focused, Input | TextArea)

    def _post_next(self) -> None:
        if self._waiting:
            self._due = self._waiting.popleft()
            self._app.post_message(self._due)

    async def _settle(self) -> None:
        """Wait until the app has carried out a key and shows what it opened."""
        app = self._app
        try:
            async with asyncio.timeout(_LIMIT):
                before: object = None
                # An action may defer its work to the end of the app's message queue: look twice.
                while before != (now := (app.screen, app.focused)):
                    before = now
                    for pump in (*_from_focus_to_app(app), app):
                        await _processed(pump)
                    for worker in self._opening():
                        before = None
                        await ended(worker)
        except TimeoutError:
            app.log.warning("a key was not carried out in time")
            self._late.update(self._opening())
        finally:
            self._task = None
            self._post_next()

    def _opening(self) -> list[Worker[Any]]:
        return [one for one in self._app.workers if one.group == OPENING and one not in self._late]


async def ended(worker: Worker[Any]) -> None:
    """Wait for a worker's end; whoever stops waiting does not cancel it, as ``wait`` alone would.

    An error is handled where the worker was started.
    """

    async def wait() -> None:
        with contextlib.suppress(WorkerError):
            await worker.wait()

    await asyncio.shield(wait())


def _from_focus_to_app(app: App[Any]) -> list[MessagePump]:
    """The objects that a key passes on its way up, in order."""
    return list((app.focused or app.screen).ancestors_with_self)


async def _processed(pump: MessagePump) -> None:
    """Return when ``pump`` has processed all messages that it has now."""
    done = asyncio.Event()
    if pump.call_later(done.set):
        await done.wait()

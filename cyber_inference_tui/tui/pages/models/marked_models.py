"""Several models at once: marks in the table, and actions on all marked ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static
from textual.worker import Worker

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    Fit,
    MemoryAtContext,
    ModelRecord,
    ModelStatus,
    endpoints,
    queries,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer
from cyber_inference_tui.tui.pages.marks import CANCEL, act_on_each, ask
from cyber_inference_tui.tui.pages.models.marked_set import (
    MarkedSet,
    largest_context,
    marked_bar,
    marked_content,
    marked_set,
    names_text,
)
from cyber_inference_tui.tui.pages.models.model_actions import INACTIVE, ModelActions
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.stacked_bar import StackedBar
from cyber_inference_tui.units import counted, size_text

MOST_TABLES = 16
"""Marked models whose memory by context is read; more have no common context."""
_LISTED = 8
"""Models that a question lists."""
_CANCEL = Answer(CANCEL, "c", "Cancel")


class MarkedModels(ModelActions):
    """A page whose actions act on the marked models, or on the selected one if none is marked."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: frozenset[str] = frozenset()
        self._tables: dict[str, tuple[object, Sequence[MemoryAtContext]]] = {}
        """The memory by context of marked models, with the state for which it was read."""
        self._reading_tables: Worker[None] | None = None

    def marked_body(self) -> ComposeResult:
        """Compose the lines about the set."""
        with Vertical(id="marked"):
            yield Static(id="marked-text")
            yield StackedBar(charset=self.cyber.options.charset, id="marked-bar")

    @property
    def marks(self) -> frozenset[str]:
        """The ids of the marked models."""
        return self._marks

    def marked(self) -> tuple[ModelRecord, ...]:
        """Return the marked models."""
        return tuple(one for one in self.cyber.snapshot.models if one.id in self._marks)

    def mark(self, ids: frozenset[str]) -> None:
        """Mark these models and no others."""
        self._marks = ids
        self.redraw()
        self.refresh_bindings()

    def show_marked(self, snapshot: Snapshot) -> None:
        """Show the need of the set and whether it fits; marks of removed models go."""
        self._marks &= {model.id for model in snapshot.models}
        box = self.query_one("#marked")
        box.display = bool(self._marks)
        if not self._marks:
            self._tables.clear()
            return
        chosen = self._set()
        tables = {name: table for name, (_, table) in self._tables.items()}
        context = largest_context(chosen, tables)
        charset = self.cyber.options.charset
        update_static(
            self.query_one("#marked-text", Static), marked_content(chosen, context, charset)
        )
        self.query_one(StackedBar).show(*marked_bar(chosen))
        self._want_tables(snapshot)

    def _set(self) -> MarkedSet:
        snapshot = self.cyber.snapshot
        return marked_set(snapshot.models, self._marks, snapshot.rooms)

    def _want_tables(self, snapshot: Snapshot) -> None:
        """Read the memory by context of the marked models, one after the other."""
        if not snapshot.live:
            self._tables.clear()
        elif self._unread() and (self._reading_tables is None or self._reading_tables.is_finished):
            self._reading_tables = self.run_worker(
                self._read_tables(), group="tables", exit_on_error=False
            )

    def _unread(self) -> list[ModelRecord]:
        chosen = self.marked()
        if len(chosen) > MOST_TABLES:
            return []
        return [
            model
            for model in chosen
            if self._tables.get(model.id, ((), ()))[0] != self._state(model)
        ]

    def _state(self, model: ModelRecord) -> object:
        return model.context_size, self.cyber.snapshot.config_version

    async def _read_tables(self) -> None:
        while unread := self._unread():
            model = unread[0]
            state = self._state(model)
            table: Sequence[MemoryAtContext] = ()
            with contextlib.suppress(CyberError):  # without it, they have no common context
                table = (await self.client.call(endpoints.DETAILS, model.id)).memory
            self._tables[model.id] = (state, table)
        self.redraw()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available for a marked model, or for the selected one."""
        if self._marks and action in {"load", "unload", "pin", "delete"}:
            # Not for the selected model only.
            if not super(ModelActions, self).check_action(action, parameters):
                return False
            states = {model.status for model in self.marked()}
            if action == "load":
                return bool(states & INACTIVE)
            if action == "unload":
                return bool(states - INACTIVE - {ModelStatus.UNLOADING})
            return True
        return super().check_action(action, parameters)

    def action_load(self) -> None:
        """Load the marked models, or the selected one; ask before others are unloaded."""
        if not self._marks:
            super().action_load()
            return
        chosen = self._set()
        unreadable = [model for model in chosen.to_load if model.unreadable]
        if unreadable:
            verb = "is" if len(unreadable) == 1 else "are"
            self.cyber.show_message(f"{names_text(unreadable)} {verb} unreadable.", "warning")
        elif chosen.fit is Fit.NEVER and chosen.needs is not None and chosen.room is not None:
            self.cyber.show_message(
                f"The {len(chosen.models)} marked models do not fit together: they need "
                f"{size_text(chosen.needs)}, and {size_text(chosen.room)} can be had.",
                "warning",
            )
        elif chosen.evicts:
            ask(
                self.cyber,
                f"Load {counted(len(chosen.to_load), 'model')}?",
                f"{names_text(chosen.evicts)} will be unloaded first.",
                (_CANCEL, Answer("load", "l", "Load")),
                lambda _: self._load_set(chosen),
            )
        else:
            self.cyber.do(self._load_set(chosen))

    async def _load_set(self, chosen: MarkedSet) -> None:
        for model in chosen.evicts:
            await self.client.call(endpoints.UNLOAD, model.id)
        await act_on_each(chosen.to_load, self._load)

    async def _load(self, model: ModelRecord) -> None:
        await self.client.call(endpoints.LOAD, model.id, query=queries.LoadQuery(wait=False))

    def action_unload(self) -> None:
        """Unload the marked models, or the selected one; ask if any has requests."""
        if not self._marks:
            super().action_unload()
            return
        leaving = INACTIVE | {ModelStatus.UNLOADING}
        chosen = [model for model in self.marked() if model.status not in leaving]
        requests = sum(model.in_flight + model.queued for model in chosen)
        if requests:
            ask(
                self.cyber,
                f"Unload {counted(len(chosen), 'model')}?",
                f"They have {counted(requests, 'request')}.",
                (
                    Answer("wait", "w", "Wait"),
                    Answer("now", "n", "Unload now", destructive=True),
                    _CANCEL,
                ),
                lambda answer: self._unload_all(chosen, force=answer == "now"),
            )
        else:
            self.cyber.do(self._unload_all(chosen))

    async def _unload_all(self, models: Sequence[ModelRecord], *, force: bool = False) -> None:
        async def unload(model: ModelRecord) -> None:
            query = queries.UnloadQuery(force=force)
            await self.client.call(endpoints.UNLOAD, model.id, query=query)

        # At once, because an unload waits for the requests of its model.
        await asyncio.gather(*(act_on_each([model], unload) for model in models))

    def action_pin(self) -> None:
        """Pin the marked models, or unpin them if all are pinned."""
        if not self._marks:
            super().action_pin()
            return
        chosen = self.marked()
        endpoint = endpoints.UNPIN if all(one.pinned for one in chosen) else endpoints.PIN

        async def pin(model: ModelRecord) -> None:
            await self.client.call(endpoint, model.id)

        self.cyber.do(act_on_each([one for one in chosen if not one.unreadable], pin))

    def action_delete(self) -> None:
        """Delete the files of the marked models after a question, or of the selected one."""
        if not self._marks:
            super().action_delete()
            return
        chosen = self.marked()
        staying = [
            model
            for model in chosen
            if model.origin != "models_dir" or model.status not in INACTIVE
        ]
        going = [model for model in chosen if model not in staying]
        stay = f"{names_text(staying)} cannot be deleted: " if staying else ""
        stay += "only unloaded models in the models directory can." if staying else ""
        if not going:
            self.cyber.show_message(stay, "warning")
            return
        names = [clean_line(model.id, limit=200) for model in going]
        if len(names) > _LISTED:
            names = [*names[: _LISTED - 1], f"and {len(names) - _LISTED + 1} more"]
        size = size_text(sum(model.size_bytes or 0 for model in going))

        async def delete(model: ModelRecord) -> None:
            await self.client.call(endpoints.DELETE_MODEL, model.id)

        ask(
            self.cyber,
            f"Delete {counted(len(going), 'model')}, {size}?",
            "\n".join(["Their files are removed from the disk:", *names, *filter(None, [stay])]),
            (Answer(CANCEL, "k", "Keep them"), Answer("delete", "d", "Delete", destructive=True)),
            lambda _: act_on_each(going, delete),
        )

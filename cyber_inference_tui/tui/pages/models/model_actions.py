"""The actions on a model with their questions, the same on every page.

An action imports what it needs when it is used, because the first frame shows the dashboard.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import ClassVar

from textual.binding import Binding, BindingType

from cyber_inference_tui.records import (
    AdapterRecord,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    endpoints,
    queries,
)
from cyber_inference_tui.records.checks import Outcome
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.snapshot import RemoteModel
from cyber_inference_tui.units import counted, size_text

INACTIVE = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})
"""States of a model without a server that is neither loading nor queued."""
_CHECK_SECONDS = 3600.0
"""Time for a load and some answers on a slow machine."""
MODEL_ACTIONS = frozenset(
    {
        "load",
        "unload",
        "pin",
        "check",
        "adapters",
        "details",
        "edit",
        "log",
        "chat",
        "copy_command",
        "copy_id",
        "delete",
    }
)


def model_bindings(page: str) -> list[BindingType]:
    """Return the keys that every page with models has; ``page`` begins their ids."""
    return [
        Binding("l", "load", "Load", id=f"{page}.load", tooltip="start the model's server"),
        Binding("u", "unload", "Unload", id=f"{page}.unload", tooltip="stop the model's server"),
        Binding("p", "pin", "Pin", id=f"{page}.pin", tooltip="keep the model loaded, or unpin it"),
        Binding("o", "log", "Log", id=f"{page}.log", tooltip="open the log of its server"),
        Binding("e", "edit", "Edit", id=f"{page}.edit", tooltip="change the model's own settings"),
        Binding("t", "chat", "Chat", id=f"{page}.chat", tooltip="try the model"),
        box_binding(page),
        Binding(
            "c",
            "copy_id",
            "Copy id",
            show=False,
            id=f"{page}.copy-id",
            tooltip="the name to use in requests",
        ),
        Binding(
            "x,delete", "delete", "Delete", id=f"{page}.delete", tooltip="delete the model's files"
        ),
    ]


def room_binding(page: str) -> Binding:
    """Return the key that makes room on the disk."""
    return Binding(
        "R",
        "make_room",
        "Make room",
        show=False,
        id=f"{page}.make-room",
        tooltip="delete what nobody needs, then the models unused for the longest time",
    )


def box_binding(page: str) -> Binding:
    """Return the key that chooses the boxes whose rows are shown."""
    return Binding(
        "b", "box", "Box", id=f"{page}.box", tooltip="show all boxes, this one or another"
    )


class ModelActions(Page):
    """A page with a selected model. A page binds keys to the actions that it offers."""

    STEERING: ClassVar[frozenset[str]] = frozenset(
        {
            "load",
            "unload",
            "pin",
            "check",
            "adapters",
            "delete",
            "edit",
            "chat",
            "presets",
            "make_room",
        }
    )

    def chosen_details(self) -> ModelDetails | None:
        """Return the details of the selected model, if the page shows them."""
        return None

    def edited(self) -> None:
        """React to a possible change of the selected model's settings."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available for the selected model in its state."""
        if not super().check_action(action, parameters):
            return False
        if action not in MODEL_ACTIONS or not self.is_mounted:
            return True
        model = self.chosen()
        if model is None:
            return False
        if action in {"edit", "delete"} and isinstance(model, RemoteModel):
            return False  # that is done on its own box
        if action == "delete" and model.preset_of:
            return False  # its files are those of its model
        if action == "load":
            return model.status in INACTIVE
        if action == "unload":
            return model.status not in INACTIVE | {ModelStatus.UNLOADING}
        if action == "chat":
            return not model.embedding
        details = self.chosen_details()
        if action == "copy_command":
            return details is not None and bool(details.command)
        if action == "adapters":
            return details is None or bool(details.adapters)
        return True

    def _usable(self) -> ModelRecord | None:
        """Return the selected model; if its file is unreadable, say so and return ``None``."""
        from cyber_inference_tui.tui.pages.models.sentences import unreadable_text  # noqa: PLC0415

        model = self.chosen()
        if model is None or not (reason := unreadable_text(model)):
            return model
        self.cyber.show_message(reason, "warning")
        return None

    def action_load(self) -> None:
        """Load the model."""
        if (model := self._usable()) is not None:
            self.load(model.id)

    def load(self, model_id: str) -> None:
        """Load the model with this id."""
        client, there = self.cyber.at(model_id)
        self.cyber.do(client.call(endpoints.LOAD, there, query=queries.LoadQuery(wait=False)))

    def action_unload(self) -> None:
        """Unload the model; ask first if it has running or waiting requests."""
        model = self.chosen()
        if model is None:
            return
        client, there = self.cyber.at(model.id)
        running, waiting = model.in_flight, model.queued
        if not running and not waiting:
            self.cyber.do(client.call(endpoints.UNLOAD, there))
            return
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415

        def answered(value: str | None) -> None:
            if value in {"wait", "now"}:
                query = queries.UnloadQuery(force=value == "now")
                self.cyber.do(client.call(endpoints.UNLOAD, there, query=query))

        text = f"It is serving {counted(running, 'request')}" if running else ""
        if waiting:
            many = counted(waiting, "request") if not running else f"{waiting} more"
            verb = "is" if waiting == 1 else "are"
            text += f"{' and ' if running else ''}{many} {verb} waiting"
        self.app.push_screen(
            Question(
                f"Unload {clean_line(model.id, limit=200)}?",
                f"{text}.",
                (
                    Answer("wait", "w", "Wait"),
                    Answer("now", "n", "Unload now", destructive=True),
                    Answer("cancel", "c", "Cancel"),
                ),
            ),
            answered,
        )

    def action_pin(self) -> None:
        """Pin or unpin the model."""
        model = self.chosen()
        if model is not None and (model.pinned or self._usable() is not None):
            client, there = self.cyber.at(model.id)
            endpoint = endpoints.UNPIN if model.pinned else endpoints.PIN
            self.cyber.do(client.call(endpoint, there))

    def action_check(self) -> None:
        """Try what the model can do, which loads it."""
        if (model := self._usable()) is not None:
            name = clean_line(model.id, limit=200)
            self.cyber.show_message(f"Trying what {name} can do. The details will say it.")
            self.cyber.do(self._check(model, name))

    async def _check(self, model: ModelRecord, name: str) -> None:
        client, there = self.cyber.at(model.id)
        check = await client.call(endpoints.CHECK_MODEL, there, timeout=_CHECK_SECONDS)
        can = [one.ability.value for one in check.trials if one.outcome is Outcome.YES]
        cannot = [one.ability.value for one in check.trials if one.outcome is Outcome.NO]
        failed = f" It failed: {', '.join(cannot)}." if cannot else ""
        self.cyber.show_message(f"{name} passed: {', '.join(can) or 'nothing'}.{failed}")
        self.edited()

    def action_delete(self) -> None:
        """Delete the model's files after a question."""
        model = self.chosen()
        if model is None:
            return
        name = clean_line(model.id, limit=200)
        if model.origin != "models_dir":
            path = clean_line(model.path or "", limit=300)
            where = f" ({path})" if path else ""
            self.cyber.show_message(
                f"{name} cannot be deleted: it comes from {clean_line(model.origin)}{where}. "
                "Only models in the models directory can.",
                "warning",
            )
        elif model.status not in INACTIVE:
            self.cyber.show_message(
                f"{name} is {model.status.value}. Unload it first (u).", "warning"
            )
        else:
            self.cyber.do(self._ask_delete(model), group=OPENING)

    async def _ask_delete(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415
        from cyber_inference_tui.tui.pages.models.details import files_to_delete_text  # noqa: PLC0415

        details = await self.client.call(endpoints.DETAILS, model.id)
        if not self.is_current:
            return  # another page or dialog is open by now
        name = clean_line(model.id, limit=200)
        size = self.cyber.options.charset.known(model.size_bytes, size_text)
        files = files_to_delete_text(details) or clean_line(model.path or "", limit=300)

        def answered(value: str | None) -> None:
            if value == "delete":
                self.cyber.do(
                    self.client.call(endpoints.DELETE_MODEL, model.id), done=f"{name} was deleted."
                )

        self.app.push_screen(
            Question(
                f"Delete {name}, {size}?",
                f"These files are removed from the disk:\n{files}",
                (Answer("keep", "k", "Keep it"), Answer("delete", "d", "Delete", destructive=True)),
            ),
            answered,
        )

    def wished_room(self) -> int | None:
        """Return the bytes that should be free, if the page knows."""
        return None

    def action_make_room(self) -> None:
        """Make room on the disk."""
        from cyber_inference_tui.tui.dialogs.make_room import make_room  # noqa: PLC0415 - seldom

        make_room(self.cyber, self.wished_room())

    def action_edit(self) -> None:
        """Edit the model's own settings."""
        if (model := self.chosen()) is not None:
            self.cyber.do(self._edit(model), group=OPENING)

    async def _edit(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.pages.models.form import ModelForm  # noqa: PLC0415 - seldom

        details = await self.client.call(endpoints.DETAILS, model.id)
        if not self.is_current:
            return  # another page or dialog is open by now
        status = self.cyber.snapshot.status

        def left(saved: str | None) -> None:
            self.edited()
            if saved:
                self.cyber.show_message(
                    f"Saved settings of {clean_line(model.id, limit=200)}. {saved}."
                )

        path = status.config_path if status is not None else None
        self.app.push_screen(ModelForm(details, config_path=path or ""), left)

    def action_adapters(self) -> None:
        """Change the strengths of the model's LoRA adapters."""
        if (model := self._usable()) is not None:
            self.cyber.do(self._adapters(model), group=OPENING)

    async def _adapters(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.dialogs.adapters import AdaptersDialog  # noqa: PLC0415 - seldom

        client, there = self.cyber.at(model.id)
        details = await client.call(endpoints.DETAILS, there)
        if not self.is_current:
            return  # another page or dialog is open by now
        name = clean_line(model.id, limit=200)
        if not details.adapters:
            self.cyber.show_message(f"{name} has no LoRA adapters.", "warning")
            return
        if model.status is not ModelStatus.LOADED:
            self.cyber.show_message(
                f"{name} is not loaded. Load it first (l); lora in its settings (e) sets the"
                " strengths of every start.",
                "warning",
            )
            return

        def change(number: int, scale: float) -> Awaitable[list[AdapterRecord]]:
            new = queries.NewScale(id=number, scale=scale)
            return client.call(endpoints.SCALE_ADAPTER, there, body=new)

        charset = self.cyber.options.charset
        self.app.push_screen(
            AdaptersDialog(details.adapters, change, charset=charset), lambda _: self.edited()
        )

    def action_copy_id(self) -> None:
        """Copy the model's id."""
        if (model := self.chosen()) is not None:
            self._copy(model.id, f"Copied {clean_line(model.id, limit=200)}.")

    def action_copy_command(self) -> None:
        """Copy the command line of its server."""
        from cyber_inference_tui.tui.pages.models.details import command_line  # noqa: PLC0415

        details = self.chosen_details()
        if details is not None and details.command:
            self._copy(command_line(details), "Copied the command line of its server.")

    def _copy(self, text: str, message: str) -> None:
        self.app.copy_to_clipboard(text)
        self.cyber.show_message(message)

    async def action_log(self) -> None:
        """Open the model's log."""
        if (model := self.chosen()) is not None:
            await self.cyber.open_log(model.id)

    async def action_chat(self) -> None:
        """Open a chat with the model."""
        if (model := self._usable()) is not None:
            await self.cyber.open_chat(model.id)

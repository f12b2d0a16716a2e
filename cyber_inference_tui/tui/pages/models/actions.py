"""The actions on one model and the questions they ask first, the same on every page.

What an action needs is imported when it is used: the dashboard is the first page to be shown.
"""

from __future__ import annotations

from typing import ClassVar

from cyber_inference_tui.records import ModelDetails, ModelRecord, ModelStatus, endpoints, queries
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.figures import memory_text, requests_text
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.page import Page

RESTING = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})
"""The states in which a model has no server and waits for none."""
_ON_MODEL = frozenset(
    {"load", "unload", "pin", "details", "edit", "log", "chat", "copy_command", "copy_id", "delete"}
)


class ModelActions(Page):
    """A page with a chosen model, and the actions on it. A page binds keys to those it offers."""

    STEERING: ClassVar[frozenset[str]] = frozenset(
        {"load", "unload", "pin", "delete", "edit", "chat"}
    )

    def chosen(self) -> ModelRecord | None:
        """The model that the actions are about."""
        raise NotImplementedError

    def chosen_details(self) -> ModelDetails | None:
        """The details of the chosen model, if the page shows them."""
        return None

    def edited(self) -> None:
        """Called when the settings of the chosen model may have changed."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done with the chosen model in its state."""
        if not super().check_action(action, parameters):
            return False
        if action not in _ON_MODEL or not self.is_mounted:
            return True
        model = self.chosen()
        if model is None:
            return False
        if action == "load":
            return model.status in RESTING
        if action == "unload":
            return model.status not in RESTING | {ModelStatus.UNLOADING}
        if action == "copy_command":
            details = self.chosen_details()
            return details is not None and bool(details.command)
        return True

    def action_load(self) -> None:
        """Load it."""
        if (model := self.chosen()) is not None:
            self.cyber.do(
                self.client.call(endpoints.LOAD, model.id, query=queries.LoadQuery(wait=False))
            )

    def action_unload(self) -> None:
        """Unload it; asks first where it has requests, running or waiting."""
        model = self.chosen()
        if model is None:
            return
        running, waiting = model.in_flight, model.queued
        if not running and not waiting:
            self.cyber.do(self.client.call(endpoints.UNLOAD, model.id))
            return
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415

        def answered(value: str | None) -> None:
            if value in {"wait", "now"}:
                query = queries.UnloadQuery(force=value == "now")
                self.cyber.do(self.client.call(endpoints.UNLOAD, model.id, query=query))

        text = f"It is serving {requests_text(running)}" if running else ""
        if waiting:
            many = requests_text(waiting) if not running else f"{waiting} more"
            verb = "is" if waiting == 1 else "are"
            text += f"{' and ' if running else ''}{many} {verb} waiting"
        self.app.push_screen(
            Question(
                f"Unload {clean_line(model.id, limit=200)}?",
                f"{text}.",
                (
                    Answer("wait", "w", "Wait"),
                    Answer("now", "n", "Unload now", grave=True),
                    Answer("cancel", "c", "Cancel"),
                ),
            ),
            answered,
        )

    def action_pin(self) -> None:
        """Keep it loaded, or no longer."""
        if (model := self.chosen()) is not None:
            self.cyber.do(
                self.client.call(endpoints.UNPIN if model.pinned else endpoints.PIN, model.id)
            )

    def action_delete(self) -> None:
        """Delete its files, after asking."""
        model = self.chosen()
        if model is None:
            return
        name = clean_line(model.id, limit=200)
        if model.origin != "models_dir":
            path = clean_line(model.path or "", limit=300)
            where = f" ({path})" if path else ""
            self.cyber.tell(
                f"{name} is not deleted: it comes from {clean_line(model.origin)}{where}. Only "
                "models in the models directory can be deleted here.",
                "warning",
            )
        elif model.status not in RESTING:
            self.cyber.tell(f"{name} is {model.status.value}. Unload it first (u).", "warning")
        else:
            self.cyber.do(self._ask_delete(model), group=OPENING)

    async def _ask_delete(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415
        from cyber_inference_tui.tui.pages.models.details import doomed_text  # noqa: PLC0415

        details = await self.client.call(endpoints.DETAILS, model.id)
        if not self.is_current:
            return  # meanwhile something else was asked for
        name = clean_line(model.id, limit=200)
        size = memory_text(model.size_bytes, charset=self.cyber.launch.charset)
        files = doomed_text(details) or clean_line(model.path or "", limit=300)

        def answered(value: str | None) -> None:
            if value == "delete":
                self.cyber.do(
                    self.client.call(endpoints.DELETE_MODEL, model.id), done=f"{name} is deleted."
                )

        self.app.push_screen(
            Question(
                f"Delete {name}, {size}?",
                f"This is removed from the disk:\n{files}",
                (Answer("keep", "k", "Keep it"), Answer("delete", "d", "Delete", grave=True)),
            ),
            answered,
        )

    def action_edit(self) -> None:
        """Change its own settings."""
        if (model := self.chosen()) is not None:
            self.cyber.do(self._edit(model), group=OPENING)

    async def _edit(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.pages.models.form import ModelForm  # noqa: PLC0415 - seldom

        details = await self.client.call(endpoints.DETAILS, model.id)
        if not self.is_current:
            return  # meanwhile something else was asked for
        status = self.cyber.snapshot.status

        def left(saved: str | None) -> None:
            self.edited()
            if saved:
                self.cyber.tell(f"Saved for {clean_line(model.id, limit=200)}. {saved}.")

        path = status.config_path if status is not None else None
        self.app.push_screen(ModelForm(details, config_path=path or ""), left)

    def action_copy_id(self) -> None:
        """Copy its id."""
        if (model := self.chosen()) is not None:
            self._copy(model.id, f"Copied {clean_line(model.id, limit=200)}.")

    def action_copy_command(self) -> None:
        """Copy its server's command line."""
        from cyber_inference_tui.tui.pages.models.details import command_line  # noqa: PLC0415

        details = self.chosen_details()
        if details is not None and details.command:
            self._copy(command_line(details), "Copied the command of its server.")

    def _copy(self, text: str, told: str) -> None:
        self.app.copy_to_clipboard(text)
        self.cyber.tell(told)

    async def action_log(self) -> None:
        """Open its log."""
        if (model := self.chosen()) is not None:
            await self.cyber.open_log(model.id)

    async def action_chat(self) -> None:
        """Open a chat with it."""
        if (model := self.chosen()) is not None:
            await self.cyber.open_chat(model.id)

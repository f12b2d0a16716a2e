"""What can be done with one model, asked for and told as on every page that does it."""

from __future__ import annotations

from cyber_inference_tui.records import ModelDetails, ModelRecord, ModelStatus, endpoints, queries
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.figures import memory_text
from cyber_inference_tui.tui.pages.model_details import command_line, doomed_text
from cyber_inference_tui.tui.pages.model_lines import requests_text
from cyber_inference_tui.tui.pages.page import Page

ASLEEP = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})
"""The states in which a model has no server and waits for none."""


class ModelActions(Page):
    """A page with a chosen model, and the actions on it."""

    def chosen(self) -> ModelRecord | None:
        """The model that the actions are about."""
        raise NotImplementedError

    def chosen_details(self) -> ModelDetails | None:
        """Its details, if they are on the screen."""
        raise NotImplementedError

    def edited(self) -> None:
        """Its settings may have changed."""
        raise NotImplementedError

    def action_load(self) -> None:
        """Load it."""
        if (model := self.chosen()) is not None:
            self.cyber.do(
                self.client.call(endpoints.LOAD, model.id, query=queries.LoadQuery(wait=False))
            )

    def action_unload(self) -> None:
        """Unload it; asks when it has requests to answer."""
        model = self.chosen()
        if model is None:
            return
        busy = model.in_flight + model.queued
        if not busy:
            self.cyber.do(self.client.call(endpoints.UNLOAD, model.id))
            return

        def answered(value: str | None) -> None:
            if value in {"after", "now"}:
                self.cyber.do(
                    self.client.call(
                        endpoints.UNLOAD,
                        model.id,
                        query=queries.UnloadQuery(force=value == "now"),
                    )
                )

        told = [f"{requests_text(model.in_flight)} in work"] if model.in_flight else []
        told += [f"{requests_text(model.queued)} waiting"] if model.queued else []
        its = "its request" if busy == 1 else f"its {busy} requests"
        self.app.push_screen(
            Question(
                f"Unload {clean_line(model.id, limit=200)}?",
                f"It has {' and '.join(told)}.",
                (
                    Answer("after", "a", f"After {its}"),
                    Answer("now", "n", "At once", grave=True),
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
        elif model.status not in ASLEEP:
            self.cyber.tell(f"{name} is {model.status.value}. Unload it first (u).", "warning")
        else:
            self.cyber.do(self._ask_delete(model), group="ask")

    async def _ask_delete(self, model: ModelRecord) -> None:
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
            self.cyber.do(self._edit(model), group="ask")

    async def _edit(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.pages.model_form import ModelForm  # noqa: PLC0415 - seldom

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

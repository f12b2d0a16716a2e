"""Opens pages at a model, a log or a setting, and runs their actions."""

from __future__ import annotations

import asyncio

from textual.app import App

from cyber_inference_tui.tui.app_options import AfterExit
from cyber_inference_tui.tui.key_queue import OPENING

_OPENING_LIMIT = 1.0


class Navigation(App[AfterExit]):
    """The part of the app that moves between pages."""

    async def action_open(self, mode: str) -> None:
        """Open a page. It is awaited because the next key may be for the new page."""
        await self.switch_mode(mode)

    async def open_model(self, model_id: str) -> None:
        """Open the Models page with the cursor on a model."""
        await self._open_at("models", "select", model_id)

    async def open_log(self, log_id: str) -> None:
        """Open a log on the Logs page."""
        await self._open_at("logs", "open", log_id)

    async def open_chat(self, model_id: str) -> None:
        """Open the Chat page with a model."""
        await self._open_at("chat", "choose", model_id)

    async def _open_at(self, mode: str, method: str, name: str) -> None:
        """Open a page and call its ``method`` with ``name`` after the first layout."""
        await self.switch_mode(mode)
        call = getattr(self.screen, method, None)
        if call is None:
            return
        opened = asyncio.Event()
        self.call_after_refresh(call, name)
        self.call_after_refresh(opened.set)
        # The page may be left before its layout; keys must not wait for it then.
        waiting = asyncio.wait_for(opened.wait(), _OPENING_LIMIT)
        self.run_worker(waiting, group=OPENING, exit_on_error=False)

    async def run_on_page(self, mode: str, action: str) -> None:
        """Open a page, and run one of its actions."""
        await self._open_at(mode, "run_when_shown", action)

    async def run_on_model(self, model_id: str, action: str) -> None:
        """Open the Models page at a model, and run an action on it."""
        await self.open_model(model_id)
        self.call_after_refresh(self.screen.run_action, action)

    async def open_setting(self, key: str) -> None:
        """Open the Settings page at a setting."""
        await self._open_at("settings", "select", key)

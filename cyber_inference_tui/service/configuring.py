"""The configuration of a running service: read anew when its file changes, and edited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.records import ConfigValueRecord
from cyber_inference_tui.settings.edit import set_value, split_key
from cyber_inference_tui.settings.load import Loaded, load_if_there
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.settings.watch import FileWatch

_WATCH_INTERVAL = 1.0

_logger = logging.getLogger(__name__)


class Configuration:
    """The settings in force, and every way in which they change while the service runs.

    ``apply`` puts settings that differ from the former ones into effect. ``tell`` hears ``None``
    when that is done, and why a changed file was refused.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        environ: Mapping[str, str],
        flags: Mapping[str, Any],
        apply: Callable[[Settings], Awaitable[None]],
        tell: Callable[[str | None], None],
    ) -> None:
        self.loaded = loaded
        self._environ = environ
        self._flags = flags
        self._apply = apply
        self._tell = tell

    async def watch(self) -> None:
        """Read the file whenever it has changed, without end; a broken one is refused whole."""
        watch = FileWatch(self.loaded.config_path)
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            if not await asyncio.to_thread(watch.changed):
                continue
            try:
                await self.reload()
            except ConfigError as error:
                _logger.error("the changed configuration is refused, the old one stays: %s", error)
                self._tell(str(error))

    async def reload(self) -> None:
        """Take the configuration file as it is now; raises ``ConfigError`` and changes nothing."""
        new = await asyncio.to_thread(
            load_if_there, self.loaded.config_path, environ=self._environ, flags=self._flags
        )
        changed = new.settings != self.loaded.settings
        self.loaded = new
        if not changed:
            return
        await self._apply(new.settings)
        self._tell(None)
        _logger.info("the configuration was read anew from %s", new.config_path)

    def values(self) -> list[ConfigValueRecord]:
        """Every setting with its value and source; secrets masked."""
        return self.loaded.records()

    async def set(self, key: str, value: Any) -> ConfigValueRecord:
        """Write one setting into the configuration file and apply it."""
        model_id, known = split_key(key)
        await asyncio.to_thread(set_value, self.loaded.config_path, key, value)
        await self.reload()
        return self.loaded.record(known, model_id)

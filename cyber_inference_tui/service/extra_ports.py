"""The further ports of the service (``extra_ports``), where clients of other programs look."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable

from cyber_inference_tui.llama.port_owner import foreign_listener
from cyber_inference_tui.records import PortRecord
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.sockets import listening_socket

Stop = Callable[[], Awaitable[None]]
Serve = Callable[[socket.socket], Awaitable[Stop]]
"""Accepts requests on a listening socket; the result of the call stops that."""

_logger = logging.getLogger(__name__)


class ExtraPorts:
    """Opens each of ``extra_ports`` that is free, and follows the setting until ``close``.

    A port in use is not tried again until the setting changes: the program that has it may restart.
    """

    def __init__(self) -> None:
        self._address: tuple[str, int] | None = None
        self._serve: Serve | None = None
        self._open: dict[int, Stop] = {}
        self._records: tuple[PortRecord, ...] = ()
        self._changing = asyncio.Lock()

    @property
    def records(self) -> tuple[PortRecord, ...]:
        """Each port of the setting, in its order, and why it is not open."""
        return self._records

    async def begin(self, address: tuple[str, int], settings: Settings, serve: Serve) -> None:
        """Open the ports beside the service's own ``address``."""
        self._address, self._serve = address, serve
        await self.configure(settings)

    async def configure(self, settings: Settings) -> None:
        """Open the ports that the settings add, and close those that they leave out.

        Running answers on a port that is closed continue.
        """
        async with self._changing:
            if self._serve is None or self._address is None:
                return
            host, own = self._address
            wanted = [port for port in dict.fromkeys(settings.extra_ports) if port != own]
            for port in self._open.keys() - wanted:
                await self._open.pop(port)()
                _logger.info("closed the extra port %d", port)
            known = {record.port: record for record in self._records}
            records = []
            for port in wanted:
                record = known.get(port)
                if record is None:
                    record = PortRecord(port=port, problem=await self._try_open(host, port))
                records.append(record)
            self._records = tuple(records)

    async def close(self) -> None:
        """Stop accepting on all ports, for good."""
        async with self._changing:
            self._serve = None
            while self._open:
                await self._open.popitem()[1]()

    async def _try_open(self, host: str, port: int) -> str | None:
        """Open a port; returns why it cannot be opened."""
        if self._serve is None:
            return None
        try:
            listener = listening_socket(host, port)
        except OSError as error:
            problem = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                owner = None
                with contextlib.suppress(OSError):
                    owner = await asyncio.to_thread(
                        foreign_listener, port, [os.getpid()], by_command=False
                    )
                problem = f"in use by {owner or 'another program'}"
            elif error.errno == errno.EACCES:
                problem = "only root may listen on it"
            _logger.warning("the extra port %d is not open: %s", port, problem)
            return problem
        self._open[port] = await self._serve(listener)
        _logger.info("listening on the extra port %d", port)
        return None

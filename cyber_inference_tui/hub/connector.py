"""Connections to the hub: names are looked up and certificates read in threads, when needed."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import TYPE_CHECKING

import aiohttp

from cyber_inference_tui.hub.threads import Resolver

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class Connector(aiohttp.TCPConnector):
    """Reads the certificates of this machine's authorities before the first connection.

    That takes a good while on a small machine, and most services never ask the hub anything.
    aiohttp's own are not used: those it reads whenever it is imported, and ``cli.serve_command``
    keeps it from that.
    """

    def __init__(self) -> None:
        # A folder without any stands for the default ones, which come later.
        self._trust = ssl.create_default_context(capath=os.devnull)
        self._trust.set_alpn_protocols(["http/1.1"])
        self._reading: asyncio.Future[None] | None = None
        super().__init__(resolver=Resolver(), ssl=self._trust)

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """As every connector has it."""
        if req.is_ssl() or (req.proxy is not None and req.proxy.scheme == "https"):
            if self._reading is None:
                self._reading = asyncio.ensure_future(
                    asyncio.to_thread(self._trust.load_default_certs)
                )
            # One caller that gives up ends it for no other.
            await asyncio.shield(self._reading)
        return await super().connect(req, traces, timeout)

"""Connect to the hub: look up names and read certificates in threads, on first use."""

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
    """Reads the system's CA certificates before the first TLS connection.

    That takes long on a small machine, and most services never contact the hub. aiohttp would read
    them at import; ``cli.serve_command`` prevents that, so aiohttp's own contexts are not used.
    """

    def __init__(self) -> None:
        # An empty folder: the default certificates are loaded later.
        self._trust = ssl.create_default_context(capath=os.devnull)
        self._trust.set_alpn_protocols(["http/1.1"])
        self._reading: asyncio.Future[None] | None = None
        super().__init__(resolver=Resolver(), ssl=self._trust)

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Connect as ``TCPConnector`` does, after loading the certificates for TLS."""
        if req.is_ssl() or (req.proxy is not None and req.proxy.scheme == "https"):
            if self._reading is None:
                self._reading = asyncio.ensure_future(
                    asyncio.to_thread(self._trust.load_default_certs)
                )
            # A caller that is cancelled must not cancel it for the others.
            await asyncio.shield(self._reading)
        return await super().connect(req, traces, timeout)

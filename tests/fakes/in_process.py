"""Connects a ``ServiceClient`` to the real HTTP layer of a fake service, without sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpcore
import httpx

from cyber_inference_tui.http.application import assemble
from cyber_inference_tui.http.client_connection import Runner
from cyber_inference_tui.http.login import AdminLogin
from tests.fakes.service import FakeService, Forward


class _ServerSide(asyncio.Transport):
    """The transport of the server's protocol."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.changed = asyncio.Event()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        address = ("127.0.0.1", 8337)
        return {"peername": address, "sockname": address}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self.changed.set()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.changed.set()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        """Do nothing: the client sends little."""

    resume_reading = pause_reading

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 1 << 16

    def get_write_buffer_size(self) -> int:
        return 0


class _ClientSide(httpcore.AsyncNetworkStream):
    """The stream of the client."""

    def __init__(self, server: _ServerSide) -> None:
        self._server = server

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        server = self._server
        try:
            async with asyncio.timeout(timeout):
                while not server.sent and not server.is_closing():
                    server.changed.clear()
                    await server.changed.wait()
        except TimeoutError:
            raise httpcore.ReadTimeout from None
        data = bytes(server.sent[:max_bytes])
        del server.sent[:max_bytes]
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._server.is_closing():
            raise httpcore.WriteError("closed")
        self._server.protocol.data_received(buffer)

    async def aclose(self) -> None:
        self._server.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return bool(self._server.sent) or self._server.is_closing()
        return None


class InProcess(httpx.AsyncHTTPTransport, httpcore.AsyncNetworkBackend):
    """Sends requests to ``service``, while ``up``; ``forward`` answers the model endpoints."""

    def __init__(self, service: FakeService, forward: Forward) -> None:
        httpx.AsyncHTTPTransport.__init__(self, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._pool = httpcore.AsyncConnectionPool(max_connections=100, network_backend=self)
        login = AdminLogin(service, Path("/proc/none/login.secret"))
        self.token = login.process_token
        """The token of the service's owner."""
        self._app = assemble(service, forward, login)
        self._runner: Runner | None = None
        self._connections: list[_ServerSide] = []
        self.up = True
        self.refused = 0
        """Attempts to connect while the service was away."""

    async def connect_tcp(self, *_: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        if not self.up:
            self.refused += 1
            raise httpcore.ConnectError("refused") from ConnectionRefusedError()
        if self._runner is None:
            self._runner = Runner(self._app, handler_cancellation=True, access_log=None)
            await self._runner.setup()
        assert self._runner.server is not None
        server = _ServerSide(self._runner.server())
        self._connections.append(server)
        server.protocol.connection_made(server)
        return _ClientSide(server)

    def stop(self) -> None:
        """Close all connections, and refuse new connections until ``up``."""
        self.up = False
        for connection in self._connections:
            connection.close()
        self._connections.clear()

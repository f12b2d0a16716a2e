"""Sends a small HTTP request to a server on this machine."""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple

_MOST_STATUS_LINE = 8192


class ServerAddress(NamedTuple):
    """The place where a model's server or another box listens, and the key that it asks for."""

    host: str
    port: int
    key: str
    """Every request to the server has it. Each start gets a new one, known to the service only."""
    tls: ssl.SSLContext | None = None
    """The checks of the server's certificate; ``None`` = without TLS."""

    @property
    def headers(self) -> bytes:
        """The lines of a request's head that belong to the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        text = f"Host: {host}:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
        return text.encode("ascii")


async def http_get(
    server: ServerAddress,
    path: str,
    *,
    timeout: float,
    most_bytes: int,
    post: bytes | None = None,
) -> tuple[int, bytes]:
    """Return the status and the body of ``GET path``, over a new connection.

    With ``post`` it is a POST of this JSON. The status is 0 if the answer is not HTTP. Headers and
    body are read up to about ``most_bytes``; with 0 they are not awaited. Raises ``OSError``, such
    as ``TimeoutError`` after ``timeout`` seconds.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(*server[:2], limit=_MOST_STATUS_LINE)
        try:
            head = b"%b %b HTTP/1.1\r\n%bConnection: close\r\n"
            head %= (b"GET" if post is None else b"POST", path.encode("ascii"), server.headers)
            if post is not None:
                head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(post)
            writer.write(b"%b\r\n%b" % (head, post or b""))
            try:
                version, _, rest = (await reader.readline()).partition(b" ")
            except ValueError:
                # The line is too long.
                return 0, b""
            answer = bytearray()
            while len(answer) < most_bytes and (part := await reader.read(65536)):
                answer += part
        finally:
            writer.close()
    status = int(rest[:3]) if version.startswith(b"HTTP/") and rest[:3].isdigit() else 0
    # An answer without headers has an empty line at once.
    _, _, body = (b"\r\n" + answer).partition(b"\r\n\r\n")
    return status, body

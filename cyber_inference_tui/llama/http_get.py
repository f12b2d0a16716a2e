"""Sends a small HTTP request to a server on this machine."""

from __future__ import annotations

import asyncio

_MOST_STATUS_LINE = 8192


async def http_get(
    host: str, port: int, path: str, *, timeout: float, most_bytes: int
) -> tuple[int, bytes]:
    """Return the status and the body of ``GET path``, over a new connection.

    The status is 0 if the answer is not HTTP. Headers and body are read up to about ``most_bytes``;
    with 0 they are not awaited. Raises ``OSError``, such as ``TimeoutError`` after ``timeout``
    seconds.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port, limit=_MOST_STATUS_LINE)
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode("ascii"))
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

"""TLS: the service's certificate, and the port on which all connections use it.

The certificate's files are read again when they change. A client that speaks plain HTTP on the port
gets one sentence. So the first byte of each connection is looked at before the event loop has the
socket: a handshake begins with 22 (RFC 8446, 5.1), and no line of HTTP does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from asyncio import BaseProtocol
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.certificates import fingerprint, first_certificate
from cyber_inference_tui.errors import ConfigError, InvalidRequestError
from cyber_inference_tui.files import read_file
from cyber_inference_tui.http.error_responses import error_body
from cyber_inference_tui.http.request_id import new_id
from cyber_inference_tui.settings.watch import FileWatch

_HANDSHAKE = b"\x16"
_HANDSHAKE_SECONDS = 10.0
"""Seconds from a connection to the end of its handshake."""
_MOST_HANDSHAKES = 128
"""Handshakes at once. For one more, the oldest is given up: an honest client takes milliseconds."""
_LOOK_INTERVAL = 1.0
_MAX_BYTES = 1 << 20
_MAX_PLAIN = 64 << 10
"""Bytes of a plain request that are read at once."""
_LINGER = 2.0
"""Seconds for which further bytes of a plain request are read and dropped."""
_PAUSE = 1.0
"""Seconds until the next try to accept, after one that failed."""

_logger = logging.getLogger(__name__)


class ServerCertificate:
    """The service's certificate and key. ``key`` may be in the file of the certificate.

    Reading them raises ``ConfigError``. ``follow`` reads them again when they change.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate, self._key = certificate, key or certificate
        self._watch = FileWatch(self._certificate, self._key)
        self._present = self._read()
        self.context = _server_context()
        """The context for connections, which uses the present certificate."""
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._present

    async def follow(self) -> None:
        """Use the files as they change; runs until cancelled. Keeps what cannot be replaced."""
        while True:
            await self._watch.wait(_LOOK_INTERVAL)
            try:
                self._present = await asyncio.to_thread(self._read)
            except ConfigError as error:
                # The two files of a pair change one after the other.
                _logger.warning("the certificate stays as it was: %s", error)

    def _read(self) -> ssl.SSLContext:
        """Return the context of the files' present content. Blocks."""
        contents = {}
        for name, path in (("tls_cert", self._certificate), ("tls_key", self._key)):
            try:
                contents[name] = read_file(path, _MAX_BYTES)
            except OSError as error:
                raise ConfigError(f"{name}: {path} cannot be read: {error.strerror}.") from error
        try:
            shown = fingerprint(first_certificate(contents["tls_cert"].decode("utf-8", "replace")))
        except ValueError as error:
            raise ConfigError(f"tls_cert: {self._certificate} {error}.") from error
        context = _server_context()
        try:
            # Without the function, Python would ask for the password of a key on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ValueError) as error:
            if "KEY_VALUES_MISMATCH" in str(error):
                why = f"{self._key} is not the key of {self._certificate}"
            else:
                why = f"{self._key} has no key in PEM form without a password"
            raise ConfigError(f"tls_key: {why}.") from error
        _logger.info("TLS with the certificate %s, SHA-256 %s", self._certificate, shown)
        return context


def _server_context() -> ssl.SSLContext:
    # TLS 1.2 and 1.3, with Python's choice of ciphers.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsListener:
    """Accepts the connections of a listening socket, until ``stop``; a protocol gets each."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, protocol: Callable[[], BaseProtocol]
    ) -> None:
        self._listener, self._context, self._protocol = listener, context, protocol
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._accepting = asyncio.ensure_future(self._accept())

    async def stop(self) -> None:
        """Stop accepting. Connections whose handshakes are done continue."""
        tasks = (self._accepting, *self._handshakes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except ConnectionError:
                continue  # the client is gone already
            except OSError as error:
                # All descriptors are in use, most likely.
                _logger.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            if len(self._handshakes) >= _MOST_HANDSHAKES:
                next(iter(self._handshakes)).cancel()
            task = asyncio.ensure_future(self._begin(connection))
            self._handshakes[task] = None
            task.add_done_callback(self._handshakes.pop)
            # In a flood, accepting never waits, and everything else has its turn here.
            await asyncio.sleep(0)

    async def _begin(self, connection: socket.socket) -> None:
        """Shake hands with a client, or send it the sentence."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        # What was refused, broken off or too slow needs no word in the log.
        with contextlib.suppress(OSError, TimeoutError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await _readable(connection)
                if connection.recv(1, socket.MSG_PEEK) != _HANDSHAKE:
                    await _refuse_plain(connection)
                    return
                stack.pop_all()  # from here on it is the transport's
                await loop.connect_accepted_socket(self._protocol, connection, ssl=self._context)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


async def _refuse_plain(connection: socket.socket) -> None:
    """Answer what is not TLS, then read on for a moment: a reset could overtake the answer."""
    loop = asyncio.get_running_loop()
    begun = await loop.sock_recv(connection, _MAX_PLAIN)
    words = begun.partition(b"\r\n")[0].split(b" ")
    path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else "/"
    error = InvalidRequestError(
        "This port speaks TLS, and the request is plain HTTP.",
        hint="Begin the address with https://. Behind ssh://, add ?tls=yes.",
    )
    body = error_body(error, path)
    head = (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"X-Should-Retry: false\r\nConnection: close\r\nX-Request-Id: %b\r\n\r\n"
    ) % (len(body), new_id())
    await loop.sock_sendall(connection, head + body)
    connection.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(_LINGER):
        while await loop.sock_recv(connection, _MAX_PLAIN):
            pass

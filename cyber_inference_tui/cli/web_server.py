"""The server of the page that shows the app: on loopback, an app process for each tab."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import TypeVar

from aiohttp import web
from textual_serve.app_service import AppService
from textual_serve.server import Server

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.http.error_responses import SERVER_NAME
from cyber_inference_tui.http.hosts import is_loopback, parse_host

T = TypeVar("T")

_HOST = "127.0.0.1"
_TABS = 8
_MESSAGE_BYTES = 1024 * 1024
_LARGEST = 1000
"""Most columns and rows of a tab."""
_FONT_SIZES = range(6, 73)
_FONT_SIZE = 16
_QUIT_SECONDS = 5.0
"""Seconds for an app to end by itself."""
_CLOSE_SECONDS = 2.0
_WORDS = 4096
"""Bytes of an app's last words."""
_NO_MESSAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""Raised for what the page's script does not send; it ends the tab."""
_READY = b"__GANGLION__\n"
"""The line with which Textual's driver begins."""
_HEADERS = {
    # A picture of the screen opens in a tab of its own.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_PAGE_MAY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "script-src 'self' 'nonce-{nonce}'; connect-src ws://{host}"
)
"""The page's Content-Security-Policy."""
_ENVIRON = {
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
    "TEXTUAL_COLOR_SYSTEM": "truecolor",
    "PYTHONUTF8": "1",
}
"""A browser's terminal, whatever terminal the page was started in."""


class WebServer(Server):
    """Serves the app, whose command line is ``arguments``, below an address with a secret.

    Whoever has the address uses the app with the rights of this user. Other users of this machine
    reach the port, too, but do not know the address.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], *, port: int) -> None:
        super().__init__(arguments[0], host=_HOST, port=port)
        self._arguments = arguments
        self._environ = environ
        self._secret = secrets.token_urlsafe(16)
        self._page = Template((files("cyber_inference_tui.cli") / "web.html").read_text("utf-8"))
        self._tabs: set[Tab] = set()

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT, then end all apps. Raises ``CyberError``.

        ``announce`` gets the address of the page once it is served.
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        app = web.Application(middlewares=[_check])
        path = f"/{self._secret}/"
        app.add_routes(
            [
                web.get(path, self.page),
                web.get(f"{path}ws", self.handle_websocket),
                web.static(f"{path}static", self.statics_path),
                # The page's script expects it here. The key is known to the tab only.
                web.get("/download/{key}", self.handle_download),
                web.get("/{path:.*}", self.lost),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._end_tabs)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_QUIT_SECONDS)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, _HOST, self.port).start()
            except OSError as error:
                raise CyberError(
                    f"The page cannot listen on {_HOST}:{self.port}: "
                    f"{os.strerror(error.errno or 0)}.",
                    hint="Choose another port with --web-port.",
                ) from error
            announce(f"http://{_HOST}:{runner.addresses[0][1]}{path}")
            await ended.wait()
        finally:
            await runner.cleanup()

    async def page(self, request: web.Request) -> web.Response:
        """Answer the page, whose script opens the WebSocket."""
        size = request.query.get("fontsize", "")
        wanted = int(size) if size.isdecimal() and len(size) < 4 else _FONT_SIZE
        nonce = secrets.token_urlsafe(16)
        text = self._page.substitute(
            nonce=nonce,
            websocket=html.escape(f"ws://{request.host}{request.path}ws"),
            font_size=wanted if wanted in _FONT_SIZES else _FONT_SIZE,
        )
        headers = {"Content-Security-Policy": _PAGE_MAY.format(nonce=nonce, host=request.host)}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def handle_download(self, request: web.Request) -> web.StreamResponse:
        """Answer a file that an app offers its tab, such as a picture of the screen."""
        try:
            return await super().handle_download(request)
        except ConnectionError:
            # The browser has gone, and what is sent is for nobody.
            return web.Response(status=499)

    async def lost(self, request: web.Request) -> web.Response:
        """Answer a browser with the address of an earlier start, or without the secret."""
        text = "Open the address that 'cyber-inference-tui web' printed when it started.\n"
        return web.Response(status=404, text=text)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Run an app for a tab until one of both ends."""
        websocket = web.WebSocketResponse(
            heartbeat=15, timeout=_CLOSE_SECONDS, max_msg_size=_MESSAGE_BYTES
        )
        await websocket.prepare(request)
        tab = Tab(self._arguments, self._environ, websocket, self)
        if len(self._tabs) >= _TABS:
            await tab.remote_write_bytes(f"At most {_TABS} tabs may be open.".encode())
            await websocket.close()
            return websocket
        self._tabs.add(tab)
        try:
            width, height = (request.query.get(name, "") for name in ("width", "height"))
            await tab.start(_cells(width, 80), _cells(height, 24))
            with contextlib.suppress(*_NO_MESSAGE):
                await self._process_messages(websocket, tab)
            await websocket.close()
        finally:
            try:
                await tab.stop()
            finally:
                self._tabs.discard(tab)
        return websocket

    async def _end_tabs(self, app: web.Application) -> None:
        await asyncio.gather(*(tab.remote_close() for tab in self._tabs))


class Tab(AppService):
    """The app process of one tab, and what passes between both."""

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        websocket: web.WebSocketResponse,
        server: Server,
    ) -> None:
        super().__init__(
            arguments[0],
            write_bytes=_while_open(websocket.send_bytes),
            write_str=_while_open(websocket.send_str),
            close=websocket.close,  # type: ignore[arg-type]  # its result is of no use
            download_manager=server.download_manager,
        )
        self._arguments = arguments
        self._environ = environ

    async def start(self, width: int, height: int) -> None:
        """Start the app."""
        environ = {**self._environ, **_ENVIRON, "COLUMNS": str(width), "ROWS": str(height)}
        # The colours of the terminal in which the page was started say nothing about the page.
        environ.pop("COLORFGBG", None)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environ,
            # Ctrl-C ends the page, which ends the app.
            start_new_session=True,
        )
        self._stdin = self._process.stdin
        self._task = asyncio.create_task(self.run())

    async def set_terminal_size(self, width: int, height: int) -> None:
        """Give the app its new size."""
        await super().set_terminal_size(_cells(str(width), 80), _cells(str(height), 24))

    async def run(self) -> None:
        """Hand on what the app draws until it ends, then its last words; close the tab."""
        process = self._process
        if process is None or process.stdout is None or process.stderr is None:
            return
        words, output = asyncio.create_task(_last_words(process.stderr)), process.stdout
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await output.readuntil(_READY)
                while True:
                    head = await output.readexactly(5)
                    payload = await output.readexactly(int.from_bytes(head[1:], "big"))
                    await self._handlers[head[:1]](self, payload)
            if text := await words:
                await self.remote_write_bytes(text.replace(b"\n", b"\r\n"))
        finally:
            words.cancel()
            await self.remote_close()

    _handlers: Mapping[bytes, Callable[[Tab, bytes], Awaitable[None]]] = {
        b"D": AppService.on_data,
        b"M": AppService.on_meta,
        b"P": AppService.on_packed,
    }

    async def stop(self) -> None:
        """End the app; kill it if it does not end in time."""
        process, task = self._process, self._task
        if process is None or task is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIT_SECONDS):
                    await self._download_manager.cancel_app_downloads(self.app_service_id)
                    await self.send_meta({"type": "quit"})
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            task.cancel()
        await asyncio.wait([task])
        await process.wait()


def _while_open(send: Callable[[T], Awaitable[None]]) -> Callable[[T], Awaitable[None]]:
    """Return ``send``, which drops what comes after the tab was closed."""

    async def sent(data: T) -> None:
        with contextlib.suppress(ConnectionError):
            await send(data)

    return sent


async def _last_words(stderr: asyncio.StreamReader) -> bytes:
    words = b""
    while piece := await stderr.read(_WORDS):
        words = (words + piece)[-_WORDS:]
    return words


def _cells(text: str, default: int) -> int:
    """Return a number of columns or rows from a browser."""
    number = int(text) if text.isdecimal() and len(text) < 5 else default
    return min(max(number, 1), _LARGEST)


@web.middleware
async def _check(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what a page of another site sends, also by a name that leads to this machine."""
    host = parse_host(request.headers.get("Host", ""))
    if host is None or not is_loopback(host[0]):
        raise web.HTTPForbidden(text="This page is for browsers on this machine.\n")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.host}":
        raise web.HTTPForbidden(text="Pages of other sites may not use this one.\n")
    return await handler(request)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # Not the versions of Python and aiohttp.
    response.headers["Server"] = SERVER_NAME

"""The service in the foreground: bind, announce, run until a signal, end in good order."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import ConfigError, CyberError
from cyber_inference_tui.http.app import make_app
from cyber_inference_tui.http.protocol import Runner
from cyber_inference_tui.llama.log import LogRing
from cyber_inference_tui.service.process_log import configure_logging
from cyber_inference_tui.service.runtime import (
    DataDirectoryLock,
    RuntimeRecord,
    remove_runtime_file,
    write_runtime_file,
)
from cyber_inference_tui.service.service import Service, utc_now
from cyber_inference_tui.settings.load import Loaded
from cyber_inference_tui.settings.schema import Settings

_BACKLOG = 512
_KEEP_ALIVE = 75.0
_HANDLERS_GRACE = 2.0

_logger = logging.getLogger(__name__)


def serve(
    loaded: Loaded,
    *,
    demo: bool,
    announce: Callable[[str], None],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit code.

    ``announce`` gets the one line ``listening on http://HOST:PORT`` once requests are accepted.
    ``environ`` and ``flags`` are kept for reading the configuration anew when its file changes.
    Raises ``CyberError`` for whatever keeps it from starting.
    """
    check_bind(loaded.settings)
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop  # noqa: PLC0415 - there is none for every platform

        loop_factory = uvloop.new_event_loop
    except ImportError:
        pass
    ring = LogRing(now=utc_now)
    log_handler = configure_logging(loaded.settings.log_level, ring)
    with (
        DataDirectoryLock(loaded.settings.data_dir),
        _listen(loaded.settings) as listener,
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):

        async def run() -> int:
            log_handler.attach()
            service = Service(loaded, demo=demo, environ=environ, flags=flags, service_log=ring)
            return await _run(service, listener, announce)

        return runner.run(run())


def check_bind(settings: Settings) -> None:
    """Refuse what would open the machine to others, or promise a protection that is not there.

    Raises ``ConfigError``.
    """
    if settings.admin_password:
        raise ConfigError(
            "admin_password is set, but this version has no admin login yet.",
            hint="Remove it and bind to a loopback address.",
        )
    if not is_loopback(settings.host) and not settings.insecure_no_auth:
        raise ConfigError(
            f"host is {settings.host}, which other machines can reach, and this version has no"
            " admin login yet.",
            hint="Bind to 127.0.0.1 (and use an SSH tunnel), or set insecure_no_auth = true.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host.strip("[]"), settings.port
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CyberError(
            f"Cannot resolve the address {host}: {error.strerror}.", hint="Check host."
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CyberError(
                f"Port {port} on {host} is in use by another program.",
                hint="Choose another with --port.",
            ) from error
        raise CyberError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    listener.setblocking(False)
    return listener


async def _run(service: Service, listener: socket.socket, announce: Callable[[str], None]) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(stop, hurry)
    host, port = listener.getsockname()[:2]
    service.address = (host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    async with service:
        runner = Runner(
            make_app(service),
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=_HANDLERS_GRACE,
        )
        await runner.setup()
        site = web.SockSite(runner, listener, backlog=_BACKLOG)
        await site.start()
        try:
            write_runtime_file(
                service.settings.data_dir,
                RuntimeRecord(
                    pid=os.getpid(), url=url, version=__version__, started_at=service.started_at
                ),
            )
            # What is there now stays for good: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            announce(f"listening on {url}")
            await stop.wait()
            await _wind_down(service, site, hurry)
        finally:
            remove_runtime_file(service.settings.data_dir)
            await runner.cleanup()
    return 0


async def _wind_down(service: Service, site: web.SockSite, hurry: asyncio.Event) -> None:
    """Let running answers end, unless they take too long or a second signal comes."""
    await site.stop()
    service.scheduler.begin_shutdown()
    _logger.info("shutting down: %d requests in flight", service.scheduler.in_flight)
    drained = asyncio.ensure_future(service.scheduler.drain(service.settings.shutdown_timeout))
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (drained, hurried):
        waiting.cancel()
    await asyncio.gather(drained, hurried, return_exceptions=True)
    # With their servers gone, answers that took too long end with an error that says why.
    await service.scheduler.close(at_once=hurry.is_set())
    service.close_events()


def _on_signals(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    def told() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A hang-up that somebody chose to ignore (nohup) stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, told)

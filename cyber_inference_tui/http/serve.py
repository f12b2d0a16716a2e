"""Runs the service in the foreground: binds, announces, runs until a signal, shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cyber_inference_tui import __version__, descriptors
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import write_problem
from cyber_inference_tui.http.application import make_app
from cyber_inference_tui.http.client_connection import Runner
from cyber_inference_tui.http.login import LOGIN_FILE, AdminLogin
from cyber_inference_tui.http.tls import ServerCertificate
from cyber_inference_tui.llama.program import kill_programs
from cyber_inference_tui.service.logs import LOGS, service_log
from cyber_inference_tui.service.process_log import (
    configure_logging,
    goes_to_journal,
    leave_stderr,
)
from cyber_inference_tui.service.runtime import (
    RUNTIME_FILE,
    DataDirectoryLock,
    RuntimeRecord,
    remove_runtime_file,
    write_runtime_file,
)
from cyber_inference_tui.service.service import Service, utc_now
from cyber_inference_tui.service.systemd import Systemd
from cyber_inference_tui.settings.credentials import hash_password, make_credentials
from cyber_inference_tui.settings.load import LoadedSettings
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.sockets import listening_socket
from cyber_inference_tui.storage import START_LIMIT, Storages, begin, end_process_within

_KEEP_ALIVE = 75.0
_HANDLERS_GRACE = 2.0
_LONGEST_END = 30.0
"""Seconds for the shutdown after the end of the answers and the servers."""
_AT_ONCE = 2.0
_LEAVE_SECONDS = 2.0

_logger = logging.getLogger(__name__)


def serve(
    loaded: LoadedSettings,
    *,
    demo: bool,
    announce: Callable[[str], None],
    announce_secrets: Callable[[str], None],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    quiet: bool = False,
) -> int:
    """Run the service until SIGTERM or SIGINT, and return the exit code.

    ``announce`` is called with the line ``listening on http://HOST:PORT`` (or ``https://…``) once
    requests are accepted, ``announce_secrets`` with a new key and password. ``environ`` and
    ``flags`` are used again when the configuration file changes. With ``quiet`` the log stops going
    to stderr once the service listens. Raises ``CyberError`` if the service cannot start.
    """
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop  # noqa: PLC0415 - there is none for every platform

        loop_factory = uvloop.new_event_loop
    except ImportError:
        pass
    if sys.stderr is not None:
        # If a library crashes the process, print the stack of each thread to stderr.
        faulthandler.enable()
    limit = descriptors.raise_limit()
    if limit < descriptors.LEAST:
        raise CyberError(
            f"Only {limit} files may be open at once, and the service needs {descriptors.LEAST}.",
            hint="Raise the limit: ulimit -n 1024, or LimitNOFILE=1024 in a systemd unit.",
        )
    connections = descriptors.most_connections(limit)
    data_dir = loaded.settings.data_dir
    lock = DataDirectoryLock(data_dir)
    Storages().ask(data_dir, lock.__enter__, START_LIMIT)
    with (
        contextlib.closing(lock),
        _listen(loaded.settings) as listener,
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        own_log = service_log(data_dir / LOGS, utc_now)
        log_handler = configure_logging(loaded.settings.log_level, own_log)
        for warning in (*loaded.warnings, *([lock.problem] if lock.problem else [])):
            _logger.warning("%s", warning)
        certificate = _certificate(loaded.settings)
        # The address is the one that the name resolved to. No request is served before this.
        loaded = make_credentials(
            loaded,
            listener.getsockname()[0],
            environ=environ,
            flags=flags,
            announce=announce_secrets,
            reveal=not goes_to_journal(environ),
        )
        try:
            loaded = hash_password(loaded, environ=environ, flags=flags)
        except CyberError as error:
            _logger.warning("admin_password stays in the file as plain text: %s", error)

        systemd = Systemd(environ)

        def on_ready(url: str) -> None:
            announce(f"listening on {url}")
            systemd.ready()
            if quiet:
                leave_stderr()

        async def run() -> int:
            log_handler.attach()
            service = Service(loaded, demo=demo, environ=environ, flags=flags, service_log=own_log)
            try:
                return await _run(
                    service,
                    listener,
                    on_ready=on_ready,
                    on_stop=systemd.stopping,
                    connections=connections,
                    certificate=certificate,
                )
            finally:
                _ignore_signals()
                systemd.end()

        code = runner.run(run())
        # Threads that hang would delay the end of the loop.
        _end_within(_LEAVE_SECONDS)
        return code


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host.strip("[]"), settings.port
    try:
        return listening_socket(host, port)
    except socket.gaierror as error:
        raise CyberError(
            f"Cannot resolve the address {host}: {error.strerror}.", hint="Check host."
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CyberError(
                f"Port {port} on {host} is in use by another program.",
                hint="Choose another with --port.",
            ) from error
        raise CyberError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            hint="Set host to an address of this machine, and port to one from 1024 up.",
        ) from error


def _certificate(settings: Settings) -> ServerCertificate | None:
    """Return the certificate of the settings; ``None`` = the service speaks plain HTTP."""
    if not settings.tls_cert:
        return None
    certificate = Path(settings.tls_cert)
    key = Path(settings.tls_key) if settings.tls_key else None
    return Storages().ask(
        certificate.parent, partial(ServerCertificate, certificate, key), START_LIMIT
    )


async def _run(
    service: Service,
    listener: socket.socket,
    *,
    on_ready: Callable[[str], None],
    on_stop: Callable[[], None],
    connections: int,
    certificate: ServerCertificate | None,
) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(service, stop, hurry)
    host, port = listener.getsockname()[:2]
    service.address = (host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"{'http' if certificate is None else 'https'}://{shown}:{port}"
    # The locked directory: a new data_dir in the file takes effect at the next start.
    data_dir = service.settings.data_dir
    if not await _started(service, stop):
        return 0
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(service)
        login = AdminLogin(service, data_dir / LOGIN_FILE)
        runner = Runner(
            make_app(service, login),
            most_connections=connections,
            most_of_one=descriptors.most_of_one(connections),
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=_HANDLERS_GRACE,
        )
        await runner.setup()

        if certificate is not None:
            following = asyncio.create_task(certificate.follow(), name="follow the certificate")
            stack.callback(following.cancel)

        accept = partial(runner.accept, certificate=certificate)
        stop_accepting = await accept(listener)
        await service.extra_ports.begin(service.address, service.settings, accept)
        try:
            record = RuntimeRecord(
                pid=os.getpid(),
                url=url,
                version=__version__,
                started_at=service.started_at,
                token=login.process_token,
            )
            try:
                write_runtime_file(data_dir, record)
            except OSError as error:
                _logger.warning(
                    "%s Commands find this service by its port alone, and need admin_password "
                    "where that is set.",
                    write_problem(data_dir / RUNTIME_FILE, error),
                )
            # All present objects live until the end, so the collector can ignore them.
            gc.collect()
            gc.freeze()
            on_ready(url)
            await stop.wait()
            on_stop()
            await service.extra_ports.close()
            await stop_accepting()
            await _wind_down(service, hurry)
        finally:
            try:
                remove_runtime_file(data_dir)
            except OSError as error:
                _logger.warning("%s", write_problem(data_dir / RUNTIME_FILE, error))
            await runner.cleanup()
    return 0


def _end_within(seconds: float) -> None:
    # The guard and the kernel end the servers of a process that has ended.
    end_process_within(seconds, first=kill_programs)


async def _started(service: Service, stop: asyncio.Event) -> bool:
    """Start the service. Return ``False`` after a signal; then everything is stopped again.

    Raises the error that keeps the service from starting.
    """
    starting = asyncio.ensure_future(service.__aenter__())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    return True


async def _wind_down(service: Service, hurry: asyncio.Event) -> None:
    """Wait for running answers, with a time limit, or until a second signal."""
    service.scheduler.begin_shutdown()
    await service.bench.close()
    _logger.info("shutting down: %d requests in flight", service.scheduler.in_flight)
    drained = asyncio.ensure_future(service.scheduler.drain(service.settings.shutdown_timeout))
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (drained, hurried):
        waiting.cancel()
    await asyncio.gather(drained, hurried, return_exceptions=True)
    # Stopping the servers ends the other answers with an error that gives the reason.
    await service.scheduler.close(at_once=hurry.is_set())
    service.close_events()


def _on_signals(service: Service, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    data_dir = service.settings.data_dir

    def on_signal() -> None:
        if not stop.is_set():
            settings = service.settings
            _end_within(settings.shutdown_timeout + settings.stop_timeout + _LONGEST_END)
        elif not hurry.is_set():
            hurry.set()
            begin(partial(remove_runtime_file, data_dir))
            _end_within(_AT_ONCE)
        stop.set()

    loop = asyncio.get_running_loop()
    # Not the loop's own handlers: it removes them as it closes, and a signal in that moment would
    # end the process with another exit code.
    # A shell script starts background programs with SIGINT ignored; handle it all the same.
    wanted = [signal.SIGTERM, signal.SIGINT]
    # A hang-up that is ignored on purpose (nohup) stays ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    for number in wanted:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))


def _ignore_signals() -> None:
    """Ignore further signals, which could change the exit code while the loop closes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

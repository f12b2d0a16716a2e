"""Find a running service, else start one in the background; and stop it again.

Everything here blocks. The service is started in a session of its own: it survives the terminal and
the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from cyber_inference_tui.cli.service_access import client_of, service_url
from cyber_inference_tui.client.service_url import is_same_service, reachable_url
from cyber_inference_tui.errors import AdminLoginError, ConflictError, CyberError, NoServiceError
from cyber_inference_tui.files import has_no_room
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.service.runtime import (
    RuntimeRecord,
    data_directory_holder,
    read_runtime_file,
)
from cyber_inference_tui.settings.environment import ENV_PREFIX, variable
from cyber_inference_tui.settings.load import CONFIG_VARIABLE, LoadedSettings, SettingSource
from cyber_inference_tui.settings.schema import KEYS
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.cli.options import GlobalOptions
    from cyber_inference_tui.settings.schema import Settings

START_LIMIT = 20.0
"""Seconds between the start of a service and its first answer, at most."""
OUTPUT_FILE = "service-output.log"
"""In ``data_dir/logs``: the service's output until it listens, and its traceback if it crashes."""

_POLL = 0.02
_RECORD_LIMIT = 2.0
"""Seconds without a runtime file after which the service's address is tried."""
_CONNECT_LIMIT = 2.0
_ANSWER_LIMIT = 5.0
_TAIL_BYTES = 4096
_TAIL_LINES = 5
_START_LOCK = "start.lock"


@dataclass(frozen=True, kw_only=True)
class FoundService:
    """A service that answers; ``started`` = by us, just now. ``pid`` is ``None`` if unknown.

    ``token`` opens its admin endpoints while it runs; it is empty for the service of another user
    or another data directory.
    """

    url: str
    token: str = ""
    started: bool = False
    pid: int | None = None

    def __repr__(self) -> str:
        # The token is a secret, and a representation may be logged.
        return f"Started(url={self.url!r}, started={self.started}, pid={self.pid})"


def find_or_start(
    options: GlobalOptions,
    *,
    limit: float = START_LIMIT,
    notify: Callable[[str], None] = lambda text: click.echo(text, err=True),
    clock: Callable[[], float] = time.monotonic,
) -> FoundService:
    """Return the service at the configured address or of the data directory, else start one.

    ``notify`` gets the key and the password, if some had to be made for the address. Raises
    ``CyberError`` with the service's last output if it does not start, and ``NoServiceError`` if
    another program has the port. Do not call it on the thread of a running event loop.
    """
    deadline = clock() + limit
    loaded = options.load()
    found = _find(loaded.settings)
    if found is not None:
        return found
    from cyber_inference_tui.settings.credentials import make_credentials

    with _starting_alone(loaded.settings.data_dir, deadline, clock):
        # Another process may have started it while we waited.
        loaded = options.load()
        while True:
            found = _find_once_free(loaded.settings, deadline, clock)
            if found is not None:
                return found
            _check_own_address(loaded.settings)
            # Made here, where somebody reads it: the service's output goes to a file.
            loaded = make_credentials(
                loaded,
                loaded.settings.host,
                environ=options.environ,
                flags=options.flags,
                announce=notify,
            )
            found = _start(options, loaded, deadline, clock)
            if found is not None:
                return found


def stop_service(pid: int, *, limit: float) -> bool:
    """Send SIGTERM and wait ``limit`` seconds at most; return whether the process ended.

    ``stop_limit`` says how long a service may take. A process that does not exist, or is a zombie,
    has ended: an open app does not reap the service that it started.
    """
    import psutil

    until = time.monotonic() + limit
    try:
        process = psutil.Process(pid)
        process.terminate()
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() >= until:
                return False
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(0.1)
                return True
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied as error:
        raise CyberError(
            f"The service (pid {pid}) belongs to another user.", hint="Ask that user to stop it."
        ) from error
    return True


def has_clients(pid: int) -> bool:
    """Return whether a connection to the service ``pid`` is open, on any port it listens on."""
    import psutil

    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    ports = {sock.laddr.port for sock in sockets if sock.status == psutil.CONN_LISTEN}
    return any(
        sock.status == psutil.CONN_ESTABLISHED and sock.laddr.port in ports for sock in sockets
    )


def stop_limit(settings: Settings) -> float:
    """Return the seconds within which a service ends after SIGTERM, with a margin."""
    return settings.shutdown_timeout + settings.stop_timeout + 20.0


# Finding


def _find(settings: Settings) -> FoundService | None:
    """Return the service at the configured address, else that of the data directory.

    Raises ``NoServiceError`` if another program has the address and the directory has no service.
    """
    record = read_runtime_file(settings.data_dir)
    foreign: NoServiceError | None = None
    if settings.port and _listens(url := service_url(settings)):
        ours = record is not None and is_same_service(record.url, url)
        try:
            return _identify(url, settings, record if ours else None)
        except NoServiceError as error:
            foreign = error
    if record is not None and _listens(url := reachable_url(record.url)):
        # The file may be stale, and the port may belong to another program by now.
        with contextlib.suppress(NoServiceError):
            return _identify(url, settings, record)
    if foreign is not None:
        raise foreign
    return None


def _listens(url: str) -> bool:
    """Return whether a port accepts connections; this is quick, and imports nothing."""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or 80)
        socket.create_connection(address, _CONNECT_LIMIT).close()
    except OSError:
        return False
    return True


def _identify(url: str, settings: Settings, record: RuntimeRecord | None) -> FoundService:
    """Return the service at ``url``; raises ``NoServiceError`` if it is another program.

    ``record`` is the runtime file of this data directory, if it names ``url``.
    """
    if record is not None and data_directory_holder(settings.data_dir) == record.pid:
        # The lock's holder wrote the file: no need to ask it.
        return FoundService(url=url, token=record.token, pid=record.pid)

    async def ask() -> int | None:
        async with asyncio.timeout(_ANSWER_LIMIT), client_of(url, settings) as client:
            try:
                return (await client.call(endpoints.STATUS)).pid
            except AdminLoginError:
                return None  # a service of ours with a different password

    try:
        pid = asyncio.run(ask())
    except TimeoutError:
        raise NoServiceError(
            f"The program that listens at {url} does not answer.",
            hint="Stop that program, or choose another address with --host and --port.",
        ) from None
    if record is None or record.pid != pid:
        # It may run on another machine, where its pid means another process.
        return FoundService(url=url)
    return FoundService(url=url, token=record.token, pid=pid)


@contextlib.contextmanager
def _starting_alone(data_dir: Path, deadline: float, clock: Callable[[], float]) -> Iterator[None]:
    """Lock the start for this data directory; others that wait find the started service."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(data_dir / _START_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if has_no_room(error):
            # The service starts all the same, and takes its own lock if it can.
            yield
            return
        raise CyberError(
            f"Cannot write to the data directory {data_dir}: {error.strerror}.",
            hint="Choose another with --data-dir.",
        ) from error
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock() > deadline:
                    raise ConflictError(
                        f"Another program has been starting a service in {data_dir} for too long.",
                        hint="Try again, or stop that program.",
                    ) from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(lock)


def _find_once_free(
    settings: Settings, deadline: float, clock: Callable[[], float]
) -> FoundService | None:
    """Wait until the service of the data directory answers, or has ended (``None``)."""
    while True:
        found = _find(settings)
        if found is not None:
            return found
        holder = data_directory_holder(settings.data_dir)
        if holder is None:
            return None
        if clock() > deadline:
            raise ConflictError(
                f"{settings.data_dir} is in use by another service (pid {holder or 'unknown'}), "
                "which does not answer.",
                hint="Wait for its end or stop it, or choose another directory with --data-dir.",
            )
        time.sleep(_POLL)


# Starting


def _check_own_address(settings: Settings) -> None:
    """Raise ``NoServiceError`` if ``host`` is an address of another machine."""
    host = settings.host.strip("[]")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        raise NoServiceError(
            f"No service answers at {service_url(settings)}, and none can be "
            f"started there: {host} is no address of this machine ({error.strerror}).",
            hint="Start it on that machine, or check host.",
        ) from error


def _start(
    options: GlobalOptions, loaded: LoadedSettings, deadline: float, clock: Callable[[], float]
) -> FoundService | None:
    """Start a service; ``None`` if another one took the data directory at the same moment."""
    data_dir = loaded.settings.data_dir
    output = data_dir / "logs" / OUTPUT_FILE
    before = read_runtime_file(data_dir)
    try:
        pid = _spawn(arguments_of(options, loaded), environment_of(options.environ, loaded), output)
    except OSError as error:
        where = error.filename or output
        raise CyberError(f"Cannot start the service: {where}: {error.strerror}.") from error
    next_look = clock() + _RECORD_LIMIT
    try:
        while True:
            record = read_runtime_file(data_dir)
            if record is not None and record != before and record.pid == pid:
                # The service writes the file once it accepts requests.
                url = reachable_url(record.url)
                return FoundService(url=url, token=record.token, started=True, pid=pid)
            if clock() > next_look:
                # Its disk may be full: then it answers without having written the file.
                next_look = clock() + _RECORD_LIMIT
                with contextlib.suppress(NoServiceError):
                    found = _find(loaded.settings)
                    if found is not None and _end_of(pid) is None:
                        return replace(found, started=True, pid=pid)
            ended = _end_of(pid)
            if ended is not None:
                if data_directory_holder(data_dir) is not None:
                    return None
                why = _last_words(output) or ended
                raise CyberError(f"The service did not start: {why}", hint=f"See {output}.")
            if clock() > deadline:
                _kill(pid)
                raise CyberError("The service did not start in time.", hint=f"See {output}.")
            time.sleep(_POLL)
    except KeyboardInterrupt:
        _kill(pid)
        raise


def _kill(pid: int) -> None:
    """End our child, within about a second."""
    stop_service(pid, limit=1.0)
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def arguments_of(options: GlobalOptions, loaded: LoadedSettings) -> list[str]:
    """Return the command line of the service, with the same global options and absolute paths."""
    return _command_line(options, loaded, "--no-ui", "--background")


def app_arguments(options: GlobalOptions, loaded: LoadedSettings, *, readonly: bool) -> list[str]:
    """Return the command line of the app in a tab of a browser, with the same global options."""
    command = _command_line(options, loaded, "--in-browser")
    if readonly:
        command.append("--readonly")
    return [*command, "--attach", options.attach] if options.attach else command


def _command_line(options: GlobalOptions, loaded: LoadedSettings, *mode: str) -> list[str]:
    arguments = [sys.executable, "-P", "-m", "cyber_inference_tui", *mode]
    if options.config is not None:
        arguments += ["--config", str(loaded.config_path)]
    for name, value in options.flags.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    return [*arguments, "--demo"] if options.demo else arguments


def environment_of(environ: Mapping[str, str], loaded: LoadedSettings) -> dict[str, str]:
    """Return our environment for the service, with relative paths made absolute."""
    result = dict(environ)
    if variable(environ, CONFIG_VARIABLE):
        result[CONFIG_VARIABLE] = str(loaded.config_path)
    for name, key in KEYS.items():
        if loaded.sources[name] is SettingSource.ENV and key.names_file:
            result[f"{ENV_PREFIX}{name.upper()}"] = _as_text(getattr(loaded.settings, name))
    return result


def _as_text(value: Any) -> str:
    import msgspec

    if isinstance(value, tuple):
        return msgspec.json.encode([str(item) for item in value]).decode()
    return str(value)


def _spawn(arguments: list[str], environ: Mapping[str, str], output: Path) -> int:
    """Start a detached process and return its pid. Raises ``OSError``."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            output.replace(output.with_name(f"{output.name}.1"))
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except OSError as error:
        if not has_no_room(error):
            os.close(null)
            raise
        file = os.dup(null)
    try:
        # Not Popen, which expects us to wait for the end.
        return os.posix_spawn(
            arguments[0],
            arguments,
            environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, file, 1),
                (os.POSIX_SPAWN_DUP2, file, 2),
            ],
            setsid=True,
            # Python ignores these signals, and a child inherits that.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        os.close(null)
        os.close(file)


def _end_of(pid: int) -> str | None:
    """Describe how our child ended; ``None`` while it runs."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return "it ended."
    if ended == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return f"it ended with exit code {code}." if code >= 0 else f"signal {-code} ended it."


def _last_words(output: Path) -> str:
    """Return the end of the service's output as one line."""
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [clean_line(line).strip() for line in text.splitlines()]
    return " ".join([line for line in lines if line][-_TAIL_LINES:])

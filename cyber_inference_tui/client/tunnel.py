"""SSH tunnels to services that only their own machine can reach, through the system's ``ssh``.

``ssh`` brings its configuration, keys, agent and jump hosts, and asks on the terminal for what it
needs.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from cyber_inference_tui.client.service_url import DEFAULT_PORT, is_loopback_url
from cyber_inference_tui.errors import InvalidRequestError, NoServiceError
from cyber_inference_tui.kernel import find_prctl
from cyber_inference_tui.text import clean_line

_NAME = re.compile(r"[A-Za-z0-9_.%:][A-Za-z0-9_.%:\\+-]*")
"""A user or a host. None can be an option of ssh."""
_OPTIONS = (
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ConnectTimeout=15",
    # A shared connection would outlive this process, or end with another one.
    "ControlPath=none",
    "RemoteCommand=none",
    # Otherwise each request that nothing answers there prints a line.
    "LogLevel=ERROR",
)
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.05
_TYPING_LIMIT = 600.0
_SILENT_LIMIT = 30.0
_END_LIMIT = 2.0
_WORDS_BYTES = 4096


class SshAddress(NamedTuple):
    """A service on the loopback address of a machine that ``ssh`` reaches."""

    host: str
    user: str = ""
    ssh_port: int | None = None
    """Port of the SSH server; ``None`` = that of ssh's configuration."""
    port: int = DEFAULT_PORT
    """Port of the service there."""
    tls: bool = False
    """The service there speaks TLS."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the address ``ssh://[user@]host[:port][?port=N&tls=yes]``; ``None`` for other
        schemes.

        Raises ``InvalidRequestError``.
        """
        text = text.strip()
        if not text.lower().startswith("ssh://"):
            return None
        try:
            parts = urlsplit(text)
            query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
            ssh_port, port = parts.port, int(query.pop("port", DEFAULT_PORT))
            tls = query.pop("tls", "no")
        except ValueError:
            raise _odd(text) from None
        # Not ``hostname``: ssh's configuration tells small and capital letters apart.
        user, _, place = parts.netloc.rpartition("@")
        host = place[1:].partition("]")[0] if place[:1] == "[" else place.partition(":")[0]
        names = [host, user] if user else [host]
        if (
            not all(map(_NAME.fullmatch, names))
            or parts.password is not None
            or ssh_port == 0
            or not 0 < port < 65536
            or tls not in {"yes", "no"}
            or parts.path.strip("/")
            or parts.fragment
            or query
        ):
            raise _odd(text)
        return cls(host, user, ssh_port, port, tls == "yes")

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Return the address with which ssh may reach the service at the HTTP URL ``url``."""
        parts = urlsplit(url)
        if is_loopback_url(url):  # perhaps the end of a tunnel to anywhere
            return cls("host", "user")
        return cls(parts.hostname or "", port=parts.port or 80)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        ssh_port = f":{self.ssh_port}" if self.ssh_port else ""
        query = [f"port={self.port}"] if self.port != DEFAULT_PORT else []
        query += ["tls=yes"] if self.tls else []
        return f"ssh://{user}{host}{ssh_port}{'?' if query else ''}{'&'.join(query)}"

    @property
    def far_url(self) -> str:
        """The URL of the service on its own machine."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def quoted(self) -> str:
        """The address as a shell takes it: some read ``?`` as a pattern."""
        return shlex.quote(str(self))

    @property
    def words(self) -> list[str]:
        """The arguments with which ``ssh`` reaches the machine."""
        port = ["-p", str(self.ssh_port)] if self.ssh_port else []
        return [*port, f"{self.user}@{self.host}" if self.user else self.host]

    @property
    def command(self) -> str:
        """The command with which a person reaches the machine."""
        return shlex.join(["ssh", *self.words])


def _odd(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{clean_line(text, limit=200)}' is not the address of a service behind ssh.",
        hint="Give one such as ssh://user@jetson, or ssh://jetson:22?port=8337.",
    )


class Tunnel:
    """A tunnel to the service at ``address``, whose near end is ``url``.

    It ends at ``close``, and on Linux also with the thread that opened it, however that one ends.
    If it broke, ``ready`` opens it again, without a question on the terminal. ``environ`` is the
    environment of ``ssh``.
    """

    def __init__(self, address: SshAddress, environ: Mapping[str, str] = os.environ) -> None:
        self.address = address
        self._environ = environ
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._near: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._opening = asyncio.Lock()

    @property
    def url(self) -> str:
        """The URL of the service on this machine."""
        return f"{'https' if self.address.tls else 'http'}://127.0.0.1:{self._near}"

    async def open(self, *, asks: bool) -> None:
        """Open the tunnel; ``ssh`` may ask on the terminal only if ``asks``.

        Raises ``NoServiceError`` with the reason that ``ssh`` gives.
        """
        await asyncio.to_thread(self.close)
        process = self._start(asks=asks)
        words = _LastWords(process)
        try:
            async with asyncio.timeout(_TYPING_LIMIT if asks else _SILENT_LIMIT):
                # ssh listens at the near end once it has logged in.
                while process.poll() is None:
                    await asyncio.sleep(_LOOK_SECONDS)
                    if await _accepts(self._near) and process.poll() is None:
                        self._process = process
                        return
            reason = await asyncio.to_thread(words.last)
        except TimeoutError:
            reason = "it takes too long"
        finally:
            if self._process is None:
                await _surely_end(process)
        raise NoServiceError(
            f"There is no tunnel to {self.address} ({reason}).",
            hint=f"Does '{self.address.command}' work?",
        )

    async def ready(self) -> None:
        """Return at once if the tunnel is open, else open it. Raises ``NoServiceError``."""
        if not self._is_open:
            async with self._opening:
                if not self._is_open:
                    await self.open(asks=False)

    def close(self) -> None:
        """End the tunnel."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    async def aclose(self) -> None:
        """End the tunnel without blocking the loop."""
        process, self._process = self._process, None
        if process is not None:
            await _surely_end(process)

    @property
    def _is_open(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self, *, asks: bool) -> subprocess.Popen[bytes]:
        options = [*_OPTIONS, *([] if asks else ["BatchMode=yes"])]
        argv = ["ssh", "-N", "-T", "-a", "-x"]
        argv += ["-L", f"127.0.0.1:{self._near}:127.0.0.1:{self.address.port}"]
        for option in options:
            argv += ["-o", option]
        try:
            return subprocess.Popen(
                [*argv, *self.address.words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self._environ,
                preexec_fn=_prepare_child(),  # noqa: PLW1509 - it takes no lock
            )
        except OSError as error:
            raise NoServiceError(
                f"ssh cannot be started: {error.strerror}.", hint="Install OpenSSH's client."
            ) from error


def _prepare_child() -> Callable[[], None]:
    """Return the function that a copy of this process runs before ``ssh``."""
    prctl = find_prctl()
    parent = os.getpid()

    def prepare() -> None:
        # At Ctrl-C a command may have something left to say to the service.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_END_LIMIT)


async def _surely_end(process: subprocess.Popen[bytes]) -> None:
    """End a process in a thread, also if the task is cancelled meanwhile, or was cancelled."""
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, _end, process))


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class _LastWords:
    """The end of what a process writes to standard error, read in a thread that ends with it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._end = b""
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while piece := os.read(stream.fileno(), _WORDS_BYTES):
                self._end = (self._end + piece)[-_WORDS_BYTES:]

    def last(self) -> str:
        """Return the last line, after the process has ended."""
        self._thread.join(_END_LIMIT)
        lines = [line.strip() for line in self._end.decode("utf-8", "replace").splitlines()]
        text = next((line for line in reversed(lines) if line), "ssh has ended")
        return clean_line(text.removeprefix("ssh: ").rstrip("."), limit=200)

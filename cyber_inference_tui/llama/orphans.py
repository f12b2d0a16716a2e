"""A record of the servers we started, so that the next start can end those that outlived us.

A pid alone says little (the kernel uses it again), so each is kept with its start time.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.files import read_file, write_problem

_logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20
_START_TOLERANCE = 2.0
"""Seconds. A start time is ticks since boot added to the boot time in whole seconds, which moves
by one when the clock is corrected; that a pid comes round again so fast does not happen."""


class ServerPid(msgspec.Struct, frozen=True):
    """One server process: its pid (also its process group) and when it started (Unix time)."""

    pid: int
    started: float
    model: str


class PidRecord:
    """The file that lists running servers. Each method reads or writes it at once; it is tiny."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._servers: dict[int, ServerPid] = {}

    def add(self, pid: int, model: str) -> None:
        """Note a server that was just started."""
        try:
            started = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return
        self._servers[pid] = ServerPid(pid, started, model)
        self._write()

    def remove(self, pid: int) -> None:
        """Forget a server that is gone."""
        if self._servers.pop(pid, None):
            self._write()

    def _write(self) -> None:
        temporary = self._path.with_name(f"{self._path.name}.new")
        try:
            temporary.write_bytes(msgspec.json.encode(list(self._servers.values())))
            temporary.replace(self._path)
        except OSError as error:
            _logger.warning("cannot write %s: %s", self._path, error.strerror)

    def end_orphans(self, timeout: float = 5.0) -> list[ServerPid]:
        """Kill what a former service left behind; returns those that were really running.

        Blocking; waits at most ``timeout`` seconds for them to be gone.
        """
        try:
            known = msgspec.json.decode(
                read_file(self._path, _MAX_BYTES), type=learned(list[ServerPid])
            )
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            _logger.warning("cannot read %s: %s", self._path, error)
            return []
        found: list[tuple[ServerPid, psutil.Process]] = []
        for server in known:
            try:
                process = psutil.Process(server.pid)
                if abs(process.create_time() - server.started) > _START_TOLERANCE:
                    continue
                # Our servers lead their own process group.
                if os.getpgid(server.pid) == server.pid:
                    os.killpg(server.pid, signal.SIGKILL)
                else:
                    process.kill()
            except (psutil.Error, OSError):
                continue
            found.append((server, process))
        psutil.wait_procs([process for _, process in found], timeout)
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("%s", write_problem(self._path, error))
        return [server for server, _ in found]

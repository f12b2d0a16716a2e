"""The systemd unit of the service: write its text, and call ``systemctl``.

The directives are documented in systemd.service(5), systemd.exec(5) and systemd.kill(5).
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.files import replace_file
from cyber_inference_tui.settings.environment import needed_home, variable
from cyber_inference_tui.text import clean_line

UNIT_NAME = "cyber-inference-tui.service"
SYSTEM_UNITS = Path("/etc/systemd/system")

_WATCHDOG_SECONDS = 60
"""An event loop that hangs for so long is ended, with the stack of each thread in the journal. It
may stand still for many seconds while a small machine swaps."""

_SANDBOX = """\
# As root: make the device files of NVIDIA's cards, for which the driver's set-uid helper has no
# right below.
ExecStartPre=-+/bin/sh -c 'nvidia-modprobe -u -c 0; timeout 20 nvidia-smi -L'
OOMScoreAdjust=-100
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native"""
"""What leaves the devices and system calls of GPUs alone. ``ProtectClock`` is not here: before
systemd 248 it closes all devices."""

_HARDENED = """\
PrivateDevices=yes
PrivateUsers=yes
ProtectClock=yes
ProtectProc=invisible
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM"""

_HARDENED_USER = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM"""
"""What a user's own manager can do without a namespace."""

_CALL_LIMIT = 60.0
"""Seconds for a call of systemctl, plus the time that a service may take to stop."""


class UnitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The unit's state by systemd; ``pid`` is that of a running service."""

    unit: str
    path: str
    system: bool
    installed: bool
    enabled: bool
    active: bool
    state: str
    """In systemd's words: ``active (running)``, ``failed (failed)``, …"""
    pid: int | None


def user_units(environ: Mapping[str, str]) -> Path:
    """Return the folder of a user's own units. systemd.unit(5), "Unit File Load Path"."""
    named = Path(variable(environ, "XDG_CONFIG_HOME"))
    if not named.is_absolute():
        named = needed_home(environ, hint="Set HOME, or give --system.") / ".config"
    return named / "systemd" / "user"


def unit_text(
    command: Sequence[str],
    *,
    stop_seconds: float,
    user: str | None,
    writable: Sequence[str] = (),
    hardened: bool = False,
) -> str:
    """Return the text of the unit. ``user`` is the user that runs a system unit; else ``None``.

    A system unit may write only to the ``writable`` paths. ``hardened`` takes away what only GPUs
    need. A user's own unit cannot have the sandbox: it needs a user namespace, in which the NVIDIA
    driver's set-uid helper does not work.
    """
    lines = [
        "# Written by `cyber-inference-tui service install`; `… service uninstall` removes it.",
        "[Unit]",
        "Description=cyber-inference-tui: local language models behind one address",
    ]
    if user is not None:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += [
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"WatchdogSec={_WATCHDOG_SECONDS}",
        f"ExecStart={' '.join(quoted(argument) for argument in command)}",
        "Restart=on-failure",
        "RestartSec=5",
        "# A restart does not help against wrong usage or a broken configuration.",
        "RestartPreventExitStatus=2 5",
        "# The service lets requests finish and stops its servers itself, in that order.",
        "KillMode=mixed",
        "# shutdown_timeout and stop_timeout with a margin.",
        f"TimeoutStopSec={math.ceil(stop_seconds)}",
        "# If the kernel kills a server for lack of memory, the service continues.",
        "OOMPolicy=continue",
        "# A dump would have prompts and keys in it, and the size of a model.",
        "LimitCORE=0",
        "# The service raises its own limit; programs that use select(2) need the low one.",
        "LimitNOFILE=1024:65536",
        "UMask=0077",
    ]
    if user is not None:
        lines += [f"User={user}", _SANDBOX]
        lines += [f"ReadWritePaths={_optional(path)}" for path in writable]
    if hardened:
        lines.append(_HARDENED if user is not None else _HARDENED_USER)
    lines += [
        "",
        "[Install]",
        f"WantedBy={'default.target' if user is None else 'multi-user.target'}",
    ]
    return "\n".join(lines) + "\n"


def _optional(path: str) -> str:
    """Return a path of ``ReadWritePaths``, which need not exist when the service starts."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"-{escaped}"' if set(path) & set(" \\\"'") else f"-{escaped}"


def quoted(text: str) -> str:
    """Quote an argument of ``ExecStart`` if needed: systemd.service(5), "Command lines"."""
    escaped = text
    for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("%", "%%"), ("$", "$$")):
        escaped = escaped.replace(sign, written)
    plain = text and all(sign.isalnum() or sign in "-_./:=@+," for sign in text)
    return text if plain else f'"{escaped}"'


@dataclass(frozen=True, kw_only=True)
class Systemd:
    """Calls ``systemctl`` from PATH, for a user's manager or the system's."""

    environ: Mapping[str, str]
    folder: Path
    """The folder that its units are written to."""
    system: bool = False

    @property
    def path(self) -> Path:
        """The unit's file."""
        return self.folder / UNIT_NAME

    def call(self, *arguments: str, limit: float = _CALL_LIMIT) -> str:
        """Return the output of ``systemctl``. Raises ``CyberError`` if it fails or takes too
        long."""
        program = shutil.which("systemctl", path=self.environ.get("PATH"))
        if program is None:
            raise CyberError("There is no systemctl on this machine.", hint=_WITHOUT)
        scope = [] if self.system else ["--user"]
        shown = " ".join(["systemctl", *scope, *arguments])
        try:
            done = subprocess.run(
                [program, *scope, "--no-pager", *arguments],
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CyberError(f"'{shown}' did not end within {limit:g} s.") from None
        except OSError as error:
            raise CyberError(f"'{shown}' cannot be run: {error.strerror}.") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()[:1]
            why = clean_line(said[0], limit=300) if said else f"exit code {done.returncode}"
            raise CyberError(f"'{shown}' failed: {why.rstrip('.')}.", hint=_WITHOUT)
        return done.stdout.decode("utf-8", "replace")

    def check_there(self) -> None:
        """Raise ``CyberError`` if this systemd does not answer."""
        self.call("show", "--property=Version")

    def status(self) -> UnitStatus:
        """Return the present state of the unit."""
        names = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID")
        text = self.call("show", UNIT_NAME, f"--property={','.join(names)}")
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        pid = found.get("MainPID", "")
        active = found.get("ActiveState", "")
        return UnitStatus(
            unit=UNIT_NAME,
            path=str(self.path),
            system=self.system,
            installed=found.get("LoadState") == "loaded" or self.path.exists(),
            enabled=found.get("UnitFileState") == "enabled",
            active=active == "active",
            state=clean_line(f"{active or 'unknown'} ({found.get('SubState') or 'unknown'})"),
            pid=int(pid) if pid.isdecimal() and int(pid) else None,
        )

    def install(self, text: str) -> None:
        """Write the unit, enable it, and start it; restart it if its text has changed."""
        before = self._read()
        self._write(text)
        self.call("daemon-reload")
        self.call("enable", "--now", UNIT_NAME)
        if before is not None and before != text:
            self.call("restart", UNIT_NAME, limit=_CALL_LIMIT + _stop_seconds(before))

    def uninstall(self) -> None:
        """Stop and remove the unit. Raises ``NotFoundError`` if there is none."""
        text = self._read()
        if text is None:
            raise NotFoundError(f"There is no unit {self.path}.")
        self.call("disable", "--now", UNIT_NAME, limit=_CALL_LIMIT + _stop_seconds(text))
        try:
            self.path.unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        self.call("daemon-reload")

    def _read(self) -> str | None:
        try:
            return self.path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CyberError(f"{self.path}: cannot be read: {error.strerror}.") from error

    def _write(self, text: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, text.encode(), mode=0o644)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CyberError:
        needs_root = self.system and os.geteuid() != 0
        return CyberError(
            f"{self.path}: cannot be written: {error.strerror}.",
            hint="A unit of the system needs root: put sudo before the command."
            if needs_root
            else "",
        )


_WITHOUT = (
    "Where there is no systemd (or no login of this user, as after su), run 'cyber-inference-tui "
    "serve' under your own supervisor."
)


def _stop_seconds(text: str) -> float:
    """Return the seconds that the unit's service may take to stop."""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "TimeoutStopSec" and value.isdecimal():
            return float(value)
    return _CALL_LIMIT

"""The systemd unit of the service: its text, and the calls of ``systemctl`` around it.

What the directives mean: systemd.service(5), systemd.exec(5) and systemd.kill(5).
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.settings.environment import needed_home, variable
from cyber_inference_tui.text import clean_line

UNIT_NAME = "cyber-inference-tui.service"
SYSTEM_UNITS = Path("/etc/systemd/system")

_CALL_LIMIT = 60.0
"""Seconds for a call of systemctl, besides what a service may take to stop."""


class UnitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The unit as systemd has it; ``pid`` is that of a running service."""

    unit: str
    path: str
    system: bool
    installed: bool
    enabled: bool
    active: bool
    state: str
    """systemd's words: ``active (running)``, ``failed (failed)``, …"""
    pid: int | None


def user_units(environ: Mapping[str, str]) -> Path:
    """Where a user's own units are. systemd.unit(5), "Unit File Load Path"."""
    named = Path(variable(environ, "XDG_CONFIG_HOME"))
    if not named.is_absolute():
        named = needed_home(environ, hint="Set HOME, or give --system.") / ".config"
    return named / "systemd" / "user"


def unit_text(command: Sequence[str], *, stop_seconds: float, user: str | None) -> str:
    """The unit's file. ``user`` = whom a system unit runs as; ``None`` for a user's own unit.

    Of the sandboxing directives it has only what needs no new privileges to be taken away: the
    NVIDIA driver's ``nvidia-modprobe``, which is set-uid, makes device files on first use.
    """
    lines = [
        "# Written by `cyber-inference-tui service install`; `… service uninstall` removes it.",
        "[Unit]",
        "Description=cyber-inference-tui: local language models behind one address",
    ]
    if user is not None:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += ["", "[Service]", "Type=exec"]
    if user is not None:
        lines += [f"User={user}", "ProtectSystem=yes"]
    lines += [
        f"ExecStart={' '.join(word(one) for one in command)}",
        "Restart=on-failure",
        "RestartSec=5",
        "# Wrong usage and a broken configuration do not mend by themselves.",
        "RestartPreventExitStatus=2 5",
        "# The service lets requests finish and stops its servers itself, in that order.",
        "KillMode=mixed",
        "# shutdown_timeout and stop_timeout with a margin.",
        f"TimeoutStopSec={math.ceil(stop_seconds)}",
        "# A server that the kernel ends for want of memory is not the end of the service.",
        "OOMPolicy=continue",
        "",
        "[Install]",
        f"WantedBy={'default.target' if user is None else 'multi-user.target'}",
    ]
    return "\n".join(lines) + "\n"


def word(text: str) -> str:
    """One argument of ``ExecStart``: systemd.service(5), "Command lines"."""
    escaped = text
    for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("%", "%%"), ("$", "$$")):
        escaped = escaped.replace(sign, written)
    plain = text and all(one.isalnum() or one in "-_./:=@+," for one in text)
    return text if plain else f'"{escaped}"'


@dataclass(frozen=True, kw_only=True)
class Systemd:
    """``systemctl`` for a user's manager, or the system's; the program is the one on PATH."""

    environ: Mapping[str, str]
    folder: Path
    """Where its units are written."""
    system: bool = False

    @property
    def path(self) -> Path:
        """The unit's file."""
        return self.folder / UNIT_NAME

    def call(self, *arguments: str, limit: float = _CALL_LIMIT) -> str:
        """What ``systemctl`` prints. Raises ``CyberError`` when it fails or takes too long."""
        program = shutil.which("systemctl", path=self.environ.get("PATH"))
        if program is None:
            raise CyberError("There is no systemctl here, so no systemd.", hint=_WITHOUT)
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
        """Raise ``CyberError`` when this systemd cannot be asked."""
        self.call("show", "--property=Version")

    def status(self) -> UnitStatus:
        """The unit as it is now."""
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
        """Write the unit, enable it, and start it, or start it anew if it is another one now."""
        before = self._read()
        self._write(text)
        self.call("daemon-reload")
        self.call("enable", "--now", UNIT_NAME)
        if before is not None and before != text:
            self.call("restart", UNIT_NAME, limit=_CALL_LIMIT + _stop_seconds(before))

    def uninstall(self) -> None:
        """Stop it, and remove the unit. Raises ``NotFoundError`` where there is none."""
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
        temporary = self.path.with_name(f".{UNIT_NAME}.new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, "utf-8")
            temporary.chmod(0o644)
            temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
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
    "serve' under what supervises services there."
)


def _stop_seconds(text: str) -> float:
    """How long the unit's service may take to stop."""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "TimeoutStopSec" and value.isdecimal():
            return float(value)
    return _CALL_LIMIT

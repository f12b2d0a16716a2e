"""The power modes of a Jetson: which one is set, and setting another one with ``nvpmodel``."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cyber_inference_tui.errors import ConflictError, CyberError
from cyber_inference_tui.llama.program import last_line, read_output
from cyber_inference_tui.monitor.kernel_files import read_bytes
from cyber_inference_tui.monitor.sensors.tegra import power_mode, power_modes
from cyber_inference_tui.text import clean_line

_PROGRAM = "nvpmodel"
_SECONDS = 60.0
"""Switching cores on and off takes some seconds."""
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")


class PowerModes:
    """The power modes of the machine whose files are below ``root``. Errors are ``CyberError``."""

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self._root = root
        self._environ = environ

    async def read(self) -> tuple[int, dict[int, str]]:
        """Return the number of the present mode, and the names of all modes by their numbers."""
        return await asyncio.to_thread(self._read)

    async def set(self, number: int) -> None:
        """Set a mode, as root or by a ``sudo`` that asks for no password."""
        await asyncio.to_thread(self._set, number)

    def _read(self) -> tuple[int, dict[int, str]]:
        configuration = read_bytes(self._root / "etc/nvpmodel.conf") or b""
        modes = power_modes(configuration)
        name = power_mode(read_bytes(self._root / "var/lib/nvpmodel/status") or b"", configuration)
        numbers = [number for number, its in modes.items() if name in {its, str(number)}]
        if not numbers:
            raise ConflictError(
                "This machine has no power modes that can be switched.",
                hint="Only a Jetson has them; measure without --power-modes.",
            )
        return numbers[0], modes

    def _set(self, number: int) -> None:
        if self._read()[0] == number:
            return
        path = os.pathsep.join([self._environ.get("PATH", ""), *_SYSTEM_FOLDERS])
        program = shutil.which(_PROGRAM, path=path)
        if program is None:
            raise CyberError("There is no nvpmodel here, which sets the power mode.")
        command = [program, "-m", str(number)]
        sudo = None if os.geteuid() == 0 else shutil.which("sudo", path=path)
        if sudo is not None:
            command = [sudo, "-n", *command]
        try:
            code, output = read_output(command, environ=self._environ, time_limit=_SECONDS)
        except OSError as error:
            raise CyberError(f"nvpmodel cannot be run: {error.strerror or error}.") from error
        now, modes = self._read()
        if now != number:
            said = clean_line(last_line(output), limit=200) or f"it ended with {code}"
            raise CyberError(
                f"The power mode {modes.get(number, number)} cannot be set: {said}.",
                hint="The service needs the right to run nvpmodel as root without a password"
                f" (sudoers: NOPASSWD: {program}), and some modes need a restart of the machine.",
            )

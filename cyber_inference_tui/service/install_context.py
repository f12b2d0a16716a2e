"""The commands of installations, and facts of the machine and the data directory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from cyber_inference_tui.llama.install.layout import Layout, update_of
from cyber_inference_tui.llama.install.methods import gather_install_facts, install_methods
from cyber_inference_tui.records import InstallSource
from cyber_inference_tui.settings.load import CONFIG_VARIABLE, CurrentSettings

AUTO = "auto"
"""The source that lets ``install-llama`` choose one."""

_CHECK_INTERVAL = timedelta(days=1)


class NewerVersion(NamedTuple):
    """The newer version, if one is known."""

    version: str | None = None
    due: bool = False
    """It is time for another check."""


class InstallContext:
    """The commands, environment and facts of installations. Its methods block."""

    def __init__(
        self, current: CurrentSettings, environ: Mapping[str, str], now: Callable[[], datetime]
    ) -> None:
        self._current = current
        self._environ = environ
        self._now = now

    def argv(self, source: str) -> list[str]:
        """Return the command that installs from a source, which may be ``auto``."""
        data_dir, path = self._current.settings.data_dir, self._current.loaded.config_path
        installed = Layout(data_dir).current()
        if source == AUTO and installed is not None:
            # ``auto`` would keep any that is installed: ask for a newer version of the same source.
            source = installed.source
        return [
            *(sys.executable, "-m", "cyber_inference_tui", "install-llama"),
            *("--from", source, "--json", "--reports", "--data-dir", str(data_dir)),
            *(("--config", str(path)) if path.is_file() else ()),
        ]

    def check_argv(self) -> list[str]:
        """Return the command that looks for a newer version."""
        return [*self.argv(AUTO), "--check"]

    def environ(self) -> dict[str, str]:
        """Return the environment of the commands."""
        # Without the file this service has the defaults; the command would refuse the variable.
        gone = not self._current.loaded.config_path.is_file()
        return {k: v for k, v in self._environ.items() if not (gone and k == CONFIG_VARIABLE)}

    def sources(self) -> tuple[InstallSource, ...]:
        """Return the sources that this machine can install from."""
        root = self._current.settings.system_root
        return install_methods(gather_install_facts(root, self._environ))

    def newer_version(self) -> NewerVersion:
        """Return the result of the last check."""
        layout = Layout(self._current.settings.data_dir)
        installed, newest = layout.current(), layout.newest()
        if installed is None or self._current.settings.llama_server_path:
            # Only a llama-server that was installed here is kept up to date.
            return NewerVersion()
        fresh = newest is not None and newest.source == installed.source
        # abs(): a clock that was ahead may have been set back since.
        old = newest is not None and abs(self._now() - newest.seen_at) > _CHECK_INTERVAL
        return NewerVersion(version=update_of(installed, newest), due=old or not fresh)

    def clean_up(self) -> None:
        """Remove the files of an installation that was killed."""
        with Layout(self._current.settings.data_dir).locked():
            pass

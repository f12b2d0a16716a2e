"""The commands of an installation, and facts of the machine and the data directory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from cyber_inference_tui.llama.install.layout import Layout, update_of
from cyber_inference_tui.llama.install.methods import gather_install_facts, install_methods
from cyber_inference_tui.records import InstallSource
from cyber_inference_tui.service.update_check import NewerVersion
from cyber_inference_tui.settings.load import CONFIG_VARIABLE, CurrentSettings

AUTO = "auto"
"""The source that lets ``install-llama`` choose one."""

_CHECK_INTERVAL = timedelta(days=1)


class InstallContext(msgspec.Struct, frozen=True, kw_only=True):
    """The commands, environment and facts of an installation. The functions block."""

    argv: Callable[[str], Sequence[str]]
    """Returns the command that installs from a source, which may be ``auto``."""
    environ: Callable[[], Mapping[str, str]]
    sources: Callable[[], tuple[InstallSource, ...]]
    """Returns the sources that this machine can install from."""
    known: Callable[[], NewerVersion]
    """Returns the newer version, if one is known."""
    check_argv: Callable[[], Sequence[str]]
    """Returns the command that looks for a newer version."""
    clean_up: Callable[[], None]
    """Removes the files of an installation that was killed."""


def install_context(
    current: CurrentSettings, environ: Mapping[str, str], now: Callable[[], datetime]
) -> InstallContext:
    """Return the context of a service with these settings."""

    def layout() -> Layout:
        return Layout(current.settings.data_dir)

    def argv(source: str) -> list[str]:
        data_dir, path = current.settings.data_dir, current.loaded.config_path
        installed = layout().current()
        if source == AUTO and installed is not None:
            # ``auto`` would keep any that is installed: ask for a newer one of the same source.
            source = installed.source
        return [
            *(sys.executable, "-m", "cyber_inference_tui", "install-llama"),
            *("--from", source, "--json", "--reports", "--data-dir", str(data_dir)),
            *(("--config", str(path)) if path.is_file() else ()),
        ]

    def known() -> NewerVersion:
        installed, newest = layout().current(), layout().newest()
        if installed is None or current.settings.llama_server_path:
            # Only a llama-server that was installed here is kept up to date.
            return NewerVersion()
        fresh = newest is not None and newest.source == installed.source
        # abs(): a clock that was ahead may have been set back since.
        old = newest is not None and abs(now() - newest.seen_at) > _CHECK_INTERVAL
        return NewerVersion(version=update_of(installed, newest), due=old or not fresh)

    def environment() -> dict[str, str]:
        # Without the file this service has the defaults; the command would refuse the variable.
        gone = not current.loaded.config_path.is_file()
        return {k: v for k, v in environ.items() if not (gone and k == CONFIG_VARIABLE)}

    def clean_up() -> None:
        with layout().locked():
            pass

    return InstallContext(
        argv=argv,
        environ=environment,
        sources=lambda: install_methods(
            gather_install_facts(current.settings.system_root, environ)
        ),
        known=known,
        check_argv=lambda: [*argv(AUTO), "--check"],
        clean_up=clean_up,
    )

"""What an installation stands on: its commands, and what this machine and data directory tell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from cyber_inference_tui.llama.install.layout import Layout, update_of
from cyber_inference_tui.llama.install.methods import gather_install_facts, install_methods
from cyber_inference_tui.records import InstallSource
from cyber_inference_tui.service.update_check import Known
from cyber_inference_tui.settings.load import CONFIG_VARIABLE, CurrentSettings

AUTO = "auto"
"""The source that is a choice among the others."""

_CHECK_INTERVAL = timedelta(days=1)


class InstallContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an installation stands on. The functions block."""

    argv: Callable[[str], Sequence[str]]
    """The command that gets one from this source; ``auto`` is one of them."""
    environ: Callable[[], Mapping[str, str]]
    sources: Callable[[], tuple[InstallSource, ...]]
    """The ways there are on this machine."""
    known: Callable[[], Known]
    """What is known of a newer version."""
    check_argv: Callable[[], Sequence[str]]
    """The command that looks for one."""
    tidy: Callable[[], None]
    """Remove what an installation that was killed has left."""


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

    def known() -> Known:
        installed, newest = layout().current(), layout().newest()
        if installed is None or current.settings.llama_server_path:
            # Another's llama-server is another's to keep new.
            return Known()
        fresh = newest is not None and newest.source == installed.source
        # A clock that was ahead may have been set back since.
        old = newest is not None and abs(now() - newest.seen_at) > _CHECK_INTERVAL
        return Known(version=update_of(installed, newest), due=old or not fresh)

    def environment() -> dict[str, str]:
        # A file that was removed means the defaults here; there it would be a mistake.
        gone = not current.loaded.config_path.is_file()
        return {k: v for k, v in environ.items() if not (gone and k == CONFIG_VARIABLE)}

    def tidy() -> None:
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
        tidy=tidy,
    )

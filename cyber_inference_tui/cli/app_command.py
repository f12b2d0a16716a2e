"""Open the terminal app, on a service that is found, started or elsewhere."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.errors import ConflictError, CyberError, InvalidRequestError
from cyber_inference_tui.terminal.stream import stderr_terminal

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.settings.load import LoadedSettings
    from cyber_inference_tui.tui.app_options import AppOptions

KEYMAP_FILE = "keys.toml"
"""In the folder of the configuration file."""


def open_app(options: GlobalOptions, *, readonly: bool) -> int:
    """Run the terminal app and return the exit code.

    Without ``--attach`` a service is found or started here. Raises ``CyberError`` if the app cannot
    open.
    """
    _need_terminal()
    # The start makes no garbage, and collecting it would take a tenth of the time. The app turns
    # the collector on again once its first page is shown.
    gc.disable()
    loaded = options.load()
    for warning in loaded.warnings:
        click.echo(warning, err=True)
    prepare_terminal(os.environ)
    if options.attach:
        return _attach(options, loaded, readonly=readonly)
    from cyber_inference_tui.cli.background import (
        find_or_start,
        stop_limit,
        stop_service,
    )
    from cyber_inference_tui.cli.service_access import client_of
    from cyber_inference_tui.tui.app_options import AfterExit

    service = find_or_start(options)
    # A start may have made a key.
    settings = options.load().settings if service.started else loaded.settings
    client = client_of(service.url, settings)
    launch = app_options(loaded, owned=service.started, readonly=readonly)
    leave = _run(client, launch, demo=options.demo and not service.started)
    if leave is AfterExit.KEEP and service.started:
        click.echo(
            f"The service keeps running at {service.url}; 'kill {service.pid}' stops it.", err=True
        )
    if leave is AfterExit.STOP and service.pid is not None:
        dots = stderr_terminal(os.environ).ellipsis
        click.echo(f"Stopping the service {dots}", err=True)
        if not stop_service(service.pid, limit=stop_limit(loaded.settings)):
            raise CyberError(
                f"The service (pid {service.pid}) does not stop.", hint="See the end of its log."
            )
    return 0


def _attach(options: GlobalOptions, loaded: LoadedSettings, *, readonly: bool) -> int:
    from cyber_inference_tui.cli.passwords import Passwords
    from cyber_inference_tui.cli.service_access import attached_client

    client = attached_client(options, trusts=_trusts)
    launch = app_options(
        loaded,
        attached=True,
        readonly=readonly,
        save_password=partial(Passwords(loaded.settings.data_dir).keep, client.place),
    )
    if client.tunnel is None:
        _run(client, launch, demo=False)
        return 0
    try:
        asyncio.run(client.tunnel.open(asks=True))
        _run(client, launch, demo=False)
    finally:
        client.tunnel.close()
    return 0


def _trusts(address: str, fingerprint: str) -> bool:
    """Ask whether the service with this fingerprint is the right one."""
    click.echo(
        f"The certificate of {address} is not known here, and no authority has signed it.\n"
        f"Its SHA-256 fingerprint is {fingerprint}.\n"
        "'cyber-inference-tui tls make' shows the right one on that machine.",
        err=True,
    )
    return click.confirm("Trust it from now on?", err=True)


def _run(client: ServiceClient, launch: AppOptions, *, demo: bool) -> object:
    from cyber_inference_tui.tui.app import CyberApp

    app = CyberApp(client, launch, add_demo=demo)
    leave = app.run()
    if app.return_code:
        raise SystemExit(app.return_code)  # the app has printed the error
    return leave


def app_options(
    loaded: LoadedSettings, *, readonly: bool, attached: bool = False, **fields: object
) -> AppOptions:
    """Return the app's options: the settings of this machine, and ``fields``."""
    from cyber_inference_tui.terminal.charset import charset_of
    from cyber_inference_tui.tui.app_options import AppOptions
    from cyber_inference_tui.tui.keymap import read_keymap
    from cyber_inference_tui.tui.theme import theme_for

    path = loaded.config_path.with_name(KEYMAP_FILE)
    keymap = read_keymap(path)
    return AppOptions(
        theme=loaded.settings.theme or theme_for(os.environ),
        charset=charset_of(os.environ, sys.stdout.encoding),
        rate=loaded.settings.refresh_rate,
        keymap=keymap.keys,
        keymap_path=path,
        crash_path=loaded.settings.data_dir / "logs" / "app-crash.txt",
        notices=keymap.problems,
        save_theme=None if readonly and not attached else partial(_save_theme, loaded),
        signals=True,
        machine=_ssh_name(os.environ),
        attached=attached,
        readonly=readonly,
        **fields,  # type: ignore[arg-type]
    )


def _ssh_name(environ: Mapping[str, str]) -> str:
    """Return this machine and its user, as ``ssh`` on another machine names them."""
    user, machine = environ.get("USER"), os.uname().nodename
    return f"{user}@{machine}" if user else machine


def _save_theme(loaded: LoadedSettings, name: str) -> None:
    from cyber_inference_tui.settings.edit import set_value
    from cyber_inference_tui.settings.environment import ENV_PREFIX
    from cyber_inference_tui.settings.load import SettingSource

    set_value(loaded.config_path, "theme", name)
    if loaded.sources["theme"] is SettingSource.ENV:
        raise ConflictError(
            f"{ENV_PREFIX}THEME overrides the saved theme.", hint="Unset it to keep your choice."
        )


def prepare_terminal(environ: Mapping[str, str]) -> None:
    """Set environment variables that make Textual send less; call it before the import.

    Variables that are set already stay.
    """
    wanted = {"TEXTUAL_ANIMATIONS": "none", "TEXTUAL_SMOOTH_SCROLL": "0"}
    if "SSH_CONNECTION" in environ:
        wanted["TEXTUAL_FPS"] = "20"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _need_terminal() -> None:
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise InvalidRequestError(
            "The terminal app needs a terminal.",
            hint="'cyber-inference-tui serve' runs the service without it, and "
            "'cyber-inference-tui status' asks a running one.",
        )

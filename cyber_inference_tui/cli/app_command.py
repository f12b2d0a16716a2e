"""The terminal app, opened: a service found or started for it, or one elsewhere."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.errors import CyberError, InvalidRequestError

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.settings.load import Loaded
    from cyber_inference_tui.tui.app_options import AppOptions

KEYMAP_FILE = "keys.toml"
"""Beside the configuration file."""


def open_app(options: GlobalOptions, *, attach: str | None, readonly: bool) -> int:
    """Open the terminal app until it is left; returns the exit code.

    ``attach`` is the URL of a service elsewhere; without it one is found or started here. Raises
    ``CyberError`` for what keeps it from opening.
    """
    _need_terminal()
    # Nothing that is made for the start is garbage: looking for it there would take a tenth of the
    # time. The app has it looked for again once its first page is up.
    gc.disable()
    loaded = options.load()
    for warning in loaded.warnings:
        click.echo(warning, err=True)
    prepare_terminal(os.environ)
    if attach is not None:
        return _attach(loaded, attach, readonly=readonly)
    from cyber_inference_tui.cli.background import (  # noqa: PLC0415 - not for --help
        find_or_start,
        stop_limit,
        stop_service,
    )
    from cyber_inference_tui.cli.connection import client_of  # noqa: PLC0415
    from cyber_inference_tui.tui.app_options import AfterExit  # noqa: PLC0415

    service = find_or_start(options)
    client = client_of(service.url, loaded.settings)
    launch = _launch(loaded, owned=service.started, readonly=readonly)
    leave = _run(client, launch, demo=options.demo and not service.started)
    if leave is AfterExit.KEEP and service.started:
        click.echo(f"The service goes on at {service.url}; 'kill {service.pid}' ends it.", err=True)
    if leave is AfterExit.STOP and service.pid is not None:
        click.echo("Stopping the service …", err=True)
        if not stop_service(service.pid, limit=stop_limit(loaded.settings)):
            raise CyberError(
                f"The service (pid {service.pid}) does not end.", hint="See the end of its log."
            )
    return 0


def _attach(loaded: Loaded, url: str, *, readonly: bool) -> int:
    from cyber_inference_tui.cli.passwords import Passwords  # noqa: PLC0415 - not for --help
    from cyber_inference_tui.client.address import service_address  # noqa: PLC0415
    from cyber_inference_tui.client.service_client import ServiceClient  # noqa: PLC0415

    address = service_address(url)
    passwords = Passwords(loaded.settings.data_dir)

    async def renew(client: ServiceClient) -> bool:
        # Each is tried once: with a wrong one the person is asked.
        for password in passwords.take(address):
            await client.login(password)
            return True
        return False

    key = loaded.settings.api_keys[0] if loaded.settings.api_keys else ""
    client = ServiceClient(address, api_key=key, renew=renew)
    launch = _launch(
        loaded,
        attached=True,
        readonly=readonly,
        save_password=lambda password: passwords.keep(address, password),
    )
    _run(client, launch, demo=False)
    return 0


def _run(client: ServiceClient, launch: AppOptions, *, demo: bool) -> object:
    from cyber_inference_tui.tui.app import CyberApp  # noqa: PLC0415 - imports Textual

    app = CyberApp(client, launch, add_demo=demo)
    leave = app.run()
    if app.return_code:
        raise SystemExit(app.return_code)  # it has said why
    return leave


def _launch(loaded: Loaded, **fields: object) -> AppOptions:
    from cyber_inference_tui.terminal.charset import charset_of  # noqa: PLC0415 - as above
    from cyber_inference_tui.tui.app_options import AppOptions  # noqa: PLC0415
    from cyber_inference_tui.tui.keymap import read_keymap  # noqa: PLC0415
    from cyber_inference_tui.tui.theme import theme_for  # noqa: PLC0415

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
        signals=True,
        **fields,  # type: ignore[arg-type]
    )


def prepare_terminal(environ: Mapping[str, str]) -> None:
    """Tell Textual, before it is imported, to send no more than it must.

    It reads these from the environment; what a person has set stays.
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

"""Open the terminal app, on a service that is found, started or elsewhere."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.errors import ConflictError, CyberError, InvalidRequestError
from cyber_inference_tui.terminal.stream import stderr_terminal

if TYPE_CHECKING:
    from cyber_inference_tui.cli.background import FoundService
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.settings.load import LoadedSettings
    from cyber_inference_tui.tui.app_options import AfterExit, AppOptions

KEYMAP_FILE = "keys.toml"
VIEW_FILE = "view.json"
"""Both are in the folder of the configuration file."""


def open_app(options: GlobalOptions, *, readonly: bool) -> int:
    """Run the terminal app and return the exit code.

    Without ``--attach`` a service is found or started here. When the user switches to another host,
    the app opens again on that one, because ssh or an unknown certificate may have a question.
    Raises ``CyberError`` if the app cannot open.
    """
    _need_terminal()
    # The start makes no garbage, and collecting it would take a tenth of the time. The app turns
    # the collector on again once its first page is shown.
    gc.disable()
    loaded = options.load()
    for warning in loaded.warnings:
        click.echo(warning, err=True)
    prepare_terminal(os.environ)
    opener = _Opener(readonly=readonly)
    before: GlobalOptions | None = None
    problem = ""
    while True:
        opener.has_run = False
        try:
            host = (opener.elsewhere if options.attach else opener.here)(options, problem)
        except CyberError as error:
            if before is None or opener.has_run:
                raise
            options, before, problem = before, None, str(error)
            continue
        if host is None:
            return 0
        before, options, problem = options, replace(options, attach=host), ""


def open_in_browser(options: GlobalOptions, *, readonly: bool) -> int:
    """Run the app for a tab of the browser, which ``web`` serves, and return the exit code.

    Nothing opens the service but a password typed there: not the token of this user's programs,
    no kept password. Raises ``CyberError`` if the app cannot open.
    """
    gc.disable()
    loaded = options.load()
    prepare_terminal(os.environ)
    from cyber_inference_tui.tui.app import CyberApp
    from cyber_inference_tui.tui.browser_driver import BrowserDriver

    client = _host_client(options, options.attach, logs_in=False)
    attached = bool(options.attach)
    launch = app_options(loaded, readonly=readonly, attached=attached, driver=BrowserDriver)
    app = CyberApp(client, launch, add_demo=options.demo)
    try:
        if client.tunnel is not None:
            asyncio.run(client.tunnel.open(asks=False))
        app.run()
    finally:
        if client.tunnel is not None:
            client.tunnel.close()
    return app.return_code or 0


class _Opener:
    """Opens the app on one host after the other; each method returns the next one."""

    def __init__(self, *, readonly: bool) -> None:
        self._readonly = readonly
        self._started: FoundService | None = None
        """The service of this machine, if it was started for the app."""
        self.has_run = False
        """The app has run on the last host."""

    def here(self, options: GlobalOptions, problem: str) -> str | None:
        """Open the app on the service of this machine, which is started if none runs."""
        from cyber_inference_tui.cli.background import find_or_start, stop_limit, stop_service
        from cyber_inference_tui.cli.service_access import client_of
        from cyber_inference_tui.tui.app_options import AfterExit

        service = find_or_start(options)
        if service.started:
            self._started = service
        owned = self._started is not None and self._started.url == service.url
        # A start may have made a key.
        loaded = options.load()
        launch = self._options(options, loaded, problem, owned=owned)
        client = client_of(service.url, loaded.settings)
        leave, host = self._run(client, launch, demo=options.demo and not service.started)
        if leave is not AfterExit.STOP or service.pid is None:
            self._leave_running(host)
            return host
        dots = stderr_terminal(os.environ).ellipsis
        click.echo(f"Stopping the service {dots}", err=True)
        if not stop_service(service.pid, limit=stop_limit(loaded.settings)):
            raise CyberError(
                f"The service (pid {service.pid}) does not stop.", hint="See the end of its log."
            )
        return None

    def elsewhere(self, options: GlobalOptions, problem: str) -> str | None:
        """Open the app on the service at the address of ``--attach``."""
        from cyber_inference_tui.cli.passwords import Passwords
        from cyber_inference_tui.cli.service_access import attached_client, check_tunnel

        loaded = options.load()
        client = attached_client(options, trusts=trusts)
        launch = self._options(
            options,
            loaded,
            problem,
            attached=True,
            save_password=partial(Passwords(loaded.settings.data_dir).keep, client.place),
        )
        if client.tunnel is None:
            _, host = self._run(client, launch)
        else:
            try:
                asyncio.run(client.tunnel.open(asks=True))
                check_tunnel(client, loaded.settings, trusts)
                _, host = self._run(client, launch)
            finally:
                client.tunnel.close()
        self._leave_running(host)
        return host

    def _options(
        self, options: GlobalOptions, loaded: LoadedSettings, problem: str, **fields: Any
    ) -> AppOptions:
        from cyber_inference_tui.client.hosts import HERE, Hosts, proper_address

        current = proper_address(options.attach) if options.attach else HERE
        hosts = Hosts(loaded.settings.data_dir, current, partial(_host_client, options))
        launch = app_options(loaded, readonly=self._readonly, hosts=hosts, **fields)
        notices = (*launch.notices, *([problem] if problem else []))
        return replace(launch, notices=notices)

    def _run(
        self, client: ServiceClient, launch: AppOptions, *, demo: bool = False
    ) -> tuple[AfterExit | None, str | None]:
        """Run the app; return what to do with the service, and the next host."""
        from cyber_inference_tui.tui.app import CyberApp

        app = CyberApp(client, launch, add_demo=demo)
        leave = app.run()
        self.has_run = True
        if app.return_code:
            raise SystemExit(app.return_code)  # the app has printed the error
        return leave, app.next_host

    def _leave_running(self, host: str | None) -> None:
        """Say how to stop the service that was started, unless the app goes on."""
        if self._started is not None and host is None:
            say_it_keeps_running(self._started)


def say_it_keeps_running(service: FoundService) -> None:
    """Say how to stop a service that was started for the app."""
    click.echo(
        f"The service keeps running at {service.url}; 'kill {service.pid}' stops it.", err=True
    )


def _host_client(options: GlobalOptions, address: str, *, logs_in: bool = True) -> ServiceClient:
    """Return a client for a host of the app's list, which asks nothing."""
    from cyber_inference_tui.cli.service_access import attached_client, client_of, service_url

    if address:
        return attached_client(replace(options, attach=address), logs_in=logs_in)
    settings = options.load().settings
    return client_of(service_url(settings), settings, logs_in=logs_in)


def trusts(address: str, fingerprint: str) -> bool:
    """Ask whether the service with this fingerprint is the right one."""
    click.echo(
        f"The certificate of {address} is not known here, and no authority has signed it.\n"
        f"Its SHA-256 fingerprint is {fingerprint}.\n"
        "'cyber-inference-tui tls make' shows the right one on that machine.",
        err=True,
    )
    return click.confirm("Trust it from now on?", err=True)


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
        desktop=loaded.settings.desktop_notices,
        keymap=keymap.keys,
        keymap_path=path,
        view_path=path.with_name(VIEW_FILE),
        crash_path=loaded.settings.data_dir / "logs" / "app-crash.txt",
        chats_path=loaded.settings.data_dir / "chats",
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

"""``web``: serve the app to a browser on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import click

from cyber_inference_tui.cli.options import GlobalOptions, WholeNumber

_PORT = 8336


@click.command()
@click.option(
    "--web-port",
    type=WholeNumber(0, 65535),
    default=_PORT,
    show_default=True,
    metavar="PORT",
    help="Port of the page; 0 = a free one.",
)
@click.option("--readonly", is_flag=True, help="Open the app without its actions.")
@click.pass_obj
def web(options: GlobalOptions, web_port: int, readonly: bool) -> None:
    """Serve the terminal app to a browser on this machine.

    Prints the address of the page. It contains a secret that is new with each start, because
    whoever opens the page uses the app as you. The app asks for the admin password if the service
    has one. Each tab of the browser has an app of its own, which ends with the tab. Ctrl-C or
    SIGTERM ends the page and its apps.
    """
    from cyber_inference_tui.cli.app_command import say_it_keeps_running, trusts
    from cyber_inference_tui.cli.background import app_arguments, environment_of, find_or_start
    from cyber_inference_tui.cli.service_access import attached_client
    from cyber_inference_tui.cli.web_server import WebServer

    service = None
    if options.attach:
        # The apps cannot ask about an unknown certificate.
        attached_client(options, trusts=trusts)
    else:
        service = find_or_start(options)
    loaded = options.load()
    arguments = app_arguments(options, loaded, readonly=readonly)
    server = WebServer(arguments, environment_of(options.environ, loaded), port=web_port)
    try:
        asyncio.run(server.run(announce=_announce))
    finally:
        if service is not None and service.started:
            say_it_keeps_running(service)


def _announce(address: str) -> None:
    click.echo(f"The app is at {address}")
    with contextlib.suppress(OSError):
        sys.stdout.flush()

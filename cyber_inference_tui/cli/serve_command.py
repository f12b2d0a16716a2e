"""``serve``: run the service."""

from __future__ import annotations

import contextlib
import gc
import mimetypes
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial

import click

from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.files import has_no_room
from cyber_inference_tui.storage import START_LIMIT, Storages


def run_service(options: GlobalOptions, *, background: bool = False) -> int:
    """Run the service until a signal ends it, and return the exit code.

    In the ``background`` it leaves its working directory, and once it listens, it logs only to its
    file.
    """
    # Before the event loop handles signals, there is nothing to shut down.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with importing():
        from cyber_inference_tui.http.serve import serve as run
        from cyber_inference_tui.settings.load import config_path

    file = config_path(options.config, options.environ)
    loaded = Storages().ask(file.parent, options.load, START_LIMIT)
    if background:
        os.chdir("/")
    return run(
        loaded,
        demo=options.demo,
        announce=_announce,
        announce_secrets=partial(click.echo, err=True),
        environ=options.environ,
        flags=options.flags,
        quiet=background,
    )


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import a service's code in it: that takes a quarter less time."""
    # Imports make no garbage.
    gc.disable()
    # Keep aiohttp from reading all CA certificates, twice: ``hub.connector`` reads them.
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, os.devnull))
    # Keep it from reading the system's list of file types as well: nothing here sends files.
    mimetypes.knownfiles.clear()
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
        gc.freeze()
        gc.enable()


def _announce(line: str) -> None:
    """Print the line; on a full disk the service runs without it."""

    try:
        click.echo(line)
    except OSError as error:
        if not has_no_room(error):
            raise
        # Keep Python from writing the line again at exit.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


@click.command()
@click.pass_obj
def serve(options: GlobalOptions) -> int:
    """Run the service in the foreground, the same as --no-ui.

    Prints one line, "listening on http://HOST:PORT", when it accepts requests. SIGTERM or
    Ctrl-C lets requests in flight finish and stops every model; a second one stops at once.
    """
    return run_service(options)

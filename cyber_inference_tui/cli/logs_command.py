"""``logs``: print the last lines of a log, and with ``-f`` new lines as they come."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import click
import msgspec

from cyber_inference_tui.cli.options import GlobalOptions, WholeNumber, json_option, model_argument
from cyber_inference_tui.cli.output import print_json, print_lines, print_note
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ModelNotFoundError, NoServiceError
from cyber_inference_tui.records import GapEvent, LogEvent, endpoints
from cyber_inference_tui.terminal.stream import stderr_terminal
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from cyber_inference_tui.client.service_client import ServiceClient

SERVICE = "service"


@click.command()
@model_argument("source", also=(SERVICE, "install"))
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come.")
@click.option(
    "-n",
    "--lines",
    type=WholeNumber(0, 100_000),
    default=100,
    show_default=True,
    metavar="N",
    help="The number of last lines to print, up to 100,000.",
)
@json_option
@click.pass_obj
def logs(options: GlobalOptions, source: str, follow: bool, lines: int, as_json: bool) -> None:
    """Show the log of the model ID, or of the service when ID is "service".

    Without a running service the log's file is read. With -f a lost connection is retried for half
    a minute, without losing lines that the service still has. --json prints one object a line, with
    id, at and text.
    """
    from cyber_inference_tui.cli.service_calls import with_client

    loaded = options.load()
    answered = False

    async def show(client: ServiceClient) -> None:
        nonlocal answered
        name = source
        if follow or as_json:
            name = await _proper_id(client, source)
        tail = await client.log(name, lines)
        answered = True
        _print_lines(name, ((None, line) for line in tail.lines), as_json)
        if follow:
            await _follow(client, name, tail.event_id, as_json)
        elif lines and not tail.lines and not as_json:
            print_note(f"The log of {clean_line(name)} is empty.", stderr_terminal(options.environ))

    try:
        with_client(options, show)
    except NoServiceError as error:
        from cyber_inference_tui.cli.offline import local_log

        found = None if answered else local_log(loaded, source, lines, options.environ)
        if found is None:
            raise
        _print_lines(found.id, found.lines, as_json)
        end = ", and there is nothing to follow" if follow else ""
        what = "These lines are from" if found.lines else "No lines are shown of"
        print_note(
            f"{error.message} {what} {found.path}{end}.",
            stderr_terminal(options.environ),
        )


async def _proper_id(client: ServiceClient, name: str) -> str:
    """Return the id of the log that the service publishes for ``name``, an alias or another
    case."""
    if name == SERVICE:
        return name
    try:
        return (await client.call(endpoints.MODEL, name)).id
    except ModelNotFoundError:
        return name  # the log of a removed model may still exist


def _print_lines(name: str, lines: Iterable[tuple[datetime | None, str]], as_json: bool) -> None:
    if as_json:
        for at, text in lines:
            print_json({"id": name, "at": at, "text": clean_line(text)}, compact=True)
        return
    print_lines(clean_line(text) for _, text in lines)


def _print_gap(data: bytes) -> None:
    try:
        restarted = msgspec.json.decode(data, type=thread_safe(GapEvent)).topic is None
    except msgspec.MsgspecError:
        restarted = False
    click.echo(
        "The service has restarted."
        if restarted
        else "Some lines are missing here: the service no longer has them.",
        err=True,
    )


async def _follow(client: ServiceClient, name: str, after: int | None, as_json: bool) -> None:
    def on_lost() -> None:
        click.echo("The connection to the service was lost; trying again.", err=True)

    async with aclosing(
        client.events({"log"}, after=after, logs={name}, on_lost=on_lost)
    ) as events:
        async for event in events:
            if event.topic == "gap":
                _print_gap(event.data)
                continue
            try:
                news = msgspec.json.decode(event.data, type=thread_safe(LogEvent))
            except msgspec.MsgspecError:
                continue  # an event of a newer version
            if news.id != name:
                continue
            _print_lines(name, ((line.at, line.text) for line in news.lines), as_json)

"""``requests``: list the latest finished requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import (
    FilledText,
    GlobalOptions,
    WholeNumber,
    json_option,
)
from cyber_inference_tui.cli.output import print_json, print_lines, print_note
from cyber_inference_tui.terminal.stream import Terminal, stderr_terminal, stdout_terminal
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.records import RequestRecord


@click.command()
@click.option(
    "-n",
    "--number",
    type=WholeNumber(1, 1000),
    default=20,
    show_default=True,
    metavar="N",
    help="The number of requests to list, up to 1,000.",
)
@click.option("--model", metavar="ID", type=FilledText(), help="Only requests to this model.")
@click.option("--failed", is_flag=True, help="Only failed requests.")
@json_option
@click.pass_obj
def requests(
    options: GlobalOptions, number: int, model: str | None, failed: bool, as_json: bool
) -> None:
    """List the latest finished requests, newest first, with their clients.

    CLIENT is the program as it calls itself, and in brackets the name of its key. With --json,
    each request has all its fields.
    """
    from cyber_inference_tui.cli.service_calls import finished_requests
    from cyber_inference_tui.records.queries import RequestQuery

    query = RequestQuery(limit=number, model=model, failed=True if failed else None)
    found = finished_requests(options, query)
    if as_json:
        print_json(found)
    elif found:
        print_lines(_table(found, stdout_terminal(options.environ)))
    else:
        print_note("There are no such requests.", stderr_terminal(options.environ))


def _table(records: list[RequestRecord], terminal: Terminal) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.terminal.clients import client_name
    from cyber_inference_tui.terminal.columns import Cell, Column
    from cyber_inference_tui.units import number_text, seconds_text, speed_text

    def at(record: RequestRecord, _: Terminal) -> str:
        return f"{record.at.astimezone():%Y-%m-%d %H:%M:%S}"

    def status(record: RequestRecord, _: Terminal) -> Cell:
        bad = record.status >= 400 or record.error is not None
        return Cell(str(record.status), "bad" if bad else "good")

    def known(value: float | None, text: str) -> str:
        return "-" if value is None else text

    columns: list[Column[RequestRecord, Terminal]] = [
        Column("time", "TIME", cell=at),
        Column("model", "MODEL", least=8, cell=lambda one, _: clean_line(one.model) or "-"),
        Column("path", "PATH", priority=3, cell=lambda one, _: clean_line(one.path)),
        Column("status", "STATUS", right=True, cell=status),
        Column(
            "in",
            "IN",
            right=True,
            priority=5,
            cell=lambda one, _: known(one.tokens_in, number_text(one.tokens_in or 0)),
        ),
        Column(
            "out",
            "OUT",
            right=True,
            priority=4,
            cell=lambda one, _: known(one.tokens_out, number_text(one.tokens_out or 0)),
        ),
        Column(
            "speed",
            "TOKENS/S",
            right=True,
            priority=6,
            cell=lambda one, _: known(
                one.tokens_per_second, speed_text(one.tokens_per_second or 0.0)
            ),
        ),
        Column("took", "TOOK", right=True, cell=lambda one, _: seconds_text(one.duration_seconds)),
        Column("client", "CLIENT", priority=2, cell=lambda one, _: clean_line(client_name(one))),
        Column(
            "port",
            "PORT",
            right=True,
            priority=7,
            cell=lambda one, _: known(one.port, str(one.port)),
        ),
    ]
    return render_table(columns, records, terminal)

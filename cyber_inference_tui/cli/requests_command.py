"""``requests``: list running and finished requests, and explain why one was slow."""

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
    from collections.abc import Sequence

    from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord, RequestWhy

_BAR = 40
"""Cells of a request's phases as bars."""


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
@click.option("--running", is_flag=True, help="Only requests in progress.")
@click.option(
    "--why",
    metavar="ID",
    type=FilledText(),
    help="Explain the time of a finished request, by its number or X-Request-Id.",
)
@json_option
@click.pass_obj
def requests(
    options: GlobalOptions,
    *,
    number: int,
    model: str | None,
    failed: bool,
    running: bool,
    why: str | None,
    as_json: bool,
) -> None:
    """List the requests in progress and the latest finished ones, newest first.

    CLIENT is the program as it calls itself, and in brackets the name of its key. ENERGY is there
    if the machine measures it: the request's share of what the machine used. With --json,
    each finished request has all its fields; with --running --json, each in progress.
    """
    from cyber_inference_tui.cli.service_calls import (
        finished_requests,
        running_requests,
        why_slow,
    )
    from cyber_inference_tui.records.queries import RequestQuery

    terminal = stdout_terminal(options.environ)
    if why is not None:
        answer = why_slow(options, why)
        if as_json:
            print_json(answer)
        else:
            print_lines(_explanation(answer, terminal))
        return
    active: list[ActiveRequestRecord] = []
    if running or not (failed or as_json):
        found_active = running_requests(options)
        active = [one for one in reversed(found_active) if model in {None, one.model}]
    finished: list[RequestRecord] = []
    if not running:
        query = RequestQuery(limit=number, model=model, failed=True if failed else None)
        finished = finished_requests(options, query)
    if as_json:
        print_json(active if running else finished)
    elif active or finished:
        print_lines(_table([*active, *finished], terminal))
    else:
        print_note("There are no such requests.", stderr_terminal(options.environ))


def _explanation(why: RequestWhy, terminal: Terminal) -> list[str]:
    """Return the request in one line, its phases with bars, and the explanation."""
    from cyber_inference_tui.terminal.clients import client_name
    from cyber_inference_tui.terminal.phases import phase_lines, slowness
    from cyber_inference_tui.terminal.stream import DIM
    from cyber_inference_tui.units import seconds_text

    record = why.request
    took = seconds_text(record.duration_seconds)
    facts = [record.path, record.model, client_name(record), str(record.status), took]
    lines = [clean_line("  ".join([*filter(None, facts), slowness(why)])).rstrip(), ""]
    lines += [
        f"{line.name:8}  {line.took:>9}  {line.bar}  {terminal.paint(line.note, DIM)}".rstrip()
        for line in phase_lines(why, _BAR, terminal.charset)
    ]
    return [*lines, "", *map(clean_line, why.explanation)]


def _table(records: Sequence[ActiveRequestRecord | RequestRecord], terminal: Terminal) -> list[str]:
    from datetime import UTC, datetime

    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
    from cyber_inference_tui.terminal.clients import client_name
    from cyber_inference_tui.terminal.columns import Cell, Column
    from cyber_inference_tui.terminal.phases import tokens_out_text
    from cyber_inference_tui.units import energy_text, number_text, seconds_text, speed_text

    now = datetime.now(UTC)

    def at(record: ActiveRequestRecord | RequestRecord, _: Terminal) -> str:
        return f"{record.at.astimezone():%Y-%m-%d %H:%M:%S}"

    def status(record: ActiveRequestRecord | RequestRecord, _: Terminal) -> Cell:
        if isinstance(record, ActiveRequestRecord):
            return Cell(record.phase, "busy")
        bad = record.status >= 400 or record.error is not None
        return Cell(str(record.status), "bad" if bad else "good")

    def took(record: ActiveRequestRecord | RequestRecord, _: Terminal) -> str:
        if isinstance(record, ActiveRequestRecord):
            return seconds_text(max(0.0, (now - record.at).total_seconds()))
        return seconds_text(record.duration_seconds)

    def number(record: ActiveRequestRecord | RequestRecord, _: Terminal) -> str:
        return str(record.id) if isinstance(record, RequestRecord) and record.id else "-"

    def read(record: ActiveRequestRecord | RequestRecord, _: Terminal) -> str:
        tokens = record.tokens_in if isinstance(record, RequestRecord) else None
        return known(tokens, number_text(tokens or 0))

    def written(record: ActiveRequestRecord | RequestRecord, terminal: Terminal) -> str:
        if isinstance(record, RequestRecord):
            return tokens_out_text(record, terminal.charset)
        return known(record.tokens_out, number_text(record.tokens_out or 0))

    def energy(record: ActiveRequestRecord | RequestRecord, _: Terminal) -> str:
        joules = record.energy_j if isinstance(record, RequestRecord) else None
        return known(joules, energy_text(joules or 0.0))

    def known(value: float | None, text: str) -> str:
        return "-" if value is None else text

    columns: list[Column[ActiveRequestRecord | RequestRecord, Terminal]] = [
        Column("number", "NUMBER", right=True, priority=4, cell=number),
        Column("time", "TIME", cell=at),
        Column("model", "MODEL", least=8, cell=lambda one, _: clean_line(one.model) or "-"),
        Column("path", "PATH", priority=3, cell=lambda one, _: clean_line(one.path)),
        Column("status", "STATUS", right=True, cell=status),
        Column(
            "in",
            "IN",
            right=True,
            priority=5,
            cell=read,
        ),
        Column(
            "out",
            "OUT",
            right=True,
            priority=4,
            cell=written,
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
        Column("took", "TOOK", right=True, cell=took),
        Column("client", "CLIENT", priority=2, cell=lambda one, _: clean_line(client_name(one))),
        Column(
            "port",
            "PORT",
            right=True,
            priority=7,
            cell=lambda one, _: known(one.port, str(one.port)),
        ),
    ]
    if any(energy(one, terminal) != "-" for one in records):
        columns.insert(-2, Column("energy", "ENERGY", right=True, priority=1, cell=energy))
    return render_table(columns, records, terminal)

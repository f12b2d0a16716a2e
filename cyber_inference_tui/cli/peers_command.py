"""``peers``: pair this box with others, list them and remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines, print_note
from cyber_inference_tui.cli.usage import Group
from cyber_inference_tui.errors import CyberError, InvalidRequestError
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.models import ModelStatus
from cyber_inference_tui.records.peers import (
    NewPeer,
    PairingQuery,
    PairingRecord,
    PairingRequest,
    PeerRecord,
    PeerState,
    PeerSuggestion,
    Role,
)
from cyber_inference_tui.records.workers import SplitCheck, SplitQuestion
from cyber_inference_tui.terminal.stream import Terminal, stderr_terminal, stdout_terminal
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import size_text

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient

_WAIT = 330.0
"""Seconds: a little longer than a code is valid."""
_ADD_SECONDS = 60.0
_CHECK_SECONDS = 60.0


class _Code(click.ParamType[str]):
    """A code of six digits, perhaps with a space in the middle."""

    name = "code"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        code = value.replace(" ", "").replace("-", "")
        if len(code) != 6 or not (code.isascii() and code.isdigit()):
            self.fail("expected six digits", param, ctx)
        return code


role_option = click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.SERVE.value,
    show_default=True,
    help="What the other box may do here.",
)


@click.group(cls=Group)
def peers() -> None:
    """Use several boxes as one: pair them, list them, remove them.

    Run `peers accept` on one box, and `peers add URL` with its code on the other.
    """


@peers.command(short_help="Show a code, and wait for the other box.")
@click.option("--code", metavar="CODE", type=_Code(), help="Take this code and show none.")
@role_option
@json_option
@click.pass_obj
def accept(options: GlobalOptions, *, code: str | None, role: str, as_json: bool) -> None:
    """Show a code of six digits, and wait until another box has used it (five minutes)."""
    from cyber_inference_tui.cli.service_calls import with_client

    notes = stderr_terminal(options.environ)

    async def wait(client: ServiceClient) -> PairingRecord:
        asked = PairingRequest(code=code, role=Role(role))
        opened = await client.call(endpoints.OPEN_PAIRING, body=asked)
        try:
            if code is None:
                shown = f"{(opened.code or '')[:3]} {(opened.code or '')[3:]}"
                click.echo(f"The code is  {shown}", err=as_json)
            print_note(
                "Run 'cyber-inference-tui peers add' with this box's address on the other box.",
                notes,
            )
            return await client.call(
                endpoints.PAIRING, query=PairingQuery(wait=True), timeout=_WAIT
            )
        finally:
            # Also after Ctrl+C: a code that nobody waits with is not valid.
            await client.call(endpoints.CLOSE_PAIRING)

    ended = with_client(options, wait)
    if ended.paired is None:
        raise CyberError(ended.problem or "No box came.", hint="Run the command again.")
    if as_json:
        print_json(ended)
        return
    click.echo(f"{ended.paired} is paired.")


@peers.command(short_help="Pair with the box that shows a code.")
@click.argument("url", type=FilledText())
@click.option("--code", metavar="CODE", type=_Code(), help="The code; without it, it is asked for.")
@click.option(
    "--insecure",
    is_flag=True,
    help="Accept an address without TLS on another machine: prompts are readable on the way.",
)
@role_option
@json_option
@click.pass_obj
def add(
    options: GlobalOptions, *, url: str, code: str | None, insecure: bool, role: str, as_json: bool
) -> None:
    """Pair with the box at URL, such as https://192.168.1.20:8337, where `peers accept` runs."""
    from cyber_inference_tui.cli.service_calls import with_client

    if "://" not in url:
        raise InvalidRequestError(
            f"{clean_line(url)} is no address.", hint="Begin it with https:// or http://."
        )
    if code is None:
        code = click.prompt("The code that the other box shows", type=_Code(), err=True)
    new = NewPeer(url=url, code=code, role=Role(role), insecure=insecure)
    added = with_client(
        options, lambda client: client.call(endpoints.ADD_PEER, body=new, timeout=_ADD_SECONDS)
    )
    if as_json:
        print_json(added)
        return
    click.echo(f"{added.name} is paired ({added.url}).")


@peers.command("list", short_help="List the other boxes and their state.")
@json_option
@click.pass_obj
def list_(options: GlobalOptions, as_json: bool) -> None:
    """List the other boxes: address, state, models and what they may do here."""
    from cyber_inference_tui.cli.service_calls import with_client

    found = with_client(options, lambda client: client.call(endpoints.PEERS))
    if as_json:
        print_json(found)
    elif found:
        print_lines(_table(found, stdout_terminal(options.environ)))
    else:
        notes = stderr_terminal(options.environ)
        print_note("There are no other boxes. 'peers accept' and 'peers add' pair two.", notes)


@peers.command(short_help="List boxes in the network that are not paired.")
@json_option
@click.pass_obj
def find(options: GlobalOptions, as_json: bool) -> None:
    """List the boxes in the local network that are not paired, with the command that pairs them.

    Each needs the setting `mdns = true`. What it lists is what the boxes say of themselves: only
    the code of `peers accept` shows whose box it is.
    """
    from cyber_inference_tui.cli.service_calls import with_client

    found = with_client(options, lambda client: client.call(endpoints.PEER_SUGGESTIONS))
    if as_json:
        print_json(found)
        return
    notes = stderr_terminal(options.environ)
    if not found:
        print_note("No other box was found. Each needs the setting 'mdns = true'.", notes)
        return
    print_lines(_found(found, stdout_terminal(options.environ)))
    print_note("Run 'cyber-inference-tui peers accept' on the other box first.", notes)


@peers.command(short_help="Remove a box, whose key is invalid at once.")
@click.argument("name", type=FilledText(64))
@json_option
@click.pass_obj
def remove(options: GlobalOptions, name: str, as_json: bool) -> None:
    """Remove the box NAME: neither asks the other any more."""
    from cyber_inference_tui.cli.service_calls import with_client

    gone = with_client(options, lambda client: client.call(endpoints.REMOVE_PEER, name))
    if as_json:
        print_json(gone)
        return
    click.echo(f"{clean_line(gone.name)} is removed.")


@peers.command(short_help="Check whether a model can be split over this box and another.")
@click.argument("name", type=FilledText(64))
@click.option("--model", metavar="ID", type=FilledText(), help="Say how fast this model would be.")
@json_option
@click.pass_obj
def check(options: GlobalOptions, *, name: str, model: str | None, as_json: bool) -> None:
    """Measure the link to the box NAME, and say whether a model can be split over both boxes.

    It exits with 1 if none can. The setting `split` of a model uses the other box.
    """
    from cyber_inference_tui.cli.service_calls import with_client

    asked = SplitQuestion(model=model or "")
    found = with_client(
        options,
        lambda client: client.call(endpoints.CHECK_SPLIT, name, body=asked, timeout=_CHECK_SECONDS),
    )
    if as_json:
        print_json(found)
    else:
        for line in _check_lines(found, model):
            click.echo(line)
    if found.problems:
        raise click.exceptions.Exit(1)


def _check_lines(found: SplitCheck, model: str | None) -> list[str]:
    name = clean_line(found.name)
    lines = [
        f"{title:<12}{clean_line(text)}"
        for title, text in (
            ("llama.cpp", f"{found.build_here or '-'} here, {found.build_there or '-'} there"),
            ("protocol", f"{found.protocol_here or '-'} here, {found.protocol_there or '-'} there"),
            ("round trip", f"{found.round_trip_ms:.2f} ms"),
            ("bandwidth", f"{found.gbit_per_second:.2f} Gbit/s"),
            ("memory", f"{size_text(found.memory_there_bytes)} there"),
        )
    ]
    if model is not None and found.tokens_per_second is not None:
        lines.append(f"{'speed':<12}about {found.tokens_per_second:.3g} tokens/s, as estimated")
    if found.problems:
        return [*lines, *(clean_line(problem, limit=500) for problem in found.problems)]
    return [*lines, f"A model can be split over this box and {name}."]


def _found(records: list[PeerSuggestion], terminal: Terminal) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.terminal.columns import Column

    def command(record: PeerSuggestion, _: Terminal) -> str:
        insecure = "" if record.url.startswith("https:") else " --insecure"
        return f"cyber-inference-tui peers add {record.url}{insecure}"

    columns: list[Column[PeerSuggestion, Terminal]] = [
        Column("name", "NAME", least=8, cell=lambda one, _: one.name),
        Column("version", "VERSION", priority=1, cell=lambda one, _: one.version or "-"),
        Column("command", "TO PAIR", least=56, cell=command),
    ]
    return render_table(columns, records, terminal)


def _table(records: list[PeerRecord], terminal: Terminal) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.terminal.columns import Cell, Column

    def state(record: PeerRecord, _: Terminal) -> Cell:
        tone: Tone = "good" if record.state is PeerState.CONNECTED else "dim"
        if record.state in {PeerState.REFUSED, PeerState.RESTING, PeerState.STALE}:
            tone = "bad"
        return Cell(record.state.value, tone)

    def loaded(record: PeerRecord, _: Terminal) -> str:
        count = sum(model.status is ModelStatus.LOADED for model in record.models)
        return f"{count} of {len(record.models)}"

    columns: list[Column[PeerRecord, Terminal]] = [
        Column("name", "NAME", least=8, cell=lambda one, _: clean_line(one.name)),
        Column("state", "STATE", cell=state),
        Column("models", "LOADED", right=True, cell=loaded),
        Column("role", "ROLE HERE", priority=2, cell=lambda one, _: one.role.value),
        Column("url", "ADDRESS", least=12, priority=1, cell=lambda one, _: one.url or "-"),
        Column(
            "problem",
            "PROBLEM",
            least=12,
            priority=1,
            cell=lambda one, _: clean_line(one.problem or ""),
        ),
    ]
    return render_table(columns, records, terminal)

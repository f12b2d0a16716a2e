"""``keys``: create, list and remove API keys with names and limits."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, WholeNumber, json_option
from cyber_inference_tui.cli.output import print_json, print_lines, print_note
from cyber_inference_tui.cli.usage import Group
from cyber_inference_tui.records.keys import MOST_PER_DAY, MOST_PER_MINUTE, NewKey, Priority
from cyber_inference_tui.terminal.stream import Terminal, stderr_terminal, stdout_terminal
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from cyber_inference_tui.records import KeyRecord


def _complete_models(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from cyber_inference_tui.cli.completion_values import model_ids

    before, comma, typed = incomplete.rpartition(",")
    return [
        CompletionItem(f"{before}{comma}{item.value}", help=item.help)
        for item in model_ids(ctx, typed)
    ]


@click.group(cls=Group)
def keys() -> None:
    """Create, list and remove API keys with names and limits.

    As soon as there is one, or api_keys is set, every request to a model needs a key.
    """


@keys.command(short_help="Create a key and print it, once.")
@click.argument("name", type=FilledText(64))
@click.option(
    "--models",
    metavar="A,B",
    type=FilledText(),
    help="Only these models, by id or alias.",
    shell_complete=_complete_models,
)
@click.option(
    "--requests-per-minute",
    metavar="N",
    type=WholeNumber(1, MOST_PER_MINUTE),
    help="The most requests in a minute.",
)
@click.option(
    "--tokens-per-day",
    metavar="N",
    type=WholeNumber(1, MOST_PER_DAY),
    help="The most tokens, read and written, in a day (UTC).",
)
@click.option(
    "--priority",
    type=click.Choice([one.value for one in Priority]),
    default=Priority.NORMAL.value,
    show_default=True,
    help="The share of its requests while others wait.",
)
@click.option(
    "--expires",
    metavar="DATE",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Its last day (UTC), as 2027-01-31.",
)
@json_option
@click.pass_obj
def add(
    options: GlobalOptions,
    *,
    name: str,
    models: str | None,
    requests_per_minute: int | None,
    tokens_per_day: int | None,
    priority: str,
    expires: datetime | None,
    as_json: bool,
) -> None:
    """Create the key NAME and print it. It is stored as a digest, so it is not shown again."""
    from cyber_inference_tui.cli.service_calls import add_key

    new = NewKey(
        name=name,
        models=tuple(filter(None, (one.strip() for one in (models or "").split(",")))),
        requests_per_minute=requests_per_minute or 0,
        tokens_per_day=tokens_per_day or 0,
        priority=Priority(priority),
        expires=None if expires is None else expires.date(),
    )
    made = add_key(options, new)
    if as_json:
        print_json(made)
        return
    click.echo(made.key)
    notes = stderr_terminal(options.environ)
    if notes.interactive:
        print_note(f"This is the key of {clean_line(name)}. Keep it: it is not shown again.", notes)


@keys.command("list", short_help="List the keys with their limits and their use.")
@json_option
@click.pass_obj
def list_(options: GlobalOptions, as_json: bool) -> None:
    """List the keys with their limits, their last use and their use today (UTC).

    Without a running service their use is not known.
    """
    from cyber_inference_tui.cli.service_calls import all_keys

    found = all_keys(options)
    if as_json:
        print_json(found)
    elif found:
        print_lines(_table(found, stdout_terminal(options.environ)))
    else:
        print_note("There are no API keys with names.", stderr_terminal(options.environ))


@keys.command(short_help="Remove a key, which is invalid at once.")
@click.argument("name", type=FilledText(64))
@json_option
@click.pass_obj
def remove(options: GlobalOptions, name: str, as_json: bool) -> None:
    """Remove the key NAME, which is invalid at once."""
    from cyber_inference_tui.cli.service_calls import remove_key

    gone, is_open = remove_key(options, name)
    if as_json:
        print_json(gone)
        return
    click.echo(f"{clean_line(gone.name)} is removed.")
    if is_open:
        click.echo(
            "warning: no key is left, so every program that reaches the service may use its models",
            err=True,
        )


def _table(records: list[KeyRecord], terminal: Terminal) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.terminal.columns import Cell, Column
    from cyber_inference_tui.terminal.keys import limits_text
    from cyber_inference_tui.units import number_text

    def last(record: KeyRecord, _: Terminal) -> Cell | str:
        if record.last_used_at is None:
            return Cell("-", "dim")
        return f"{record.last_used_at.astimezone():%Y-%m-%d %H:%M}"

    def known(value: int | None) -> Cell | str:
        return Cell("-", "dim") if value is None else number_text(value)

    def name(record: KeyRecord, _: Terminal) -> Cell:
        return Cell(clean_line(record.name), "dim" if record.expired else "none")

    columns: list[Column[KeyRecord, Terminal]] = [
        Column("name", "NAME", least=8, cell=name),
        Column("last", "LAST USE", cell=last),
        Column(
            "requests",
            "REQUESTS TODAY",
            right=True,
            priority=1,
            cell=lambda one, _: known(one.requests_today),
        ),
        Column(
            "tokens",
            "TOKENS TODAY",
            right=True,
            priority=1,
            cell=lambda one, _: known(one.tokens_today),
        ),
        Column(
            "limits", "LIMITS", least=12, priority=2, cell=lambda one, _: limits_text(one) or "none"
        ),
    ]
    return render_table(columns, records, terminal)

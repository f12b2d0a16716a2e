"""``connect``: write the settings of client programs, show what would change, take it back."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import confirm, print_json, print_line, print_lines, print_note
from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.terminal.stream import DIM, GREEN, RED, stderr_terminal, stdout_terminal
from cyber_inference_tui.text import clean_line, clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

    from cyber_inference_tui.connect.client import Client, Home
    from cyber_inference_tui.connect.connected import Change, Connected
    from cyber_inference_tui.connect.connection import Connection
    from cyber_inference_tui.terminal.stream import Terminal

_TRUST = (
    "The client has to trust the service's certificate (tls_cert): programs of Node.js read its "
    "file from NODE_EXTRA_CA_CERTS, most others from SSL_CERT_FILE."
)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from cyber_inference_tui.cli.completion import matching
    from cyber_inference_tui.connect.clients import CLIENTS

    items = [CompletionItem(client.name, help=client.title) for client in CLIENTS.values()]
    return matching(items, incomplete)


def _complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from cyber_inference_tui.cli.completion_values import model_ids

    return model_ids(ctx, incomplete)


@click.command()
@click.argument("client", type=FilledText(), required=False, shell_complete=_complete)
@click.option(
    "--model",
    metavar="ID",
    type=FilledText(),
    shell_complete=_complete_model,
    help="The model that the client begins with.",
)
@click.option("--list", "as_list", is_flag=True, help="List the clients and their states.")
@click.option("--print", "as_text", is_flag=True, help="Print the settings, write nothing.")
@click.option("--undo", is_flag=True, help="Take back what was written.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def connect(  # noqa: PLR0917 - click passes them by name
    options: GlobalOptions,
    client: str | None,
    model: str | None,
    as_list: bool,
    as_text: bool,
    undo: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Write the settings of CLIENT, so that it uses this service.

    The rest of the client's files stays as it is. The difference is shown before anything is
    written, and --undo restores the files. Some clients have no file: their values are printed.
    """
    if as_list:
        if client or model or as_text or undo:
            raise click.UsageError("--list goes without a client and other options.")
        _list(options, as_json)
        return
    if client is None:
        raise click.UsageError("Name a client; --list shows them.")
    chosen = _client(client)
    if undo:
        if model or as_text:
            raise click.UsageError("--undo goes without --model and --print.")
        _undo(options, chosen, yes=yes, as_json=as_json)
        return
    connection = connection_of(options, model or "")
    if as_text or chosen.printed is not None:
        _print(options, chosen, connection, as_json)
    else:
        _connect(options, chosen, connection, yes=yes, as_json=as_json)


def connection_of(options: GlobalOptions, wanted: str) -> Connection:
    """Return the facts for clients, from the running service or else from the disk."""
    from cyber_inference_tui.cli.service_access import certificate_of, service_url
    from cyber_inference_tui.cli.service_calls import all_models
    from cyber_inference_tui.connect.connection import AUTO, connection

    settings = options.load().settings
    found = all_models(options)
    notes = stderr_terminal(options.environ)
    if found.absence and notes.interactive:
        print_note(f"{found.absence} The models are those on the disk.", notes)
    auto = settings.models.get(AUTO)
    url = service_url(settings)
    return connection(
        found.records,
        url=url,
        certificate=certificate_of(url, settings),
        key=settings.api_keys[0] if settings.api_keys else "",
        wanted=wanted,
        default_model=settings.default_model,
        auto_aliases=auto.aliases if auto is not None else (),
    )


def home_of(options: GlobalOptions) -> Home:
    """Return the home directory of the command line's user."""
    from cyber_inference_tui.connect.client import Home
    from cyber_inference_tui.settings.environment import needed_home

    return Home(needed_home(options.environ, hint="Set HOME."), options.environ)


def connected_of(options: GlobalOptions) -> Connected:
    """Return the records of connected clients."""
    from cyber_inference_tui.connect.connected import Connected

    return Connected(options.load().settings.data_dir)


def _client(name: str) -> Client:
    from cyber_inference_tui.connect.clients import CLIENTS
    from cyber_inference_tui.spelling import close_names

    if name in CLIENTS:
        return CLIENTS[name]
    close = close_names(name, CLIENTS)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(CLIENTS)}."
    raise NotFoundError(f"There is no client '{clean_line(name)}'.", hint=hint)


def _print(options: GlobalOptions, client: Client, connection: Connection, as_json: bool) -> None:
    notes = stderr_terminal(options.environ)
    if client.printed is not None:
        text = client.printed(connection)
        if as_json:
            print_json({"client": client.name, "text": text})
        else:
            click.echo(text, nl=False)
    else:
        files = [(file.path, file.after("")) for file in client.files(connection, home_of(options))]
        if as_json:
            print_json([{"path": str(path), "content": text} for path, text in files])
            return
        for path, text in files:
            print_note(f"{path}:", notes)
            click.echo(text, nl=False)
    _print_notes(client, connection, notes)


def _connect(
    options: GlobalOptions, client: Client, connection: Connection, *, yes: bool, as_json: bool
) -> None:
    from cyber_inference_tui.connect.connected import ConnectedRecord

    connected = connected_of(options)
    changes = connected.planned(client.name, client.files(connection, home_of(options)))
    notes = stderr_terminal(options.environ)
    record = ConnectedRecord(
        client=client.name,
        url=connection.url,
        model=connection.model.id,
        at=datetime.now(UTC),
        files=(),
    )
    if any(change.after != change.before for change in changes):
        _show(changes, notes, connection.key)
        confirm(f"Connect {client.title}?", notes, yes=yes)
    record = connected.write(record, changes)
    if as_json:
        print_json(_facts(record, connected))
        return
    print_line(f"{client.title} uses {connection.model.id} at {connection.url}.")
    for file in record.files:
        backup = connected.backup(client.name, file)
        kept = f"the original is {backup}" if backup else "there was no file before"
        print_note(f"{file.path} ({kept})", notes)
        if connection.key and Path(file.path).stat().st_mode & 0o077:
            print_note(f"Others may read the key in it; `chmod 600 {file.path}` helps.", notes)
    _print_notes(client, connection, notes)


def _facts(record: Any, connected: Connected) -> dict[str, Any]:
    files = [
        {"path": file.path, "backup": str(connected.backup(record.client, file) or "") or None}
        for file in record.files
    ]
    return {"client": record.client, "url": record.url, "model": record.model, "files": files}


def _undo(options: GlobalOptions, client: Client, *, yes: bool, as_json: bool) -> None:
    connected = connected_of(options)
    changes = connected.undoing(client.name)
    notes = stderr_terminal(options.environ)
    settings = options.load().settings
    if any(change.after != change.before for change in changes):
        _show(changes, notes, *settings.api_keys)
        confirm(f"Disconnect {client.title}?", notes, yes=yes)
    connected.undo(client.name, changes)
    if as_json:
        print_json({"client": client.name, "files": [str(change.path) for change in changes]})
    else:
        click.echo(f"{client.title} is as it was before.")


def _show(changes: Sequence[Change], terminal: Terminal, *secrets: str) -> None:
    colors = {"+": GREEN, "-": RED, "@": DIM}
    for change in changes:
        for line in change.difference(secrets):
            code = DIM if line.startswith(("--- ", "+++ ")) else colors.get(line[:1])
            shown = clean_line(line)
            click.echo(terminal.paint(shown, code) if code else shown, err=True, color=True)


def _print_notes(client: Client, connection: Connection, terminal: Terminal) -> None:
    for note in client.notes(connection):
        print_note(note, terminal)
    if lack := client.lack_of_context(connection):
        print_note(clean_text(lack), terminal)
    if connection.certificate:
        print_note(_TRUST, terminal)


def _list(options: GlobalOptions, as_json: bool) -> None:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.connect.clients import CLIENTS
    from cyber_inference_tui.terminal.columns import Cell, Column

    connected = connected_of(options)
    rows = []
    for client in CLIENTS.values():
        record = connected.record(client.name)
        rows.append(
            {
                "client": client.name,
                "title": client.title,
                "installed": _installed(client, options),
                "connected": record is not None,
                "model": record.model if record else None,
                "url": record.url if record else None,
            }
        )
    if as_json:
        print_json(rows)
        return

    def state(row: dict[str, Any]) -> Cell:
        if row["connected"]:
            return Cell(f"connected to {row['url']}, {row['model']}", "good")
        if row["installed"] is None:
            return Cell("is printed", "dim")
        return Cell("installed") if row["installed"] else Cell("not found", "dim")

    columns: list[Column[dict[str, Any], Terminal]] = [
        Column("client", "CLIENT", cell=lambda row, _: row["client"]),
        Column("title", "NAME", cell=lambda row, _: row["title"]),
        Column("state", "STATE", least=12, cell=lambda row, _: state(row)),
    ]
    print_lines(render_table(columns, rows, stdout_terminal(options.environ)))


def _installed(client: Client, options: GlobalOptions) -> bool | None:
    """Return whether the client is on this machine; ``None`` if that cannot be seen."""
    if not client.programs:
        return None
    path = options.environ.get("PATH", "")
    if any(shutil.which(name, path=path) for name in client.programs):
        return True
    return bool(client.folder) and (home_of(options).path / client.folder).is_dir()

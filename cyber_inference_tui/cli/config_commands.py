"""``init`` and ``config``: make, show, change and check the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines
from cyber_inference_tui.cli.text_table import render_table
from cyber_inference_tui.cli.usage import Group
from cyber_inference_tui.errors import ConfigError, CyberError
from cyber_inference_tui.terminal.columns import Cell, Column
from cyber_inference_tui.terminal.stream import Terminal, stdout_terminal
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from cyber_inference_tui.records import ConfigValueRecord
    from cyber_inference_tui.settings.schema import Key


@click.command()
@json_option
@click.pass_obj
def init(options: GlobalOptions, as_json: bool) -> None:
    """Create the directories and a commented config.toml; nothing is ever overwritten."""
    from cyber_inference_tui.settings.edit import write_default
    from cyber_inference_tui.settings.load import config_path, load

    path = config_path(options.config, options.environ)
    try:
        made = write_default(path)
        settings = load(config=path, environ=options.environ, flags=options.flags).settings
        for folder in (settings.data_dir, settings.models_dir):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CyberError(
            f"Cannot create {error.filename}: {error.strerror}.",
            hint="Choose other places with --config, --data-dir and --models-dir.",
        ) from error
    if as_json:
        folders = {"data_dir": str(settings.data_dir), "models_dir": str(settings.models_dir)}
        print_json({"config": str(path), "created": made, **folders})
        return
    click.echo(f"{'created' if made else 'kept   '} {path}")
    click.echo(f"models  {settings.models_dir}")
    click.echo(f"data    {settings.data_dir}")
    if not settings.extra_ports:
        from cyber_inference_tui.records import OFFERED_PORTS

        places = " and ".join(f"{port} ({name})" for port, name in OFFERED_PORTS.items())
        click.echo(f"\nMany clients look for a server on port {places}. To listen there, too:")
        ports = ",".join(map(str, OFFERED_PORTS))
        click.echo(f"  cyber-inference-tui config set extra_ports {ports}")


def _complete_key(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from cyber_inference_tui.cli.completion_values import setting_keys

    return setting_keys(ctx, incomplete)


def _complete_value(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from cyber_inference_tui.cli.completion_values import setting_values

    return setting_values(ctx, incomplete)


@click.group(cls=Group)
def config() -> None:
    """Show, check and change settings."""


@config.command("path")
@json_option
@click.pass_obj
def show_path(options: GlobalOptions, as_json: bool) -> None:
    """Print the path of the configuration file."""
    from cyber_inference_tui.settings.load import config_path

    path = config_path(options.config, options.environ)
    if as_json:
        print_json({"path": str(path), "exists": path.exists()})
    else:
        click.echo(path)


@config.command(short_help="Print all settings and their sources.")
@json_option
@click.pass_obj
def show(options: GlobalOptions, as_json: bool) -> None:
    """Print every setting with its value and source; secrets are masked."""
    records = options.load().records()
    if as_json:
        print_json(records)
        return
    terminal = stdout_terminal(options.environ)
    columns: list[Column[ConfigValueRecord, Terminal]] = [
        Column("key", "KEY", cell=lambda record, _: record.key),
        Column("value", "VALUE", least=12, cell=lambda record, _: _shown(record.value)),
        Column(
            "from",
            "FROM",
            cell=lambda record, _: Cell(
                record.source, "dim" if record.source == "default" else "none"
            ),
        ),
    ]
    print_lines(render_table(columns, records, terminal))


@config.command(short_help="Print one setting's value.")
@click.argument("key", type=FilledText(), shell_complete=_complete_key)
@click.option("--reveal", is_flag=True, help="Print a secret unmasked.")
@json_option
@click.pass_obj
def get(options: GlobalOptions, key: str, reveal: bool, as_json: bool) -> None:
    """Print one setting's value; a list as one value a line."""
    from cyber_inference_tui.settings.edit import key_in, split_key

    split_key(key)  # report an unknown key before mistakes in the file
    loaded = options.load()
    _, table, known = key_in(loaded.settings, key)
    record = loaded.record(known, table, reveal=reveal)
    if as_json:
        print_json(record)
    elif isinstance(record.value, list):
        print_lines([_shown(item) for item in record.value])
    else:
        click.echo(_shown(record.value))


def _shown(value: Any) -> str:
    from cyber_inference_tui.settings.example import toml_value

    if value is None:
        return ""
    return clean_line(value if isinstance(value, str) else toml_value(value))


# Unknown options count as values, such as -1.
@config.command(
    "set",
    short_help="Set KEY in the configuration file.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("key", type=FilledText(), shell_complete=_complete_key)
@click.argument("value", required=False, shell_complete=_complete_value)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read VALUE from standard input.")
@click.pass_obj
def set_(options: GlobalOptions, key: str, value: str | None, from_stdin: bool) -> None:
    """Set KEY in the configuration file; its comments and order stay.

    A list is written a,b or as a TOML array. A model's settings are named models."ID".KEY. With -
    as VALUE it is read from standard input, and on a terminal a secret is asked for without being
    shown.
    """
    from cyber_inference_tui.settings.edit import key_in, set_value, split_key
    from cyber_inference_tui.settings.environment import ENV_PREFIX, variable, without_settings
    from cyber_inference_tui.settings.load import (
        config_path,
        load_if_there,
        load_text,
    )
    from cyber_inference_tui.settings.masks import holds_secret, unmasked_value

    if from_stdin == (value is not None):
        raise click.UsageError("Give either VALUE or --stdin.")
    path = config_path(options.config, options.environ)
    _, named = split_key(key)  # report an unknown key before mistakes in the file
    if value is None or value == "-":
        value = _from_stdin(key, secret=named.secret)
    # From the file alone, so that a secret in a variable is not copied into it.
    environ = without_settings(options.environ)
    try:
        present = load_if_there(path, environ=environ, flags={})
    except ConfigError:
        # This command may correct the mistake; others are reported when the file is written.
        present = load_text("", path, environ=environ, flags={})
    key, table, known = key_in(present.settings, key)
    new = unmasked_value(key, known, _from_here(known, value), present.value(known, table))
    set_value(path, key, new)
    click.echo(clean_line(f"{path}: {key} is set"), err=True)
    name = f"{ENV_PREFIX}{known.name.upper()}"
    if not table and variable(options.environ, name):
        click.echo(f"warning: {name} is also set, and overrides the file", err=True)
    if holds_secret(known, new) and path.stat().st_mode & 0o077:
        click.echo(f"warning: others may read this secret; `chmod 600 {path}` helps", err=True)


def _from_stdin(key: str, *, secret: bool) -> str:
    """Return standard input without the end of its last line; on a terminal, ask for it."""
    from cyber_inference_tui.settings.load import MAX_FILE

    if sys.stdin is not None and sys.stdin.isatty():
        typed: str = click.prompt(key, hide_input=secret, confirmation_prompt=secret, err=True)
        return typed
    try:
        data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_FILE + 1)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: standard input is not UTF-8 text.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(
            f"{key}: standard input is empty.", hint="To set an empty value, give '' as VALUE."
        )
    return text


def _from_here(key: Key, text: str) -> Any:
    """Return the value, with relative paths resolved from the working directory.

    In the file they would be relative to the file's folder.
    """
    from cyber_inference_tui.settings.values import parsed

    value = parsed(key, text)
    if key.is_path_in(text):
        if isinstance(value, str):
            return _absolute(value)
        if isinstance(value, list):
            return [_absolute(item) if isinstance(item, str) else item for item in value]
    return value


def _absolute(text: str) -> str:
    return text if not text or text.startswith("~") else str(Path(text).absolute())


@config.command(short_help="Name file, line and key of every mistake.")
@json_option
@click.pass_obj
def check(options: GlobalOptions, as_json: bool) -> int:
    """Name file, line and key of every mistake; exit code 5 if there is any."""
    from cyber_inference_tui.settings.load import config_path

    path = config_path(options.config, options.environ)
    mistakes: list[str] = []
    warnings: tuple[str, ...] = ()
    try:
        warnings = options.load().warnings
    except ConfigError as error:
        mistakes = str(error).splitlines()
    if as_json:
        print_json({"path": str(path), "mistakes": mistakes, "warnings": warnings})
    else:
        for line in (*mistakes, *(f"warning: {warning}" for warning in warnings)):
            click.echo(line, err=True)
        if not mistakes:
            click.echo(f"{path}: no mistakes" if path.exists() else f"{path}: no such file yet")
    return ConfigError.exit_code if mistakes else 0

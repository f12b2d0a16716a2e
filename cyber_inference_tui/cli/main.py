"""The command line: one group whose commands are imported only when they are used.

Errors end here, each as one plain sentence on stderr and the exit code that goes with it.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from cyber_inference_tui import __version__
from cyber_inference_tui.cli.options import GlobalOptions, global_options
from cyber_inference_tui.errors import CyberError

PROGRAM = "cyber-inference-tui"
_ROOM = "cyber_inference_tui.cli"


class Place(NamedTuple):
    """Where a command is, and its line in ``--help`` (so that help imports nothing)."""

    module: str
    attribute: str
    summary: str


COMMANDS: Mapping[str, Place] = {
    "serve": Place(f"{_ROOM}.serve_command", "serve", "Run the service in the foreground."),
    "init": Place(f"{_ROOM}.config_commands", "init", "Create directories and a config.toml."),
    "install-llama": Place(f"{_ROOM}.install_command", "install_llama", "Get a llama-server."),
    "list-models": Place(f"{_ROOM}.model_commands", "list_models", "List the local models."),
    "load": Place(f"{_ROOM}.model_commands", "load", "Load a model and wait until it is ready."),
    "unload": Place(f"{_ROOM}.model_commands", "unload", "Unload a model."),
    "status": Place(f"{_ROOM}.status_command", "status", "Show the service and what is loaded."),
    "logs": Place(f"{_ROOM}.logs_command", "logs", "Show a model's log, or the service's."),
    "config": Place(f"{_ROOM}.config_commands", "config", "Show, check and change settings."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is asked for.

    Every command also takes the global options, because people type them after it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, with the global options added; ``None`` if there is none of that name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        found: click.Command = getattr(importlib.import_module(place.module), place.attribute)
        return with_global_options(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in ``--help``, without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])


def with_global_options(command: click.Command) -> click.Command:
    """A copy of ``command`` (and of its subcommands) that also takes the global options.

    Names the command uses itself stay its own.
    """
    own = {name for param in command.params for name in param.opts}
    added = [p for p in global_options(hidden=True) if not own.intersection(p.opts)]
    command = copy.copy(command)
    command.params = [*command.params, *added]
    if isinstance(command, click.Group):
        command.commands = {
            name: with_global_options(child) for name, child in command.commands.items()
        }
    return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    params=global_options(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--no-ui", is_flag=True, help="Run the service in the foreground, same as 'serve'.")
@click.option("--attach", metavar="URL", help="Open the terminal app on a service elsewhere.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@click.pass_context
def cli(ctx: click.Context, no_ui: bool, attach: str | None) -> Any:
    """Run local models: an OpenAI-compatible service that loads and unloads them by itself."""
    return None


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command line; returns the exit code. Everything wrong is said on stderr."""
    try:
        result = cli.main(
            list(argv),
            prog_name=PROGRAM,
            standalone_mode=False,
            obj=GlobalOptions(environ=environ),
        )
    except CyberError as error:
        click.echo(str(error), err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the installed program."""
    sys.exit(run(sys.argv[1:], os.environ))

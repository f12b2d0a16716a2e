"""The command line: a group of commands, each imported when it is used.

All errors end here, as one plain sentence on stderr and an exit code.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from cyber_inference_tui import __version__
from cyber_inference_tui.cli.options import GlobalOptions, attach_option, global_options
from cyber_inference_tui.cli.streams import STANDARD_OUTPUT, discard_stdout, prepare_streams
from cyber_inference_tui.cli.usage import Group, usage_text
from cyber_inference_tui.errors import BuildError, CyberError, ModelLoadError
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "cyber-inference-tui"
SHORT_NAME = "citui"
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the signal's number, as in shells."""
PIPE_CLOSED = 141
"""Exit code when the reader of our output has gone (``| head``), as after SIGPIPE."""
COMPLETION = "_CYBER_INFERENCE_TUI_COMPLETE"
"""The variable with which a completion script names its shell (see ``cli.completion``)."""
_LEAVE_SECONDS = 2.0
_ROOM = "cyber_inference_tui.cli"


class CommandEntry(NamedTuple):
    """The module of a command, and its line in ``--help``, so that help imports no command."""

    module: str
    attribute: str
    summary: str
    attaches: bool = False
    """It only talks to a service, so it takes ``--attach``."""


SECTIONS: Mapping[str, Mapping[str, CommandEntry]] = {
    "Run": {
        "serve": CommandEntry("serve_command", "serve", "Run the service in the foreground."),
        "web": CommandEntry("web_command", "web", "Serve the terminal app to a browser.", True),
    },
    "Models": {
        "list-models": CommandEntry(
            "model_commands", "list_models", "List the local models.", True
        ),
        "load": CommandEntry(
            "model_commands", "load", "Load a model and wait until it is ready.", True
        ),
        "unload": CommandEntry("model_commands", "unload", "Unload a model.", True),
        "check": CommandEntry("model_commands", "check", "Try what a model can do.", True),
        "bench": CommandEntry("bench_command", "bench", "Measure models and compare them.", True),
        "tune": CommandEntry("tune_command", "tune", "Look for better settings of a model.", True),
        "lora": CommandEntry("lora_command", "lora", "List and scale LoRA adapters.", True),
        "search-models": CommandEntry(
            "hub_commands", "search_models", "Search the hub for models.", True
        ),
        "download-model": CommandEntry("hub_commands", "download_model", "Download a model.", True),
        "delete-model": CommandEntry(
            "model_commands", "delete_model", "Delete a model's files.", True
        ),
        "gc": CommandEntry("gc_command", "gc", "Free the disk of what nobody needs.", True),
    },
    "Watch": {
        "status": CommandEntry(
            "status_command", "status", "Show the service and its busy models.", True
        ),
        "requests": CommandEntry("requests_command", "requests", "List the latest requests.", True),
        "logs": CommandEntry("logs_command", "logs", "Show a model's log, or the service's.", True),
    },
    "Settings": {
        "keys": CommandEntry("keys_command", "keys", "API keys with names and limits.", True),
        "config": CommandEntry("config_commands", "config", "Show, check and change settings."),
        "init": CommandEntry("config_commands", "init", "Create directories and a config.toml."),
    },
    "Set up": {
        "connect": CommandEntry(
            "connect_command", "connect", "Make a client program use this service."
        ),
        "doctor": CommandEntry("doctor_command", "doctor", "Find problems and show their fixes."),
        "service": CommandEntry(
            "service_command", "service", "Keep it running with systemd; stop it."
        ),
        "tls": CommandEntry("tls_command", "tls", "Make a certificate for https."),
        "peers": CommandEntry("peers_command", "peers", "Use several boxes as one.", True),
        "install-llama": CommandEntry("install_command", "install_llama", "Get a llama-server."),
        "completion": CommandEntry(
            "completion", "completion", "Print a shell's completion script."
        ),
    },
}
"""The commands under their headings in ``--help``, the most used first."""

COMMANDS: Mapping[str, CommandEntry] = {
    name: place for section in SECTIONS.values() for name, place in section.items()
}


class LazyGroup(Group):
    """A group that knows its commands by name and imports them on use.

    Every command also takes the global options, because people type them after it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command with the global options; ``None`` if there is none of that name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module = importlib.import_module(f"{_ROOM}.{place.module}")
        found: click.Command = getattr(module, place.attribute)
        return with_global_options(found, attaches=place.attaches)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands before the options: people look for commands more often."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of ``--help``, without importing a command."""
        longest = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                # Padded, so that all summaries begin in the same column.
                formatter.write_dl(
                    [(f"{name:<{longest}}", place.summary) for name, place in section.items()]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with ``incomplete``."""
        from click.shell_completion import CompletionItem

        return [
            *(
                CompletionItem(name, help=place.summary)
                for name, place in COMMANDS.items()
                if name.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]


def with_global_options(command: click.Command, *, attaches: bool = False) -> click.Command:
    """Return a copy of ``command`` and its subcommands that also takes the global options, with
    ``--attach`` only if it ``attaches``.

    Options that the command defines itself stay its own.
    """
    own = {name for param in command.params for name in param.opts}
    options = global_options(hidden=True)
    options += [attach_option(hidden=True)] if attaches else []
    added = [p for p in options if not own.intersection(p.opts)]
    command = copy.copy(command)
    command.params = [*command.params, *added]
    command.epilog = command.epilog or f"The global options of {PROGRAM} may be given here, too."
    if isinstance(command, click.Group):
        command.commands = {
            name: with_global_options(child, attaches=attaches)
            for name, child in command.commands.items()
        }
    return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    params=[*global_options(), attach_option()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--no-ui", is_flag=True, help="Run the service in the foreground, same as 'serve'.")
@click.option("--background", is_flag=True, hidden=True)
@click.option("--in-browser", is_flag=True, hidden=True)
@click.option("--readonly", is_flag=True, help="Open the terminal app without its actions.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@click.pass_context
def cli(ctx: click.Context, no_ui: bool, background: bool, in_browser: bool, readonly: bool) -> int:
    """Run local models: an OpenAI-compatible service that loads and unloads them on demand.

    Without a command the terminal app opens.
    """
    name, attach = ctx.invoked_subcommand, ctx.obj.attach
    if name is not None:
        if attach and name in COMMANDS and not COMMANDS[name].attaches:
            raise click.UsageError(f"{name} is for this machine and goes without --attach.")
        if no_ui and name != "serve":
            raise click.UsageError("--no-ui goes without a command.")
        if readonly:
            raise click.UsageError("--readonly is for the terminal app and goes without a command.")
        return 0
    if no_ui or background:
        if attach:
            raise click.UsageError("--attach opens the terminal app; --no-ui runs a service.")
        from cyber_inference_tui.cli.serve_command import run_service

        return run_service(ctx.obj, background=background)
    from cyber_inference_tui.cli.app_command import open_app, open_in_browser

    return (open_in_browser if in_browser else open_app)(ctx.obj, readonly=readonly)


def run(argv: Sequence[str], environ: Mapping[str, str], *, name: str = PROGRAM) -> int:
    """Run one command line and return the exit code; errors go to stderr.

    ``name`` is the name that the program was called by. Python's development mode
    (``PYTHONDEVMODE=1``) shows tracebacks of unexpected errors.
    """
    if shell := environ.get(COMPLETION):
        return _complete(shell, argv, environ, name)
    try:
        with cli.make_context(name, list(argv), obj=GlobalOptions(environ=environ)) as ctx:
            result = cli.invoke(ctx)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return PIPE_CLOSED
    except CyberError as error:
        _say(_explained(error))
        return error.exit_code
    except click.ClickException as error:
        _say(usage_text(error))
        return error.exit_code
    except OSError as error:
        if error.filename == STANDARD_OUTPUT:
            discard_stdout()
        where = f"{error.filename}: " if error.filename else ""
        _say(clean_line(f"{where}{error.strerror or error}."))
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence, no traceback
        if sys.flags.dev_mode:
            traceback.print_exc()
        _say(
            clean_line(f"Something unexpected went wrong ({type(error).__name__}: {error}).")
            + " PYTHONDEVMODE=1 shows where; please report it."
        )
        return 1
    return result if isinstance(result, int) else 0


def _complete(shell: str, argv: Sequence[str], environ: Mapping[str, str], name: str) -> int:
    """Print completions for a shell; print nothing if that fails."""
    from cyber_inference_tui.cli.completion import answer

    try:
        lines = answer(cli, name, shell, argv, GlobalOptions(environ=environ))
    except Exception:  # noqa: BLE001 - a message would disturb the line being typed
        if sys.flags.dev_mode:
            traceback.print_exc()
        return 1
    try:
        click.echo("".join(f"{line}\n" for line in lines), nl=False)
    except OSError:
        discard_stdout()
        return 1
    return 0


def _explained(error: CyberError) -> str:
    """Return the sentence, its hint, and for a failed load or build the end of its log."""
    tail = error.log_tail if isinstance(error, ModelLoadError | BuildError) else ()
    return "\n".join([str(error), *(f"  {line}" for line in tail)])


def _say(text: str) -> None:
    # Standard error may be closed, too.
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def main() -> None:
    """Run the installed program."""
    prepare_streams()
    called = os.path.basename(sys.argv[0])  # noqa: PTH119 - quicker than a Path
    code = run(sys.argv[1:], os.environ, name=SHORT_NAME if called == SHORT_NAME else PROGRAM)
    if COMPLETION not in os.environ:
        from cyber_inference_tui.storage import end_process_within

        # The interpreter would wait for threads that hang on a disk.
        end_process_within(_LEAVE_SECONDS, code)
    sys.exit(code)

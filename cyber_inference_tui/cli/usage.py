"""Groups of commands, and the sentences for wrong usage in place of Click's own."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import escaped

_WHOLE = 1_000_000
"""More characters than any summary has."""
_MOST = 1000
"""Characters of a message, which may repeat what was typed."""
_OPTIONAL = re.compile(r"^Invalid value for '\[([^]]+)\]'")
_TOO_MANY = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)


class Group(click.Group):
    """A group whose help shows whole summaries, and which suggests names for a wrong one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begins with; suggest a close one for an unknown name."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not ctx.resilient_parsing:
            raise click.UsageError(
                f"There is no command '{args[0]}'{_did_you_mean(args[0], known)}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their whole summaries, which Click would cut."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(_WHOLE))
                    for name in self.list_commands(ctx)
                    if (command := self.get_command(ctx, name)) is not None
                ]
            )


def usage_text(error: click.ClickException) -> str:
    """Return the sentence for wrong usage, and the command that shows the right one."""
    message = error.format_message()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return message
    if isinstance(error, click.NoSuchOption):
        known = error.possibilities or ()
        message = (
            f"There is no option '{error.option_name}'{_did_you_mean(error.option_name, known)}"
        )
    elif isinstance(error, click.BadOptionUsage):
        refused = "does not take" in error.message
        message = f"The option '{error.option_name}' {'takes no' if refused else 'needs a'} value."
    elif found := _TOO_MANY.fullmatch(message):
        message = (
            f"The argument '{found[1]}' is too much."
            if found[1]
            else "An empty argument is too much."
        )
    # Click puts the name of an argument that may be left out in brackets.
    message = _OPTIONAL.sub(r"Invalid value for '\1'", message)
    # Click puts each choice of an argument on its own line.
    message = escaped(re.sub(r"\n\t", " ", message), limit=_MOST)
    if not message.endswith((".", "?")):
        message += "."
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message} See '{error.ctx.command_path} --help'."
    return message


def _did_you_mean(wrong: str, known: Iterable[str]) -> str:
    near = close_names(wrong, known, 1)
    return f". Did you mean '{near[0]}'?" if near else "."

"""``completion``: the script that makes a shell complete this program's command lines."""

from __future__ import annotations

from importlib.resources import files

import click

from cyber_inference_tui.cli.completion import SHELLS


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, model ids and settings in a shell.

    \b
    bash:  eval "$(cyber-inference-tui completion bash)"      in ~/.bashrc
    zsh:   eval "$(cyber-inference-tui completion zsh)"       in ~/.zshrc, after compinit
    fish:  cyber-inference-tui completion fish | source       in ~/.config/fish/config.fish

    It works for both names of the program. Ids come from the running service; no service is ever
    started for them.
    """
    script = files("cyber_inference_tui.cli") / "shells" / f"completion.{shell}"
    click.echo(script.read_text("utf-8"), nl=False)

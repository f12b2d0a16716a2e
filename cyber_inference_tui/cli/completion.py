"""The ``completion`` command, and the answers to the scripts that it prints.

The script starts the program with the shell's name in ``_CYBER_INFERENCE_TUI_COMPLETE``. bash
passes the line up to the cursor and its ``COMP_WORDBREAKS``, the other shells pass the words before
the cursor, unquoted. Each line of the answer is a kind (``plain``, ``file`` or ``dir``), a tab and
a value; zsh and fish also get a tab and a description.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem, ShellComplete

from cyber_inference_tui.cli.options import GlobalOptions

SHELLS = ("bash", "zsh", "fish")
_UNSAFE = re.compile(r"[^\w@%+=:,./-]")
"""Characters that bash needs escaped inside a word."""
_UNSAFE_IN_DOUBLE_QUOTES = re.compile(r'[\\"`$]')


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, model ids and settings in a shell.

    \b
    bash:  eval "$(cyber-inference-tui completion bash)"      in ~/.bashrc
    zsh:   eval "$(cyber-inference-tui completion zsh)"       in ~/.zshrc, after compinit
    fish:  cyber-inference-tui completion fish | source       in ~/.config/fish/config.fish

    It works for both names of the program. Ids come from the running service; completion
    never starts one.
    """
    from importlib.resources import files

    script = files("cyber_inference_tui.cli") / "shells" / f"completion.{shell}"
    click.echo(script.read_text("utf-8"), nl=False)


class TypedLine(NamedTuple):
    """A command line of bash, up to the cursor."""

    words: list[str]
    """Unquoted; the last word is being typed and may be empty."""
    quote: str
    """The open quote in the last word, or nothing."""
    kept: int
    """Characters of the last word that readline does not replace: up to a quote, ":" or "="."""


def typed_line(line: str, breaks: str) -> TypedLine:
    """Split ``line`` at its spaces; ``breaks`` are the characters at which readline cuts words."""
    words: list[str] = []
    word: str | None = None
    quote, kept, kept_before_quote = "", 0, 0
    signs = iter(line)
    for sign in signs:
        if not quote and sign.isspace():
            if word is not None:
                words.append(word)
            word, kept = None, 0
            continue
        word = word or ""
        if sign == quote:
            quote, kept = "", kept_before_quote
        elif not quote and sign in "\"'":
            quote, kept_before_quote, kept = sign, kept, len(word)
        elif sign == "\\" and quote != "'":
            escaped = next(signs, "")
            special = not quote or escaped in '\\"`$'
            word += escaped if special else sign + escaped
        else:
            word += sign
            if not quote and sign in breaks:
                kept = len(word)
    return TypedLine([*words, word or ""], quote, kept)


def bash_text(value: str, typed: TypedLine) -> str:
    """Return the replacement for the typed word, escaped so that bash reads ``value``."""
    rest = value[typed.kept :]
    if typed.quote == "'":
        text = rest.replace("'", "'\\''")
    else:
        text = (_UNSAFE_IN_DOUBLE_QUOTES if typed.quote else _UNSAFE).sub(r"\\\g<0>", rest)
    # readline closes the quote itself, except after a value that ends with a quote.
    return text + typed.quote if typed.quote and text.endswith(typed.quote) else text


def answer(
    command: click.Command, program: str, shell: str, argv: Sequence[str], options: GlobalOptions
) -> list[str]:
    """Return the lines for the script of ``shell``, which passed ``argv``."""
    if shell == "bash":
        typed = typed_line(argv[0], argv[1])
        words = typed.words[1:]
    else:
        words = list(argv)
    *earlier, current = words
    completer = ShellComplete(command, {"obj": options}, program, "")
    items = completer.get_completions(earlier, current)
    option = _option_of(current)
    if shell == "bash":
        return [_line(item.type, bash_text(option + item.value, typed)) for item in items]
    return [_line(item.type, option + item.value, item.help or "") for item in items]


def _option_of(current: str) -> str:
    """Return ``--option=`` if a value follows in the same word: click completes the value alone."""
    match = re.match(r"--[^=]+=", current)
    return match[0] if match else ""


def _line(*fields: str) -> str:
    return "\t".join(" ".join(field.split("\t")) for field in fields)


def matching(items: Sequence[CompletionItem], typed: str) -> list[CompletionItem]:
    """Return the items that begin with ``typed``, in any case, and are printable."""
    begun = typed.casefold()
    return [
        item
        for item in items
        if item.value[: len(typed)].casefold() == begun and item.value.isprintable()
    ]

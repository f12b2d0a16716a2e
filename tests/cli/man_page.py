"""Make the manual page from the help texts, the settings and the exit codes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from cyber_inference_tui.cli.main import PROGRAM, SECTIONS, SHORT_NAME, cli
from cyber_inference_tui.settings.environment import ENV_PREFIX
from cyber_inference_tui.settings.schema import KEYS

ROOT = Path(__file__).parents[2]
PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "man" / f"{PROGRAM}.1": lambda: "\n".join(_page()) + "\n",
    ROOT / "docs" / "man" / f"{SHORT_NAME}.1": lambda: f".so man1/{PROGRAM}.1\n",
}
"""The files, and what makes the text of each."""

_VARIABLES = {
    f"{ENV_PREFIX}CONFIG": "The configuration file, if --config does not name one.",
    "HF_TOKEN, HF_ENDPOINT": "Token and address of the model hub, where the settings have none.",
    "HTTPS_PROXY, HTTP_PROXY, NO_PROXY": "Proxies on the way to the hub and to llama-server.",
    "NO_COLOR": "If set, nothing is printed in colour.",
    "COLUMNS": "The width of tables, instead of the terminal's.",
    "PYTHONDEVMODE": "With 1, an unexpected error shows where it happened.",
}
_FILES = {
    "~/.config/cyber-inference-tui/config.toml": "The settings; 'config path' prints which file "
    "is read.",
    "~/.config/cyber-inference-tui/keys.toml": "Keys of the terminal app.",
    "~/.local/share/cyber-inference-tui/models/": "The models.",
    "~/.local/share/cyber-inference-tui/logs/": "The logs of the service and of every model.",
    "~/.local/share/cyber-inference-tui/llama/": "What install-llama installed.",
    "~/.local/share/cyber-inference-tui/service.json": "Where the running service listens.",
}
_EXAMPLES = {
    f"{PROGRAM} --demo": "Open the app, with a built-in model to try it on.",
    f"{PROGRAM} serve": "Run the service without the app.",
    f"{PROGRAM} download-model OWNER/NAME:Q4_K_M": "Download a model.",
    f"{PROGRAM} list-models --json": "List the models, for a script.",
    f"{PROGRAM} logs service -f": "Follow the log of the service.",
}


def _page() -> Iterator[str]:
    yield f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM}" "User Commands"'
    yield ".\\\" Made by 'python -m tests.cli.regenerate' from the help texts."
    # Left-aligned and without hyphenation, so that options and paths can be copied.
    yield from (".nh", ".ad l")
    yield ".SH NAME"
    yield f"{_plain(PROGRAM)}, {SHORT_NAME} \\- run local language models on your own machine"
    yield ".SH SYNOPSIS"
    yield f"{_bold(PROGRAM)} [{_italic('OPTIONS')}] [{_italic('COMMAND')}]"
    yield ".SH DESCRIPTION"
    yield from _prose(cli.help or "")
    yield ".SH COMMANDS"
    context = click.Context(cli, info_name=PROGRAM)
    for title, section in SECTIONS.items():
        yield f".SS {title}"
        for name in section:
            command = cli.get_command(context, name)
            assert command is not None
            yield from _command(command, name)
    yield ".SH OPTIONS"
    yield "They may stand before the command or after it; where both are given, the later one wins."
    yield from _options(cli)
    yield from _entry("-h, --help", "Show help, also after a command.")
    yield ".SH EXIT STATUS"
    for code, meaning in _exit_codes():
        yield from _entry(code, meaning)
    yield ".SH ENVIRONMENT"
    yield from _prose(
        "Every setting can come from a variable. It overrides the file, and a flag overrides both."
    )
    for name, key in KEYS.items():
        yield from _entry(f"{ENV_PREFIX}{name.upper()}", key.help)
    for name, meaning in _VARIABLES.items():
        yield from _entry(name, meaning)
    yield ".SH FILES"
    for name, meaning in _FILES.items():
        yield from _entry(name, meaning)
    yield ".SH EXAMPLES"
    for line, meaning in _EXAMPLES.items():
        yield from _entry(line, meaning)


def _command(command: click.Command, path: str) -> Iterator[str]:
    """Return the entry of a command, followed by those of its subcommands."""
    arguments = [_argument(param) for param in command.params if isinstance(param, click.Argument)]
    usage = [_bold(path), f"[{_italic('OPTIONS')}]" if _shown(command) else ""]
    group = isinstance(command, click.Group)
    yield ".TP"
    yield " ".join([*filter(None, usage), *arguments, *([_italic("COMMAND")] if group else [])])
    yield from _prose(command.help or "")
    yield ".RS"
    yield from _options(command)
    yield ".RE"
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _command(child, f"{path} {name}")


def _argument(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice):
        return "|".join(_bold(str(choice)) for choice in argument.type.choices)
    return _italic(argument.metavar or (argument.name or "").upper())


def _shown(command: click.Command) -> list[click.Option]:
    return [
        param for param in command.params if isinstance(param, click.Option) and not param.hidden
    ]


def _options(command: click.Command) -> Iterator[str]:
    for option in _shown(command):
        text = option.help or ""
        if option.show_default and option.default is not None:
            text = f"{text} Default: {option.default}."
        yield from _entry(", ".join(option.opts), text, value=_value(option))


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.metavar or option.type.name.upper()


def _exit_codes() -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    table = page.partition("## Exit codes")[2].partition("\n\n| code")[2].partition("\n\n")[0]
    return [
        (code, f"{meaning[0].upper()}{meaning[1:]}.".replace("`", "").replace("\\|", "|"))
        for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    ]


def _entry(term: str, text: str, *, value: str = "") -> Iterator[str]:
    yield ".TP"
    yield f"{_bold(term)} {_italic(value)}" if value else _bold(term)
    yield _plain(text)


def _prose(text: str) -> Iterator[str]:
    """Return the paragraphs of a help text; a paragraph that begins with ``\\b`` keeps its
    lines."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".sp"
        if paragraph.startswith("\b"):
            lines = paragraph.splitlines()[1:]
            yield from (".nf", *map(_plain, lines), ".fi")
        else:
            yield _plain(" ".join(paragraph.split()))


def _bold(text: str) -> str:
    return f"\\fB{_plain(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_plain(text)}\\fR"


def _plain(text: str) -> str:
    """Escape text for roff, so that nothing is an instruction and hyphens can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = escaped.replace("…", "...").replace("~", "\\(ti").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped

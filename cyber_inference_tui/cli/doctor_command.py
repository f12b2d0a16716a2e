"""``doctor``: show problems of this machine, each with its fix."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines
from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.terminal.stream import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Terminal,
    stdout_terminal,
)
from cyber_inference_tui.terminal.text_width import cells
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cyber_inference_tui.doctor.records import Finding

_LEVELS = {
    # level: word, colour
    "ok": ("ok", GREEN),
    "hint": ("hint", DIM),
    "warning": ("warn", YELLOW),
    "error": ("error", RED),
}
_LEAST_TEXT = 20
"""Minimum columns of a text, however narrow the terminal is."""


@click.command()
@click.option("--offline", is_flag=True, help="Do not check whether the model hub can be reached.")
@click.option(
    "--clients", is_flag=True, help="Also send the request that each connected client would send."
)
@json_option
@click.pass_obj
def doctor(options: GlobalOptions, *, offline: bool, clients: bool, as_json: bool) -> int:
    """Show what would keep this machine from working, each finding with its fix.

    Nothing is changed. Exit code 0 = no error, 5 = only the configuration is wrong,
    6 = only a usable llama-server is missing, else 1.
    """
    from cyber_inference_tui.doctor.examination import examine
    from cyber_inference_tui.doctor.gather import broken_configuration
    from cyber_inference_tui.doctor.records import exit_code

    loaded = broken = None
    try:
        loaded = options.load()
    except ConfigError as error:
        broken = broken_configuration(error, options.config, options.environ)
    findings = examine(loaded, broken, environ=options.environ, offline=offline)
    if clients and loaded is not None:
        findings += tuple(_client_findings(options))
    if as_json:
        print_json(findings)
    else:
        print_lines(finding_lines(findings, stdout_terminal(options.environ)))
    return exit_code(findings)


def _client_findings(options: GlobalOptions) -> Iterator[Finding]:
    from cyber_inference_tui.cli.connect_command import connected_of, connection_of, home_of
    from cyber_inference_tui.connect.clients import CLIENTS
    from cyber_inference_tui.doctor.clients import check_client
    from cyber_inference_tui.doctor.records import Finding

    connected, home = connected_of(options), home_of(options)
    records = {client: connected.record(client.name) for client in CLIENTS.values()}
    if not any(records.values()):
        yield Finding.hint(
            "clients",
            "No client is connected.",
            "`cyber-inference-tui connect --list` shows what can be connected.",
        )
    for client, record in records.items():
        if record is not None:
            yield from check_client(
                client, record, lambda model: connection_of(options, model), home
            )


def finding_lines(findings: Sequence[Finding], terminal: Terminal) -> list[str]:
    """Return the findings grouped by check, and a last line that counts them.

    Texts are wrapped at the terminal's width; in a pipe each is one line.
    """
    lines: list[str] = []
    # Findings of one check may come separately.
    order = list(dict.fromkeys(finding.check for finding in findings))
    ordered = sorted(findings, key=lambda finding: order.index(finding.check))
    for check, group in groupby(ordered, key=lambda finding: finding.check):
        lines.append(terminal.paint(check, BOLD))
        for finding in group:
            lines += _lines_of(finding, terminal)
    return [*lines, "", _summary(findings)]


def _lines_of(finding: Finding, terminal: Terminal) -> Iterable[str]:
    word, color = _LEVELS[finding.level.value]
    shown = f"{word:<5}"
    if terminal.interactive:
        shown = f"{terminal.charset.levels[finding.level.value]} {shown}"
    indent = " " * (2 + len(shown) + 2)
    first, *rest = _wrapped(finding.message, len(indent), terminal)
    yield f"  {terminal.paint(shown, color)}  {first}"
    yield from (indent + line for line in rest)
    if finding.fix:
        yield from (
            indent + line for line in _wrapped(f"Fix: {finding.fix}", len(indent), terminal)
        )


def _wrapped(text: str, indent: int, terminal: Terminal) -> list[str]:
    text = clean_line(text.replace("±", terminal.charset.plus_minus))
    if terminal.width is None:
        return [text]
    room = max(_LEAST_TEXT, terminal.width - indent)
    lines: list[str] = []
    # Paths and commands are not broken, so that they can be copied.
    for word in text.split():
        if lines and cells(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def _summary(findings: Sequence[Finding]) -> str:
    counts = {
        name: sum(finding.level.value == name for finding in findings)
        for name in ("error", "warning", "hint")
    }
    found = [f"{n} {name}" if n == 1 else f"{n} {name}s" for name, n in counts.items() if n]
    return f"{', '.join(found)}." if found else "Nothing is wrong."

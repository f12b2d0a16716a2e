"""``search-models`` and ``download-model``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import (
    ProgressLine,
    bar_text,
    print_json,
    print_lines,
    print_note,
)
from cyber_inference_tui.terminal.stream import Terminal, stderr_terminal, stdout_terminal
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.records import DownloadRecord

SORTS = ("downloads", "likes", "trending", "new")


@click.command("search-models")
@click.argument("query")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="What comes first; 'new' is what changed last.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    metavar="N",
    help="How many at most.",
)
@json_option
@click.pass_obj
def search_models(options: GlobalOptions, query: str, sort: str, limit: int, as_json: bool) -> None:
    """Search the hub for models in GGUF format whose names hold QUERY."""
    from cyber_inference_tui.cli.hub_calls import search

    found = search(options, query, sort=sort, limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        print_note(
            f"The hub has no GGUF models for {clean_line(query)!r}: try fewer or other words.",
            stderr_terminal(options.environ),
        )
        return
    from cyber_inference_tui.cli.model_tables import hub_table

    print_lines(hub_table(found, stdout_terminal(options.environ)))


@click.command("download-model")
@click.argument("model", metavar="REPO[:QUANT]", type=FilledText())
@click.option("--filename", metavar="F", help="The file to take, by its path or name.")
@click.option("--revision", metavar="R", help="A commit, branch or tag; else the newest commit.")
@json_option
@click.pass_obj
def download_model(
    options: GlobalOptions,
    model: str,
    filename: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Download a model from the hub into the models directory.

    REPO is ORG/NAME or the address of its page. Without QUANT that is Q4_K_M, then Q8_0, then the
    first file. Ctrl-C keeps what has arrived; the same command goes on with it.
    """
    from cyber_inference_tui.cli.hub_calls import download
    from cyber_inference_tui.hub.address import wanted_of
    from cyber_inference_tui.hub.endpoint import read_endpoint

    endpoint = read_endpoint(options.load().settings, options.environ).url
    wanted = wanted_of(model, filename=filename, revision=revision, endpoint=endpoint)
    terminal = stderr_terminal(options.environ)
    with ProgressLine(terminal) as line:
        progress = DownloadProgress(terminal, line)
        try:
            record = download(options, wanted, progress.show)
        except KeyboardInterrupt:
            line.clear()
            click.echo(progress.stopped(), err=True)
            raise
    if as_json:
        print_json(record)
        return
    click.echo(f"{record.model_id or record.filename} is here.")


class DownloadProgress:
    """On standard error: a bar on a terminal, elsewhere a plain line every ten percent."""

    def __init__(self, terminal: Terminal, line: ProgressLine) -> None:
        self._terminal = terminal
        self._line = line
        self._last: DownloadRecord | None = None
        self._told: tuple[str, int, str | None] | None = None

    def show(self, record: DownloadRecord) -> None:
        """Where it stands."""
        self._last = record
        if self._line.visible:
            bar = bar_text(_share(record), self._terminal)
            self._line.show(f"{bar} {progress_text(record)}")
            return
        step = (record.status.value, int(10 * _share(record)), record.error)
        if step != self._told:
            self._told = step
            click.echo(progress_text(record), err=True)

    def stopped(self) -> str:
        """What to say when it was interrupted."""
        from cyber_inference_tui.units import size_text

        if self._last is None or not self._last.bytes_done:
            return "Stopped before anything had arrived."
        kept = size_text(self._last.bytes_done)
        return f"Stopped; {kept} of it are kept. The same command goes on from there."


def progress_text(record: DownloadRecord) -> str:
    """One line on a download."""
    from cyber_inference_tui.units import duration_text, size_text

    done = size_text(record.bytes_done)
    total = f" of {size_text(record.bytes_total)}" if record.bytes_total is not None else ""
    parts = [f"{record.status.value} {record.filename or record.repo}: {done}{total}"]
    if record.bytes_per_second:
        parts.append(f"{size_text(int(record.bytes_per_second))}/s")
    if record.seconds_left is not None:
        parts.append(f"{duration_text(record.seconds_left)} left")
    if record.error:
        parts.append(record.error)
    return ", ".join(parts)


def _share(record: DownloadRecord) -> float:
    return min(1.0, record.bytes_done / record.bytes_total) if record.bytes_total else 0.0

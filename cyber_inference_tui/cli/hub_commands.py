"""``search-models`` and ``download-model``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, WholeNumber, json_option
from cyber_inference_tui.cli.output import (
    ProgressLine,
    bar_text,
    print_json,
    print_line,
    print_lines,
    print_note,
)
from cyber_inference_tui.errors import ConflictError, CyberError, HubError, NoServiceError
from cyber_inference_tui.terminal.stream import Terminal, stderr_terminal, stdout_terminal
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import duration_text, size_text

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.hub.model_reference import ModelReference
    from cyber_inference_tui.records import DownloadRecord, HubModelRecord

SORTS = ("downloads", "likes", "trending", "new")
_POLL = 0.3
"""Seconds between two requests for a download's record."""
_UNDER_WAY = ("queued", "running", "verifying")
_PAUSE_LIMIT = 20.0


@click.command("search-models")
@click.argument("query", type=FilledText(256))
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="The order; 'new' sorts by the last change.",
)
@click.option(
    "--limit",
    type=WholeNumber(1, 100),
    default=20,
    show_default=True,
    metavar="N",
    help="The most results to show, up to 100.",
)
@json_option
@click.pass_obj
def search_models(options: GlobalOptions, query: str, sort: str, limit: int, as_json: bool) -> None:
    """Search the hub for models in GGUF format with QUERY in their names."""
    query = clean_line(" ".join(query.split()))
    found = _search(options, query, sort, limit)
    if as_json:
        print_json(found)
        return
    if not found:
        print_note(
            f"The hub has no GGUF models for '{query}': try fewer or other words.",
            stderr_terminal(options.environ),
        )
        return
    from cyber_inference_tui.cli.model_tables import hub_table

    print_lines(hub_table(found, stdout_terminal(options.environ)))


@click.command("download-model")
@click.argument("model", metavar="REPO[:QUANT]", type=FilledText())
@click.option(
    "--filename", metavar="F", type=FilledText(), help="The file to download, by its path or name."
)
@click.option(
    "--revision",
    metavar="R",
    type=FilledText(),
    help="A commit, branch or tag; else the newest commit.",
)
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
    first file. Ctrl-C keeps the bytes that have arrived; the same command continues from there.
    The service downloads the model; if none runs, this command starts one and stops it afterwards.
    """
    from cyber_inference_tui.hub.endpoint import read_endpoint
    from cyber_inference_tui.hub.model_reference import parse_reference

    endpoint = read_endpoint(options.load().settings, options.environ).url
    wanted = parse_reference(model, filename=filename, revision=revision, endpoint=endpoint)
    terminal = stderr_terminal(options.environ)
    with ProgressLine(terminal) as line:
        progress = DownloadProgress(terminal, line)
        line.show("connecting to the service")
        try:
            record = _download(options, wanted, progress)
        except KeyboardInterrupt:
            progress.clear()
            click.echo(progress.stopped(), err=True)
            raise
    if as_json:
        print_json(record)
        return
    print_line(f"{record.model_id or record.filename} is here.")


def _search(options: GlobalOptions, query: str, sort: str, limit: int) -> list[HubModelRecord]:
    """Return the matching models, found by the service, or by this process if none answers."""
    import asyncio

    from cyber_inference_tui.cli.service_calls import with_client
    from cyber_inference_tui.records.queries import SearchQuery

    wanted = SearchQuery(q=query, sort=sort, limit=limit)
    try:
        return with_client(options, lambda client: client.search(wanted))[0]
    except NoServiceError:
        from cyber_inference_tui.hub.browse import Browse
        from cyber_inference_tui.hub.endpoint import read_endpoint
        from cyber_inference_tui.hub.transfer import TransferLimits, open_session

        settings = options.load().settings

        async def search() -> list[HubModelRecord]:
            async with open_session(TransferLimits()) as session:
                browse = Browse(
                    endpoint=lambda: read_endpoint(settings, options.environ),
                    session=lambda: session,
                    environ=options.environ,
                )
                return (await browse.search(query, sort=sort, limit=limit))[0]

        return asyncio.run(search())


def _download(
    options: GlobalOptions, wanted: ModelReference, progress: DownloadProgress
) -> DownloadRecord:
    """Have the service download a model, and return the download's last record.

    If no service runs, start one in the background, and stop it in the end unless somebody else
    uses it by then. Raises ``CyberError``. On ``KeyboardInterrupt`` the download is paused.
    """
    from cyber_inference_tui.cli.background import find_or_start
    from cyber_inference_tui.cli.service_calls import with_client

    service = None if options.attach else find_or_start(options)
    try:
        return with_client(
            options,
            lambda client: _follow(client, wanted, progress),
            url=service.url if service is not None else "",
        )
    finally:
        progress.clear()
        if service is not None and service.started and service.pid is not None:
            _stop_if_unused(service.url, service.pid, options)


async def _follow(
    client: ServiceClient, wanted: ModelReference, progress: DownloadProgress
) -> DownloadRecord:
    """Request the download, show its progress until it ends, and return its last record."""
    import asyncio

    from cyber_inference_tui.records import DownloadStatus, endpoints, queries

    record = await client.call(endpoints.DOWNLOAD, body=queries.DownloadRequest(*wanted))
    try:
        if record.status is DownloadStatus.PAUSED:
            record = await client.call(endpoints.RESUME_DOWNLOAD, record.id)
        while record.status in _UNDER_WAY:
            progress.show(record)
            await asyncio.sleep(_POLL)
            known = {download.id: download for download in await client.call(endpoints.DOWNLOADS)}
            if record.id not in known:
                raise ConflictError(f"The download of {record.repo} was taken from the list.")
            record = known[record.id]
    except asyncio.CancelledError:
        # Ctrl-C: the bytes that have arrived stay, and the download stays in the list.
        with contextlib.suppress(CyberError, TimeoutError):
            async with asyncio.timeout(_PAUSE_LIMIT):
                await client.call(endpoints.PAUSE_DOWNLOAD, record.id)
        raise
    if record.status is DownloadStatus.FAILED:
        raise HubError(record.error or f"The download of {record.repo} failed.")
    if record.status is not DownloadStatus.DONE:
        raise ConflictError(f"The download of {record.repo} was {record.status.value} elsewhere.")
    return record


def _stop_if_unused(url: str, pid: int, options: GlobalOptions) -> None:
    """Stop a service that this command started, or say that it keeps running for others."""
    from cyber_inference_tui.cli.background import has_clients, stop_limit, stop_service
    from cyber_inference_tui.cli.service_calls import with_client
    from cyber_inference_tui.records import ModelStatus, endpoints

    async def is_busy(client: ServiceClient) -> bool:
        models = await client.call(endpoints.MODELS)
        downloads = await client.call(endpoints.DOWNLOADS)
        idle = {ModelStatus.UNLOADED, ModelStatus.FAILED}
        return any(model.status not in idle for model in models) or any(
            download.status in _UNDER_WAY for download in downloads
        )

    try:
        busy = with_client(options, is_busy, url=url)
    except CyberError:
        busy = False  # It has ended, or serves nobody.
    if busy or has_clients(pid):
        click.echo(
            f"The service that was started for this download is in use and keeps running at {url}; "
            "'cyber-inference-tui service stop' stops it.",
            err=True,
        )
    else:
        stop_service(pid, limit=stop_limit(options.load().settings))


class DownloadProgress:
    """Progress on standard error: a bar on a terminal, else a plain line every ten percent."""

    def __init__(self, terminal: Terminal, line: ProgressLine) -> None:
        self._terminal = terminal
        self._line = line
        self._last: DownloadRecord | None = None
        self._printed: tuple[str, int, str | None] | None = None

    def show(self, record: DownloadRecord) -> None:
        """Show the state of the download."""
        self._last = record
        if self._line.visible:
            bar = bar_text(record.share or 0.0, self._terminal)
            self._line.show(f"{bar} {progress_text(record)}")
            return
        step = (record.status.value, int(10 * (record.share or 0.0)), record.error)
        if step != self._printed:
            self._printed = step
            click.echo(progress_text(record), err=True)

    def clear(self) -> None:
        """Erase the bar before other output."""
        self._line.clear()

    def stopped(self) -> str:
        """Return the message for an interrupted download."""

        if self._last is None or not self._last.bytes_done:
            return "Stopped before anything had arrived."
        kept = size_text(self._last.bytes_done)
        return f"Stopped; {kept} are kept. The same command continues the download."


def progress_text(record: DownloadRecord) -> str:
    """Return a line about a download."""

    done = size_text(record.bytes_done)
    total = f" of {size_text(record.bytes_total)}" if record.bytes_total is not None else ""
    parts = [f"{record.status.value} {record.filename or record.repo}: {done}{total}"]
    if record.source:
        parts.append(f"from the box {record.source}")
    if record.bytes_per_second:
        parts.append(f"{size_text(int(record.bytes_per_second))}/s")
    if record.seconds_left is not None:
        parts.append(f"{duration_text(record.seconds_left)} left")
    if record.error:
        parts.append(record.error)
    return ", ".join(parts)

"""``status``: show the service and its busy models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines
from cyber_inference_tui.terminal.clients import port_uses
from cyber_inference_tui.terminal.stream import DIM, RED, Terminal, stdout_terminal
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import duration_text

if TYPE_CHECKING:
    from cyber_inference_tui.cli.service_calls import ServiceView


@click.command()
@json_option
@click.pass_obj
def status(options: GlobalOptions, as_json: bool) -> None:
    """Show the running service and the models it is busy with."""
    from cyber_inference_tui.cli.service_calls import service_view

    view = service_view(options)
    if as_json:
        import msgspec

        facts = msgspec.to_builtins(view.status)
        print_json({"url": view.url, **facts, "models": view.models, "clients": view.clients})
        return
    print_lines(status_lines(view, datetime.now(UTC), stdout_terminal(options.environ)))


def status_lines(view: ServiceView, now: datetime, terminal: Terminal) -> list[str]:
    """Return the facts of the service, one a line, then the table of its busy models."""
    from cyber_inference_tui.cli.model_tables import busy_table

    status = view.status
    server = status.llama_server
    binary = terminal.paint("not found: run 'cyber-inference-tui install-llama'", RED)
    if server.path:
        binary = clean_line(f"{server.version or 'unknown version'}, {server.path}")
    if server.devices_problem:
        binary += f"; its GPUs are unknown: {clean_line(server.devices_problem)}"
    facts = {
        "service": f"{view.url}, version {clean_line(status.version)}, pid {status.pid}, "
        f"up {duration_text(status.uptime_seconds)}",
        "llama-server": binary,
        "models": f"{status.models_loaded} loaded",
        "requests": f"{status.requests_in_flight} in flight, {status.requests_queued} waiting",
    }
    for use in port_uses(status, view.clients):
        if use.clients or use.port != status.port:
            words = clean_line(use.in_words)
            facts[f"port {use.port}"] = words if use.problem is None else terminal.paint(words, RED)
    lines = [f"{terminal.paint(f'{name:<14}', DIM)}{value}" for name, value in facts.items()]
    if view.models:
        lines += ["", *busy_table(view.models, now, terminal)]
    return lines

"""``bench``: measure models, list the results and compare them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import click

from cyber_inference_tui.cli.options import (
    FilledText,
    GlobalOptions,
    WholeNumber,
    json_option,
)
from cyber_inference_tui.cli.output import (
    ProgressLine,
    bar_text,
    print_json,
    print_lines,
    print_note,
)
from cyber_inference_tui.terminal.stream import Terminal, stderr_terminal, stdout_terminal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from click.shell_completion import CompletionItem

    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.records.bench import BenchResult, BenchStatus

    Start = Callable[[ServiceClient], Awaitable[BenchStatus]]

Decorated = TypeVar("Decorated", bound="Callable[..., object]")

_POLL = 0.3
_CANCEL_LIMIT = 5.0
_MOST_LISTED = 1000


def complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the id of a model."""
    from cyber_inference_tui.cli.completion_values import model_ids

    return model_ids(ctx, incomplete)


def workload_options(command: Decorated) -> Decorated:
    """Add the options that say what each measurement asks of a model."""
    options = (
        ("--prompt", WholeNumber(1, 1 << 20), 512, "Tokens of each prompt."),
        ("--tokens", WholeNumber(2, 1 << 20), 128, "Tokens of each answer."),
        ("--parallel", WholeNumber(1, 64), 1, "Requests at once."),
    )
    for name, kind, default, text in reversed(options):
        command = click.option(
            name, type=kind, default=default, show_default=True, metavar="N", help=text
        )(command)
    return command


@click.command()
@click.argument(
    "models", metavar="ID...", nargs=-1, type=FilledText(), shell_complete=complete_model
)
@workload_options
@click.option(
    "--rounds",
    type=WholeNumber(1, 100),
    default=6,
    show_default=True,
    metavar="N",
    help="Measurements of each model.",
)
@click.option("--power-modes", is_flag=True, help="Measure in each power mode of a Jetson.")
@click.option("--list", "listing", is_flag=True, help="List earlier results.")
@click.option("--compare", is_flag=True, help="Compare the latest results with each other.")
@json_option
@click.pass_obj
def bench(
    options: GlobalOptions,
    *,
    models: tuple[str, ...],
    prompt: int,
    tokens: int,
    parallel: int,
    rounds: int,
    power_modes: bool,
    listing: bool,
    compare: bool,
    as_json: bool,
) -> None:
    """Measure the speed, energy and memory of the models ID while nobody else is served.

    Models take turns, so that a machine that gets warm favours none. A figure is the median of all
    rounds, with the median absolute deviation. The first model is the reference of CHANGE, which is
    of TOKENS/S. A request of somebody else stops the bench.

    --compare has the newest result of each model, build and settings, the oldest first as the
    reference. With --list and --compare, ID are the models to show; without, all are.
    """
    if listing or compare:
        found = _results(options, models)
        if compare:
            from cyber_inference_tui.terminal.benches import latest_alike

            found = latest_alike(found)
        _print(options, found, as_json=as_json, compared=compare)
        return
    if not models:
        raise click.UsageError("Name a model to measure, or use --list or --compare.")
    from cyber_inference_tui.records.bench import BenchRequest

    request = BenchRequest(
        models=models,
        prompt=prompt,
        tokens=tokens,
        parallel=parallel,
        rounds=rounds,
        power_modes=power_modes,
    )
    from cyber_inference_tui.records import endpoints

    status = run_bench(options, lambda client: client.call(endpoints.START_BENCH, body=request))
    _print(options, status.results, as_json=as_json, compared=True)


def run_bench(options: GlobalOptions, start: Start) -> BenchStatus:
    """Begin a bench or a tuning, show its progress, and return the status at its end.

    Raises ``CyberError``.
    """
    from cyber_inference_tui.cli.service_calls import with_client
    from cyber_inference_tui.errors import ConflictError
    from cyber_inference_tui.records.bench import BenchState

    terminal = stderr_terminal(options.environ)
    with ProgressLine(terminal) as progress:
        status = with_client(options, lambda client: _follow(client, start, progress, terminal))
    if status.state is not BenchState.DONE:
        what = "tuning" if status.tuning else "bench"
        raise ConflictError(status.error or f"The {what} was {status.state.value}.")
    return status


async def _follow(
    client: ServiceClient, start: Start, progress: ProgressLine, terminal: Terminal
) -> BenchStatus:
    from cyber_inference_tui.errors import CyberError
    from cyber_inference_tui.records import endpoints
    from cyber_inference_tui.records.bench import BenchState

    status = await start(client)
    started = status.started_at
    try:
        while status.state is BenchState.RUNNING and status.started_at == started:
            bar = bar_text(status.done / max(1, status.total), terminal)
            progress.show(f"{bar} {status.step or ''}")
            await asyncio.sleep(_POLL)
            status = await client.call(endpoints.BENCH)
    except asyncio.CancelledError:
        # Ctrl-C.
        with contextlib.suppress(CyberError, TimeoutError):
            async with asyncio.timeout(_CANCEL_LIMIT):
                await client.call(endpoints.CANCEL_BENCH)
        raise
    return status


def _results(options: GlobalOptions, models: Sequence[str]) -> list[BenchResult]:
    from cyber_inference_tui.cli.service_calls import with_client
    from cyber_inference_tui.records import endpoints
    from cyber_inference_tui.records.queries import HistoryQuery

    query = HistoryQuery(limit=_MOST_LISTED)
    found = with_client(options, lambda client: client.call(endpoints.BENCH_RESULTS, query=query))
    wanted = {name.casefold() for name in models}
    return [one for one in found if not wanted or one.model.casefold() in wanted]


def _print(
    options: GlobalOptions, results: Sequence[BenchResult], *, as_json: bool, compared: bool
) -> None:
    from cyber_inference_tui.terminal.benches import differences, slow_text, verdict

    if as_json and compared:
        first = results[0] if results else None
        print_json(
            [
                {
                    "result": one,
                    "differences": {
                        name: None if found is None else found._asdict()
                        for name, found in differences(first or one, one).items()
                    },
                }
                for one in results
            ]
        )
    elif as_json:
        print_json(results)
    elif not results:
        print_note(
            "There are no results yet: 'cyber-inference-tui bench ID' measures a model.",
            stderr_terminal(options.environ),
        )
    else:
        terminal = stdout_terminal(options.environ)
        lines = _table(results, terminal, reference=results[0] if compared else None)
        notes = slow_text(results)
        if compared:
            notes += [verdict(results[0], one, terminal.charset) for one in results[1:]]
        print_lines([*lines, *([""] if notes else []), *notes])


def _table(
    results: Sequence[BenchResult], terminal: Terminal, *, reference: BenchResult | None
) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.terminal.benches import (
        change_text,
        difference,
        figure_text,
        settings_text,
    )
    from cyber_inference_tui.terminal.columns import Column
    from cyber_inference_tui.units import number_text, size_text

    def change(one: BenchResult, to: Terminal) -> str:
        if reference is None or one is reference:
            return ""
        return change_text(difference(reference, one, "tokens_per_second"), to.charset)

    def asked(one: BenchResult, _: Terminal) -> str:
        times = f" x {one.parallel}" if one.parallel > 1 else ""
        return f"{one.prompt:,} + {one.tokens:,}{times}"

    def hottest(one: BenchResult, to: Terminal) -> str:
        unit = "°C" if to.charset.unicode else "C"
        return to.charset.known(
            one.peak_temperature_c, lambda degrees: number_text(degrees, unit=unit)
        )

    columns: list[Column[BenchResult, Terminal]] = [
        Column(
            "time", "TIME", priority=5, cell=lambda one, _: f"{one.at.astimezone():%Y-%m-%d %H:%M}"
        ),
        Column("model", "MODEL", value=lambda one: one.model, least=8),
        Column("build", "BUILD", value=lambda one: one.build, priority=4),
        Column("mode", "MODE", value=lambda one: one.power_mode, priority=3),
        Column("settings", "SETTINGS", priority=6, cell=lambda one, _: settings_text(one)),
        Column("asked", "TOKENS", right=True, priority=7, cell=asked),
        Column(
            "prompt",
            "PROMPT/S",
            right=True,
            priority=1,
            cell=lambda one, to: figure_text(one.prompt_tokens_per_second, to.charset),
        ),
        Column(
            "speed",
            "TOKENS/S",
            right=True,
            cell=lambda one, to: figure_text(one.tokens_per_second, to.charset),
        ),
        Column("change", "CHANGE", right=True, cell=change),
        Column(
            "first",
            "FIRST, S",
            right=True,
            priority=2,
            cell=lambda one, to: figure_text(
                one.time_to_first_token_seconds, to.charset, decimals=2
            ),
        ),
        Column(
            "energy",
            "J/TOKEN",
            right=True,
            priority=2,
            cell=lambda one, to: figure_text(one.joules_per_token, to.charset, decimals=2),
        ),
        Column(
            "memory",
            "MEMORY",
            value=lambda one: one.peak_memory_bytes,
            right=True,
            priority=3,
            text=size_text,
        ),
        Column("temperature", "HOTTEST", right=True, priority=4, cell=hottest),
    ]
    left_out = set() if any(one.power_mode for one in results) else {"mode"}
    left_out |= {"change"} if reference is None else set()
    return render_table([one for one in columns if one.key not in left_out], results, terminal)

"""``tune``: look for better settings of a model, and take them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.bench_command import complete_model, run_bench, workload_options
from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines
from cyber_inference_tui.terminal.stream import Terminal, stdout_terminal

if TYPE_CHECKING:
    from cyber_inference_tui.records.tuning import TuneOutcome, TuneUndone


@click.command()
@click.argument("model", metavar="ID", type=FilledText(), shell_complete=complete_model)
@click.option(
    "--for",
    "goal",
    type=click.Choice(["speed", "energy", "memory"]),
    default="speed",
    show_default=True,
    help="What to make better.",
)
@workload_options
@click.option("--undo", is_flag=True, help="Return to the settings before the last tuning.")
@json_option
@click.pass_obj
def tune(
    options: GlobalOptions,
    *,
    model: str,
    goal: str,
    prompt: int,
    tokens: int,
    parallel: int,
    undo: bool,
    as_json: bool,
) -> None:
    """Look for better settings of the model ID while nobody else is served.

    Each of up to 12 changes of threads, batches, flash attention, caches, layers, slots and drafts
    takes turns with the best settings until then. The winner is written to the model's table, with
    a comment, only if it is better by more than twice the noise, and at least 3 %. A request of
    somebody else stops the tuning, and the model keeps its settings.
    """
    if undo:
        from cyber_inference_tui.cli.service_calls import with_client
        from cyber_inference_tui.records import endpoints

        undone = with_client(options, lambda client: client.call(endpoints.UNDO_TUNING, model))
        if as_json:
            print_json(undone)
        else:
            print_lines(_undone_lines(undone))
        return
    from cyber_inference_tui.records import endpoints
    from cyber_inference_tui.records.tuning import Goal, TuneOutcome, TuneRequest

    request = TuneRequest(
        model=model, goal=Goal(goal), prompt=prompt, tokens=tokens, parallel=parallel
    )
    status = run_bench(options, lambda client: client.call(endpoints.START_TUNING, body=request))
    outcome = status.outcome or TuneOutcome(summary="")
    if as_json:
        print_json(outcome)
    else:
        print_lines(_outcome_lines(outcome, stdout_terminal(options.environ)))


def _undone_lines(undone: TuneUndone) -> list[str]:
    from cyber_inference_tui.settings.example import toml_value

    lines = [
        f"{name} is not set any more." if value is None else f"{name} = {toml_value(value)}"
        for name, value in undone.values.items()
    ]
    kept = [f"{name} was changed since, and stays." for name in undone.changed_since]
    return lines + kept


def _outcome_lines(outcome: TuneOutcome, terminal: Terminal) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.records.tuning import TuneTrial
    from cyber_inference_tui.rounds import Difference
    from cyber_inference_tui.settings.example import toml_value
    from cyber_inference_tui.terminal.benches import change_text
    from cyber_inference_tui.terminal.columns import Column

    def gain(one: TuneTrial, to: Terminal) -> str:
        known = one.gain is not None and one.noise is not None
        found = Difference(one.gain or 0.0, one.noise or 0.0) if known else None
        return change_text(found, to.charset)

    columns: list[Column[TuneTrial, Terminal]] = [
        Column("change", "CHANGE", value=lambda one: one.change),
        Column("gain", "GAIN", right=True, cell=gain),
        Column("reason", "RESULT", value=lambda one: one.reason),
    ]
    table = render_table(columns, outcome.trials, terminal) if outcome.trials else []
    settings = [f"{name} = {toml_value(value)}" for name, value in outcome.values.items()]
    summary = outcome.summary.replace("±", terminal.charset.plus_minus)
    return [*table, *([""] if table else []), summary, *settings]

"""``lora``: list the LoRA adapters of a model, and change the strength of one."""

from __future__ import annotations

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option, model_argument
from cyber_inference_tui.cli.output import print_json, print_lines, print_note
from cyber_inference_tui.records.queries import MOST_SCALE
from cyber_inference_tui.terminal.stream import stderr_terminal, stdout_terminal


@click.command()
@model_argument()
@click.argument("number", required=False, type=click.IntRange(0, 1000))
@click.argument("strength", required=False, type=click.FloatRange(-MOST_SCALE, MOST_SCALE))
@json_option
@click.pass_obj
def lora(
    options: GlobalOptions,
    model_id: str,
    number: int | None,
    strength: float | None,
    as_json: bool,
) -> None:
    """List the LoRA adapters of the model ID, or set the STRENGTH of the adapter NUMBER.

    A strength of 0 switches an adapter off. It counts from the next request on, without a reload,
    until the model is unloaded; lora in the model's table sets the strengths of every start.
    """
    from cyber_inference_tui.cli.model_tables import adapter_table
    from cyber_inference_tui.cli.service_calls import adapters_of, scale_adapter

    if number is not None and strength is None:
        raise click.UsageError("Give the strength behind the adapter's number, 0 for off.")
    if number is None or strength is None:
        found = adapters_of(options, model_id)
    else:
        found = scale_adapter(options, model_id, number, strength)
    if as_json:
        print_json(found)
    elif found:
        print_lines(adapter_table(found, stdout_terminal(options.environ)))
    else:
        print_note("The model has no LoRA adapters.", stderr_terminal(options.environ))

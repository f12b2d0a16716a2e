"""``list-models``, ``delete-model``, ``load``, ``unload`` and ``check``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option, model_argument
from cyber_inference_tui.cli.output import (
    ProgressLine,
    confirm,
    print_json,
    print_line,
    print_lines,
    print_note,
)
from cyber_inference_tui.terminal.stream import DIM, stderr_terminal, stdout_terminal
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import size_text

if TYPE_CHECKING:
    from cyber_inference_tui.records import ModelRecord


@click.command("list-models")
@json_option
@click.pass_obj
def list_models(options: GlobalOptions, as_json: bool) -> None:
    """List the local models and their states, then unusable files with the reason.

    Without a running service the model directories are read, and every model is unloaded.
    MEMORY is the memory that a loaded model uses, or with a "~" its estimate. With --json,
    unusable files go to stderr.
    """
    from cyber_inference_tui.cli.service_calls import all_models

    found = all_models(options)
    if as_json:
        for problem in found.problems:
            click.echo(clean_line(f"{problem.where}: {problem.reason}"), err=True)
        print_json(found.records)
        return
    notes = stderr_terminal(options.environ)
    if found.absence and notes.interactive:
        print_note(f"{found.absence} These are the models on the disk.", notes)
    if not found.records:
        print_note(
            f"There are no models in {clean_line(found.directory)} yet: put .gguf files there, "
            "get one with 'cyber-inference-tui download-model', or try --demo.",
            notes,
        )
    from cyber_inference_tui.cli.model_tables import library_table, problem_lines

    terminal = stdout_terminal(options.environ)
    lines = library_table(found.records, datetime.now(UTC), terminal) if found.records else []
    if found.problems:
        lines += [*([""] if lines else []), *problem_lines(found.problems, terminal)]
    print_lines(lines)


@click.command("delete-model")
@model_argument()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def delete_model(options: GlobalOptions, model_id: str, yes: bool, as_json: bool) -> None:
    """Delete the files of the model ID.

    Only models in the models directory can be deleted, and none that is loaded. A projector and a
    draft head are deleted with their last model.
    """
    from cyber_inference_tui.cli.service_calls import deletable_model

    record, delete = deletable_model(options, model_id)
    size = f" ({size_text(record.size_bytes)})" if record.size_bytes is not None else ""
    confirm(f"Delete {clean_line(record.id)}{size}?", stderr_terminal(options.environ), yes=yes)
    deleted = delete()
    if as_json:
        print_json(deleted)
        return
    print_line(f"{deleted.id} is deleted.")


@click.command()
@model_argument()
@json_option
@click.pass_obj
def load(options: GlobalOptions, model_id: str, as_json: bool) -> None:
    """Load the model ID and wait until it can answer.

    If that fails, the reason and the last lines of its log are printed.
    """
    from cyber_inference_tui.cli.service_calls import load_model

    with ProgressLine(stderr_terminal(options.environ)) as progress:
        record = load_model(options, model_id, progress)
    _print_outcome(record, options, as_json)


@click.command()
@model_argument(states=("loaded", "loading", "queued", "unloading"))
@click.option("--force", is_flag=True, help="End its requests instead of waiting for them.")
@json_option
@click.pass_obj
def unload(options: GlobalOptions, model_id: str, force: bool, as_json: bool) -> None:
    """Unload the model ID once its requests have finished."""
    from cyber_inference_tui.cli.service_calls import unload_model

    with ProgressLine(stderr_terminal(options.environ)) as progress:
        record = unload_model(options, model_id, progress, force=force)
    _print_outcome(record, options, as_json)


@click.command()
@model_argument()
@json_option
@click.pass_obj
def check(options: GlobalOptions, model_id: str, as_json: bool) -> None:
    """Try what the model ID can do: stream, call a tool, obey a schema, see, think, embed.

    The model is loaded, and asked a few short questions. The results replace what its file claims,
    until its files, its settings or llama-server change.
    """
    from cyber_inference_tui.cli.service_calls import check_model

    with ProgressLine(stderr_terminal(options.environ)) as progress:
        found = check_model(options, model_id, progress)
    if as_json:
        print_json(found)
        return
    from cyber_inference_tui.cli.model_tables import trial_table

    print_lines(trial_table(found.trials, stdout_terminal(options.environ)))


def _print_outcome(record: ModelRecord, options: GlobalOptions, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    terminal = stdout_terminal(options.environ)
    where = f" on port {record.port}" if record.port else ""
    name, status = clean_line(record.id), record.status.value
    click.echo(f"{name} is {status}{terminal.paint(where, DIM)}.", color=True)

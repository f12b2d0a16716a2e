"""``gc``: free the disk of what nobody needs, or of what was not used for the longest time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option
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
from cyber_inference_tui.units import age_text, bytes_of, counted, size_text

if TYPE_CHECKING:
    from cyber_inference_tui.records.gc import GcItem, GcPart, GcPlan
    from cyber_inference_tui.terminal.stream import Terminal

_MOST_DAYS = 36_500
_MOST_BYTES = 1 << 53


class _Days(click.types.IntParamType):
    """A number of days or weeks."""

    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the days; fail if it is no such time."""
        found = re.fullmatch(r"([0-9]{1,5}) ?([dw]?)", str(value).strip().casefold())
        days = int(found[1]) * (7 if found[2] == "w" else 1) if found else _MOST_DAYS + 1
        if days > _MOST_DAYS:
            self.fail(f"'{value}' is not a number of days, such as 30d or 4w.", param, ctx)
        return days


class _Size(click.types.IntParamType):
    """A number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; fail if it is no size."""
        size = bytes_of(str(value))
        if size is None or size > _MOST_BYTES:
            self.fail(f"'{value}' is not a size, such as 12GB or 800MiB.", param, ctx)
        return size


@click.command()
@click.option(
    "--unused", metavar="DAYS", type=_Days(), help="Also models unused for so long: 30d, 4w."
)
@click.option(
    "--room",
    metavar="SIZE",
    type=_Size(),
    help="Only until SIZE (12GB) is free, the least recently used models last.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask; files of other programs stay.")
@click.option("--others", is_flag=True, help="With --yes: delete files of other programs, too.")
@json_option
@click.pass_obj
def gc(
    options: GlobalOptions,
    *,
    unused: int | None,
    room: int | None,
    dry_run: bool,
    yes: bool,
    others: bool,
    as_json: bool,
) -> int:
    """Delete partial downloads, outdated revisions and duplicates, and models that nobody uses.

    Files that something still needs stay, and so do models that are loaded or pinned, or that the
    settings name. It asks first, and once more for the files of other programs (Hugging Face
    cache, LM Studio, Ollama).
    """
    from cyber_inference_tui.cli.service_calls import housekeeper
    from cyber_inference_tui.records.gc import GcOrder, GcQuery, GcResult

    if others and not yes:
        raise click.UsageError("--others goes with --yes.")
    query = GcQuery(unused_days=unused, room_bytes=room)
    terminal = stderr_terminal(options.environ)
    with ProgressLine(terminal) as progress:
        keeper = housekeeper(options, progress)
        plan = keeper.plan(query)
    if dry_run:
        if as_json:
            print_json(plan)
        else:
            _show(plan, options)
        return 0
    results: list[GcResult] = []
    for is_other in (False, True):
        part = plan.others if is_other else plan.own
        if not part.items or (is_other and yes and not others):
            continue
        if not as_json:
            print_lines(_table(part, stdout_terminal(options.environ), others=is_other))
        confirm(_question(part, others=is_other), terminal, yes=yes)
        result = keeper.delete(GcOrder(unused_days=unused, room_bytes=room, token=part.token))
        results.append(result)
        for text in result.problems:
            click.echo(clean_line(text), err=True)
        if not as_json:
            print_line(f"{size_text(result.freed_bytes)} are free now.")
        if not is_other and plan.others.items:
            plan = keeper.plan(query)
    if as_json:
        print_json(
            GcResult(
                freed_bytes=sum(one.freed_bytes for one in results),
                deleted=tuple(item for one in results for item in one.deleted),
                problems=tuple(text for one in results for text in one.problems),
            )
        )
    elif not results:
        _show(plan, options)
    return int(any(one.problems for one in results))


def _show(plan: GcPlan, options: GlobalOptions) -> None:
    """Print a plan that is not carried out."""
    terminal, notes = stdout_terminal(options.environ), stderr_terminal(options.environ)
    parts = [(plan.own, False), (plan.others, True)]
    for part, is_other in parts:
        if part.items:
            print_lines(_table(part, terminal, others=is_other))
            print_line(f"These are {size_text(part.freed_bytes)}.")
    if not plan.own.items and not plan.others.items:
        print_note("There is nothing to delete.", notes)
    if plan.missing_bytes:
        print_note(
            f"{size_text(plan.free_bytes)} are free; {size_text(plan.missing_bytes)} would still "
            "be missing.",
            notes,
        )


def _question(part: GcPart, *, others: bool) -> str:
    what = counted(len(part.items), "item")
    whose = " of other programs" if others else ""
    return f"Delete {what}{whose}, which frees {size_text(part.freed_bytes)}?"


def _table(part: GcPart, terminal: Terminal, *, others: bool) -> list[str]:
    from cyber_inference_tui.cli.text_table import render_table
    from cyber_inference_tui.terminal.columns import Cell, Column

    now = datetime.now(UTC)

    def used(item: GcItem, _: Terminal) -> Cell | str:
        if item.last_used_at is None:
            return Cell("-", "dim")
        return age_text(max(0.0, (now - item.last_used_at).total_seconds()))

    def why(item: GcItem, _: Terminal) -> str:
        return f"{item.reason} of {item.copy_of}" if item.copy_of else item.reason

    columns: list[Column[GcItem, Terminal]] = [
        Column("name", "NAME", least=24, cell=lambda item, _: item.name),
        Column("why", "WHY", least=16, priority=1, cell=why),
        Column("origin", "ORIGIN", priority=2, cell=lambda item, _: item.origin),
        Column("used", "USED", right=True, priority=3, cell=used),
        Column("frees", "FREES", right=True, cell=lambda item, _: size_text(item.freed_bytes)),
    ]
    heading = [terminal.paint("FILES OF OTHER PROGRAMS", DIM)] if others else []
    return [*heading, *render_table(columns, part.items, terminal)]

"""The order and the columns of a page's table: chosen in menus, and kept between starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cyber_inference_tui.terminal.columns import Column, Order, RenderContext
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.widgets.live_table import LiveTable

Record = TypeVar("Record")


def ask_key(
    page: Page,
    titles: Mapping[str, str],
    chosen: str,
    then: Callable[[str], None],
    *,
    descending: bool,
) -> None:
    """Ask for one of the keys of ``titles``, and call ``then`` with it."""
    from cyber_inference_tui.tui.dialogs.sort_menu import SortMenu  # noqa: PLC0415 - on demand

    def answered(key: str | None) -> None:
        if key is not None:
            then(key)

    charset = page.cyber.options.charset
    page.app.push_screen(SortMenu(titles, chosen, descending=descending, charset=charset), answered)


def ask_order(
    page: Page,
    columns: Sequence[Column[Record, RenderContext]],
    order: Order[Record],
    sort: Callable[[Order[Record]], None],
) -> None:
    """Ask for a column, and call ``sort``; the column of ``order`` again reverses it."""
    by_key = {column.key: column for column in columns if column.value is not None}
    ask_key(
        page,
        {key: column.title for key, column in by_key.items()},
        order.column.key,
        lambda key: sort(order.by(by_key[key])),
        descending=order.descending,
    )


def kept_order(
    page: Page,
    columns: Sequence[Column[Record, RenderContext]],
    default: Order[Record],
    prefix: str = "",
) -> Order[Record]:
    """Return the order that was kept, or ``default``.

    A page with several tables keeps the order of each under names with a ``prefix``.
    """
    key = page.kept(f"{prefix}sort", default.column.key)
    column = next((one for one in columns if one.key == key and one.value is not None), None)
    if column is None:
        return default
    return Order(column, page.kept(f"{prefix}descending", default.descending))


def keep_order(page: Page, order: Order[Record], prefix: str = "") -> None:
    """Keep an order for the next start."""
    page.keep(**{f"{prefix}sort": order.column.key})
    page.keep(**{f"{prefix}descending": order.descending})


def ask_columns(page: Page, table: LiveTable) -> None:
    """Let a person choose the columns of ``table``, and keep them for the next start."""
    from cyber_inference_tui.tui.dialogs.column_menu import ColumnMenu  # noqa: PLC0415 - on demand

    def changed() -> None:
        page.keep(**{f"{table.id}_hidden": sorted(table.hidden_columns)})
        page.redraw()

    page.app.push_screen(ColumnMenu(table, changed, charset=page.cyber.options.charset))

"""The presets of a model on its page: one row for all that nobody uses, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.terminal.columns import RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.models.table import COLUMNS
from cyber_inference_tui.tui.snapshot import RemoteModel
from cyber_inference_tui.tui.widgets.live_table import row_of

if TYPE_CHECKING:
    from cyber_inference_tui.tui.pages.page import Page

_NEVER = datetime.min.replace(tzinfo=UTC)
_COLUMNS = tuple(
    column for column in COLUMNS if column.key in {"model", "state", "context", "used"}
)


def base_of(model: ModelRecord) -> str:
    """Return the id of the model whose preset this is, or its own."""
    if not model.preset_of:
        return model.id
    return f"{model.box}/{model.preset_of}" if isinstance(model, RemoteModel) else model.preset_of


def with_presets(model: ModelRecord, models: Iterable[ModelRecord]) -> list[ModelRecord]:
    """Return the model and its presets, or a preset with its model and the other presets."""
    return [one for one in models if base_of(one) == base_of(model)]


def last_used(alike: Sequence[ModelRecord]) -> ModelRecord:
    """Return the one of a model and its presets that was used last; else the model."""
    return max(alike, key=lambda one: (one.last_used_at or _NEVER, one.preset_of is None))


def without_unused(
    models: Iterable[ModelRecord], keep: Collection[str | None]
) -> list[ModelRecord]:
    """Return these models without unloaded presets, except those to ``keep``.

    If a model and all its presets are unloaded, the one that was used last stands for them.
    """
    groups: dict[str, list[ModelRecord]] = {}
    for model in models:
        groups.setdefault(base_of(model), []).append(model)
    shown: list[ModelRecord] = []
    for alike in groups.values():
        active = [one for one in alike if one.status is not ModelStatus.UNLOADED]
        stay = {one.id for one in active or [last_used(alike)]}
        shown += [one for one in alike if one.id in stay or one.id in keep]
    return shown


def ask_preset(
    page: Page,
    alike: Sequence[ModelRecord],
    context: RenderContext,
    then: Callable[[str], object],
) -> None:
    """Ask for one of a model and its presets, and call ``then`` with its id."""
    from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog  # noqa: PLC0415 - on demand

    def answered(chosen: str | None) -> None:
        if chosen is not None:
            then(chosen)

    title = f"Load a preset of {clean_line(base_of(alike[0]), limit=60)}"
    rows = [row_of(one.id, one, _COLUMNS, context) for one in alike]
    chosen = last_used(alike).id
    page.app.push_screen(
        ChoiceDialog(title, _COLUMNS, rows, chosen=chosen, charset=context.charset), answered
    )

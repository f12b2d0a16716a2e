"""A line for each box on the dashboard: its state, memory, GPU, power and loaded models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyber_inference_tui.records import ModelRecord, ModelStatus, ResourceSample
from cyber_inference_tui.records.peers import PeerRecord, PeerState
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.tui.pages.dashboard.memory_pools import beside
from cyber_inference_tui.tui.pages.models.table import HERE, name_cell
from cyber_inference_tui.tui.snapshot import EVERYWHERE, Snapshot, is_known, total_power
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import number_text, size_text

_SIGNS: dict[PeerState, ModelStatus] = {
    PeerState.CONNECTED: ModelStatus.LOADED,
    PeerState.STALE: ModelStatus.QUEUED,
    PeerState.RESTING: ModelStatus.UNLOADING,
    PeerState.REFUSED: ModelStatus.FAILED,
    PeerState.CLIENT: ModelStatus.UNLOADED,
}
_TONES: dict[PeerState, Tone] = {
    PeerState.CONNECTED: "good",
    PeerState.STALE: "busy",
    PeerState.RESTING: "busy",
    PeerState.REFUSED: "bad",
    PeerState.CLIENT: "dim",
}


@dataclass(frozen=True, slots=True)
class BoxLine:
    """A box: this one has no ``record``."""

    record: PeerRecord | None
    sample: ResourceSample | None
    loaded: Sequence[ModelRecord]


def box_state(state: PeerState, charset: Charset) -> Cell:
    """Return the state of a box as sign and word."""
    return Cell(f"{charset.status_sign(_SIGNS[state])} {state.value}", _TONES[state])


def _state_cell(line: BoxLine, context: RenderContext) -> Cell:
    if line.record is None:
        return Cell("")
    return box_state(line.record.state, context.charset)


def _share(used: int | None, total: int | None) -> str:
    """Return ``5.10 / 7.40 GiB``."""
    if used is None or total is None:
        return ""
    whole = size_text(total)
    return f"{beside(whole, used)} / {whole}"


def _memory_cell(line: BoxLine, _: RenderContext) -> Cell:
    memory = None if line.sample is None else line.sample.memory
    return Cell("" if memory is None else _share(memory.used, memory.total))


def _gpu_cell(line: BoxLine, _: RenderContext) -> Cell:
    """Return how busy the busiest GPU is."""
    gpus = () if line.sample is None else line.sample.gpus
    known = [gpu.utilization_percent for gpu in gpus if gpu.utilization_percent is not None]
    return Cell(f"GPU {number_text(max(known)):>3} %" if known else "")


def _gpu_memory_cell(line: BoxLine, _: RenderContext) -> Cell:
    """Return the memory of all GPUs that have their own."""
    gpus = () if line.sample is None else line.sample.gpus
    own = [gpu for gpu in gpus if not gpu.shared_memory and gpu.memory_total is not None]
    if not own:
        return Cell("")
    used = sum(gpu.memory_used or 0 for gpu in own)
    total = sum(gpu.memory_total or 0 for gpu in own)
    return Cell(_share(used, total))


def _power_cell(line: BoxLine, _: RenderContext) -> Cell:
    power = None if line.sample is None else total_power(line.sample)
    return Cell("" if power is None else number_text(power, decimals=1, unit="W"))


def _loaded_cell(line: BoxLine, context: RenderContext) -> Cell:
    """Return the loaded models, or why the box cannot be asked."""
    if line.record is not None and line.record.problem:
        return Cell(plain(line.record.problem), "dim")
    names = ", ".join(str(name_cell(model, context)) for model in line.loaded)
    return Cell(names or "nothing loaded", "none" if names else "dim")


COLUMNS: tuple[Column[BoxLine, RenderContext], ...] = (
    Column(
        "box",
        "BOX",
        11,
        cell=lambda line, _: HERE if line.record is None else line.record.name,
    ),
    Column("state", "STATE", 11, cell=_state_cell),
    Column("memory", "MEMORY", 15, right=True, priority=1, cell=_memory_cell),
    Column("gpu", "GPU", 9, right=True, priority=2, cell=_gpu_cell),
    Column("vram", "GPU MEMORY", 15, right=True, priority=4, cell=_gpu_memory_cell),
    Column("power", "POWER", 7, right=True, priority=3, cell=_power_cell),
    Column("loaded", "LOADED", least=12, cell=_loaded_cell),
)


def box_rows(snapshot: Snapshot, chosen: str, context: RenderContext, most: int) -> list[Row]:
    """Return at most ``most`` rows of this box and the others; those not ``chosen`` are dimmed."""
    if not snapshot.boxes:
        return []
    lines = [BoxLine(None, snapshot.sample, _loaded(snapshot.models))]
    lines += [
        BoxLine(box, box.sample if is_known(box) else None, _loaded(snapshot.models_of(box.name)))
        for box in snapshot.boxes
    ]
    rows = []
    for line in lines if len(lines) <= most else lines[: most - 1]:
        name = "" if line.record is None else line.record.name
        row = row_of(name, line, COLUMNS, context)
        if chosen not in {EVERYWHERE, name}:
            cells = (cell.text if isinstance(cell, Cell) else cell for cell in row.cells)
            row = Row(name, tuple(cells), "dim")
        rows.append(row)
    if more := len(lines) - len(rows):
        rows.append(Row("more", (Cell(f"and {more} more", "dim"),)))
    return rows


def _loaded(models: Sequence[ModelRecord]) -> list[ModelRecord]:
    return [model for model in models if model.status is ModelStatus.LOADED]

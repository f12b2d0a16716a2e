"""Writes the measured rows as Markdown tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

HAND = "by hand"
DIRECT = "direct"
NGINX = "nginx"
OURS = "this service"
OTHER = "other checkout"
SWAP = "llama-swap"
STASH = "LlamaStash"
ROUTER = "llama-server's router"

COMPARED = (OURS, OTHER, SWAP, STASH, ROUTER)
"""The programs that do the service's work; the others are what they are measured against."""
_PEERS = (SWAP, STASH, ROUTER)
_ORDER = (HAND, DIRECT, NGINX, *COMPARED)
_NONE = "-"


class Row(msgspec.Struct, frozen=True):
    """One thing that was measured, by column: the targets or, of growth, the sizes."""

    group: str
    what: str
    unit: str
    rounds: dict[str, list[float]]
    """Each round's value; the medians are what counts."""
    less_is_better: bool = True
    charted: bool = False

    @property
    def title(self) -> str:
        """Return what was measured, with its unit."""
        return f"{self.what}, {self.unit}" if self.unit else self.what

    @property
    def values(self) -> dict[str, float]:
        """Return the medians."""
        return {name: statistics.median(found) for name, found in self.rounds.items() if found}

    @property
    def best(self) -> float | None:
        """Return the best value of the programs that are compared."""
        return self._best_of(COMPARED)

    @property
    def best_peer(self) -> float | None:
        """Return the best value of the other programs."""
        return self._best_of(_PEERS)

    def _best_of(self, names: Iterable[str]) -> float | None:
        values = self.values
        found = [values[name] for name in names if name in values]
        return (min if self.less_is_better else max)(found) if found else None


def markdown(rows: Sequence[Row]) -> str:
    """Return a table for each group."""
    groups = dict.fromkeys(row.group for row in rows)
    return "\n\n".join(_table(group, [r for r in rows if r.group == group]) for group in groups)


def _table(group: str, rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row.rounds))
    grows = OURS not in columns
    if not grows:
        columns.sort(key=_ORDER.index)
    more = ["last ÷ first"] if grows else ["÷ nginx", "÷ best peer"]
    lines = [f"| {' | '.join([group, *columns, *more])} |", f"|---{'|---:' * len(columns + more)}|"]
    for row in rows:
        values = row.values
        cells = [row.title + ("" if row.less_is_better else " (more is better)")]
        for name in columns:
            cell = shown(values[name]) if name in values else _NONE
            is_best = not grows and name in COMPARED and values.get(name) == row.best
            cells.append(f"**{cell}**" if is_best else cell)
        if grows:
            cells.append(ratio(values.get(columns[-1]), values.get(columns[0])))
        else:
            cells.append(ratio(values.get(OURS), values.get(NGINX)))
            cells.append(ratio(values.get(OURS), row.best_peer))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(value: float) -> str:
    """Return a number with three digits, as far as it needs them."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.095 else 3
    return f"{value:.{digits}f}"


def ratio(value: float | None, base: float | None) -> str:
    """Return their ratio; there is none to what is missing, zero or, by noise, below it."""
    return _NONE if value is None or base is None or base <= 0 else f"{value / base:.2f}"


def as_json(rows: Sequence[Row], machine: str) -> bytes:
    """Return the rows with their medians and the values of all rounds."""
    found = [{**msgspec.structs.asdict(row), "values": row.values} for row in rows]
    return msgspec.json.format(msgspec.json.encode({"machine": machine, "rows": found}), indent=1)

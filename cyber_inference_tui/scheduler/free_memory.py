"""Works out the memory that is free for another model, from a reading of the machine. Pure.

There are two amounts: main memory, and the memory of cards, summed over all of them because
llama-server spreads a model over all cards. Machines without a GPU, and those whose GPU has no
memory of its own (Jetson), have only the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.monitor.memory_reading import GpuMemory, MemoryReading, ProcessMemory
from cyber_inference_tui.units import size_text

FLOOR_SHARE = 0.05
FLOOR_BYTES = 500_000_000
"""Less available memory than this is a shortage: 5 % or 500 MB, the larger of the two, but at most
10 % of the memory of a small machine."""
_FLOOR_MOST_SHARE = 0.10
_DRIVER_BYTES = 256 << 20
_SLACK_SHARE = 0.25
_SLACK_BYTES = 256 << 20
_RUNAWAY_FACTOR = 1.5
_RUNAWAY_BYTES = 1 << 30


class Amount(msgspec.Struct, frozen=True):
    """Bytes of main memory (``host``) and of the memory of cards (``device``)."""

    host: int = 0
    device: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.host + other.host, self.device + other.device)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.host - other.host, self.device - other.device)

    def covers(self, other: Amount) -> bool:
        """Return whether ``other`` fits; an amount of which it needs nothing may be negative."""
        return (other.host <= 0 or other.host <= self.host) and (
            other.device <= 0 or other.device <= self.device
        )


class OwnCards(msgspec.Struct, frozen=True, kw_only=True):
    """The cards that a ``CUDA_VISIBLE_DEVICES`` in the table of a model selects."""

    free: int
    """Bytes that are free under the limit."""
    has_any: bool
    shares: Mapping[str | None, float]
    """By the variable of other models (``None`` = without one): the share of their card memory that
    is on these cards. llama-server spreads a model over its cards by their size."""


class FreeMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that is free for models at one moment."""

    at: float
    """The time of the reading, in seconds of the scheduler's clock."""
    free: Amount | None
    """The rest under the limits, negative if they are exceeded; ``None`` = unknown, so nothing is
    refused."""
    cards: bool = False
    """True if there are GPUs with memory of their own."""
    own_cards: Mapping[str, OwnCards] = {}
    """By the value of the variable; ``free`` and ``cards`` are for models without it."""
    general_shares: Mapping[str, float] = {}
    """As ``OwnCards.shares``, for the cards in ``free``."""
    short: bool = False
    """True if so little is available that idle models should be unloaded."""
    spare: int = 0
    """The bytes of main memory that other programs can take before it is ``short``."""

    def free_for(self, visible: str | None) -> Amount | None:
        """Return the free memory for a model with this ``CUDA_VISIBLE_DEVICES`` of its own."""
        own = None if visible is None else self.own_cards.get(visible)
        if own is None or self.free is None:
            return self.free
        return Amount(self.free.host, own.free)

    def cards_for(self, visible: str | None) -> bool:
        """Return whether such a model sees cards with memory of their own."""
        own = None if visible is None else self.own_cards.get(visible)
        return self.cards if own is None else own.has_any

    def plus(self, amount: Amount, visible: str | None) -> FreeMemory:
        """Return the memory after such a model has freed ``amount``; negative = allocated it."""
        if self.free is None:
            return self
        general = 1.0 if visible is None else self.general_shares.get(visible, 1.0)
        return msgspec.structs.replace(
            self,
            free=self.free + Amount(amount.host, int(amount.device * general)),
            own_cards={
                variable: msgspec.structs.replace(
                    own, free=own.free + int(amount.device * own.shares.get(visible, 1.0))
                )
                for variable, own in self.own_cards.items()
            },
        )


class UsedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that one server uses."""

    unseen: Amount
    """The part that a reading of the machine still shows as available."""
    freed_on_unload: Amount
    """The memory that becomes free when it ends."""


def used_memory(footprint: Footprint, process: ProcessMemory | None, *, cards: bool) -> UsedMemory:
    """Return the memory that the server of a loaded model uses.

    The kernel counts mapped weights as available unless they are locked, and does not count buffers
    before their first use; both belong to the model. Memory beyond the footprint (a prompt cache
    that grew) becomes free at the end, too.
    """
    private = process.private if process else 0
    droppable = max(0, footprint.mapped - (process.locked if process else 0))
    grown = max(footprint.host, private)
    unseen = droppable + (max(0, footprint.host - private) if process else 0)
    back = footprint.mapped + grown
    if cards:
        return UsedMemory(unseen=Amount(unseen), freed_on_unload=Amount(back, footprint.device))
    return UsedMemory(unseen=Amount(unseen), freed_on_unload=Amount(back + footprint.device))


def free_memory(
    reading: MemoryReading,
    used: Iterable[UsedMemory],
    *,
    at: float,
    max_percent: float,
    max_gpu_percent: float,
) -> FreeMemory:
    """Return the memory that is free under the limits, in percent of main memory and of each card.

    ``used`` is the memory of the loaded models.
    """
    available = reading.available - sum(one.unseen.host for one in used)
    may_be_used = int(reading.total * max_percent / 100)
    host = may_be_used - (reading.total - available)
    device = sum(max(0, _free_on_card(gpu, max_gpu_percent)) for gpu in reading.gpus)
    # For a user who allows 98 %, less than 5 % is not a shortage.
    floor = min(
        max(FLOOR_SHARE * reading.total, min(FLOOR_BYTES, _FLOOR_MOST_SHARE * reading.total)),
        reading.total - may_be_used,
    )
    seen: dict[str | None, tuple[GpuMemory, ...]] = {None: reading.gpus}
    seen.update(reading.gpus_by_variable)
    return FreeMemory(
        at=at,
        free=Amount(host, device),
        cards=bool(reading.gpus),
        own_cards={
            variable: OwnCards(
                free=sum(max(0, _free_on_card(gpu, max_gpu_percent)) for gpu in gpus),
                has_any=bool(gpus),
                shares={other: _share(cards, gpus) for other, cards in seen.items()},
            )
            for variable, gpus in reading.gpus_by_variable.items()
        },
        general_shares={
            variable: _share(gpus, reading.gpus)
            for variable, gpus in reading.gpus_by_variable.items()
        },
        short=available < floor,
        spare=max(0, int(available - floor)),
    )


def _share(cards: tuple[GpuMemory, ...], among: tuple[GpuMemory, ...]) -> float:
    """Return the share of the memory of ``cards`` that is on cards in ``among``."""
    there = {gpu.uuid for gpu in among}
    total = sum(gpu.total for gpu in cards)
    return sum(gpu.total for gpu in cards if gpu.uuid in there) / total if total else 0.0


def _free_on_card(gpu: GpuMemory, max_percent: float) -> int:
    return int(gpu.total * max_percent / 100) - (gpu.total - gpu.free)


def needed_amount(need: Need, *, cards: bool, device_at_most: int) -> Amount:
    """Return the memory that a model needs; ``device_at_most`` is the largest amount for cards.

    If its layers may be anywhere, those that do not fit on the cards need main memory.
    """
    footprint = need.footprint
    host = footprint.mapped + footprint.host
    if not cards:
        return Amount(host + footprint.device)
    device = footprint.device
    if need.spills:
        device = min(device, max(0, device_at_most))
    return Amount(host + footprint.device - device, device)


class Excess(msgspec.Struct, frozen=True, kw_only=True):
    """The main memory that a loading server uses beyond its need, in bytes."""

    taken: int
    expected: int | None
    """``None`` = unknown."""
    used_percent: float
    """The share of main memory that all programs use."""
    beyond_limit: bool
    """The limit is exceeded, and would not be without the excess."""
    runaway: bool
    """The load must be ended."""


def excess_of(
    need: Need, taken: int, reading: MemoryReading, *, max_percent: float
) -> Excess | None:
    """Return the excess of a load that uses more than it needs; ``None`` = it does not.

    ``taken`` is the anonymous and shared memory of its processes, without file pages, which the
    kernel can drop. A load is a runaway if it uses more than 1.5 times its need plus 1 GiB, or if
    more than ``max_percent`` of the memory is used and would not be without the excess, which must
    be larger than the error of an estimate.
    """
    known = need.source is not NeedSource.UNKNOWN
    expected = needed_amount(
        need, cards=bool(reading.gpus), device_at_most=sum(gpu.free for gpu in reading.gpus)
    ).host
    beyond = taken - expected
    if beyond <= (slack(expected) if known else 0):
        return None
    in_use = max(reading.total - reading.available, taken)
    beyond_limit = 0 < in_use - int(reading.total * max_percent / 100) <= beyond
    return Excess(
        taken=taken,
        expected=expected if known else None,
        used_percent=100 * in_use / reading.total,
        beyond_limit=beyond_limit,
        runaway=beyond_limit or (known and taken > _RUNAWAY_FACTOR * expected + _RUNAWAY_BYTES),
    )


def slack(size: int) -> int:
    """Return the possible error of an estimate of this many bytes."""
    return max(int(size * _SLACK_SHARE), _SLACK_BYTES)


def in_words(amount: Amount, *, cards: bool) -> str:
    """Return ``3.10 GiB``, or with cards ``410 MiB and 3.10 GiB of GPU memory``."""
    host = size_text(max(0, amount.host))
    return f"{host} and {size_text(max(0, amount.device))} of GPU memory" if cards else host


def footprint_by_change(
    before: MemoryReading | None, after: MemoryReading, pid: int
) -> Footprint | None:
    """Return the memory of a server that does not report it: that of its processes, and the loss
    of free memory on the cards since before the load. ``None`` = unknown.

    Without cards, the driver of a GPU may have allocated main memory that the kernel counts for no
    process. It counts as the loss of available memory, if this is far larger than the memory of the
    processes. A small difference comes from other programs.
    """
    process = after.processes.get(pid)
    if process is None:
        return None
    device = 0
    if before is not None and after.gpus:
        free_before = sum(gpu.free for gpu in before.gpus)
        device = max(0, free_before - sum(gpu.free for gpu in after.gpus))
    elif before is not None:
        missing = before.available - after.available - process.private
        device = missing if missing > _DRIVER_BYTES + process.private // 2 else 0
    return Footprint(mapped=process.mapped, host=process.private, device=device)

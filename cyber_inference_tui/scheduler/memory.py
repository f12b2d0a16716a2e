"""How much room there is for another model: a reading of the machine, told as two amounts.

Pure: readings and footprints in, amounts out. Main memory is what matters on machines without a
GPU and on those whose GPU has no memory of its own (Jetson); cards add a second amount, summed over
the cards, because llama-server spreads a model over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.monitor.memory_reading import GpuMemory, MemoryReading, ProcessMemory
from cyber_inference_tui.units import size_text

FLOOR_SHARE = 0.05
FLOOR_BYTES = 500_000_000
"""Less available memory than this is a shortage: 5 % or 500 MB, whichever is more, though never
more than 10 % of a small machine."""
_FLOOR_MOST_SHARE = 0.10
_DRIVER_BYTES = 256 << 20
_SLACK_SHARE = 0.25
_SLACK_BYTES = 256 << 20
_RUNAWAY_FACTOR = 1.5
_RUNAWAY_BYTES = 1 << 30


class Amount(msgspec.Struct, frozen=True):
    """Bytes of main memory, and of the cards' own (0 where there are none)."""

    host: int = 0
    device: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.host + other.host, self.device + other.device)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.host - other.host, self.device - other.device)

    def holds(self, other: Amount) -> bool:
        """Whether ``other`` finds room in it; what is not needed may be overdrawn."""
        return (other.host <= 0 or other.host <= self.host) and (
            other.device <= 0 or other.device <= self.device
        )


class OwnCards(msgspec.Struct, frozen=True, kw_only=True):
    """The cards that models with a ``CUDA_VISIBLE_DEVICES`` of their own see."""

    room: int
    """Bytes of them that may still be taken under the limit."""
    has_any: bool
    shares: Mapping[str | None, float]
    """By the variable of another model (``None`` = it has none): the part of what that one has on
    its cards that lies on these. By size, as llama-server spreads a model over its cards."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's memory at one moment, as the policy sees it."""

    at: float
    """When it was read, in seconds of the scheduler's clock."""
    room: Amount | None
    """What may still be taken under the limits, negative where they are passed already; ``None``
    = the machine does not tell, so that nothing is refused for it."""
    cards: bool = False
    """There are GPUs with memory of their own."""
    own_cards: Mapping[str, OwnCards] = {}
    """By the variable of the models that see them. ``room`` and ``cards`` are for all others."""
    general_shares: Mapping[str, float] = {}
    """As ``OwnCards.shares``, for the cards in ``room``."""
    short: bool = False
    """So little is left that idle models should go before anything else does."""

    def room_for(self, visible: str | None) -> Amount | None:
        """The room for a model with this ``CUDA_VISIBLE_DEVICES`` of its own."""
        own = None if visible is None else self.own_cards.get(visible)
        if own is None or self.room is None:
            return self.room
        return Amount(self.room.host, own.room)

    def cards_for(self, visible: str | None) -> bool:
        """Whether such a model sees cards with memory of their own."""
        own = None if visible is None else self.own_cards.get(visible)
        return self.cards if own is None else own.has_any

    def with_more(self, amount: Amount, visible: str | None) -> Memory:
        """The same when such a model gives ``amount`` back (less than nothing = takes it)."""
        if self.room is None:
            return self
        general = 1.0 if visible is None else self.general_shares.get(visible, 1.0)
        return msgspec.structs.replace(
            self,
            room=self.room + Amount(amount.host, int(amount.device * general)),
            own_cards={
                variable: msgspec.structs.replace(
                    own, room=own.room + int(amount.device * own.shares.get(visible, 1.0))
                )
                for variable, own in self.own_cards.items()
            },
        )


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One server's part of the memory."""

    unseen: Amount
    """What it holds or is about to hold and the machine's reading does not show as taken."""
    gives: Amount
    """What its end brings back."""


def held_by(footprint: Footprint, process: ProcessMemory | None, *, cards: bool) -> Held:
    """What a loaded model's server holds.

    The kernel counts mapped weights as available unless they are locked, and buffers that were
    not touched yet are not taken yet; both belong to the model. What it took beyond its footprint
    (a prompt cache that grew) comes back with it, too.
    """
    private = process.private if process else 0
    droppable = max(0, footprint.mapped - (process.locked if process else 0))
    grown = max(footprint.host, private)
    unseen = droppable + (max(0, footprint.host - private) if process else 0)
    back = footprint.mapped + grown
    if cards:
        return Held(unseen=Amount(unseen), gives=Amount(back, footprint.device))
    return Held(unseen=Amount(unseen), gives=Amount(back + footprint.device))


def memory_of(
    reading: MemoryReading,
    held: Iterable[Held],
    *,
    at: float,
    max_percent: float,
    max_gpu_percent: float,
) -> Memory:
    """What a reading means under the limits (percent of main memory, and of each card's)."""
    available = reading.available - sum(one.unseen.host for one in held)
    may_be_used = int(reading.total * max_percent / 100)
    host = may_be_used - (reading.total - available)
    device = sum(max(0, _card_room(gpu, max_gpu_percent)) for gpu in reading.gpus)
    # A person who allows 98 % does not mean that the last 5 % are a shortage.
    floor = min(
        max(FLOOR_SHARE * reading.total, min(FLOOR_BYTES, _FLOOR_MOST_SHARE * reading.total)),
        reading.total - may_be_used,
    )
    seen: dict[str | None, tuple[GpuMemory, ...]] = {None: reading.gpus}
    seen.update(reading.gpus_by_variable)
    return Memory(
        at=at,
        room=Amount(host, device),
        cards=bool(reading.gpus),
        own_cards={
            variable: OwnCards(
                room=sum(max(0, _card_room(gpu, max_gpu_percent)) for gpu in gpus),
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
    )


def _share(cards: tuple[GpuMemory, ...], among: tuple[GpuMemory, ...]) -> float:
    """The part of what lies on ``cards`` that lies on those that are ``among``, too."""
    there = {gpu.uuid for gpu in among}
    total = sum(gpu.total for gpu in cards)
    return sum(gpu.total for gpu in cards if gpu.uuid in there) / total if total else 0.0


def _card_room(gpu: GpuMemory, max_percent: float) -> int:
    return int(gpu.total * max_percent / 100) - (gpu.total - gpu.free)


def amount_of(need: Need, *, cards: bool, device_at_most: int) -> Amount:
    """What a model will take. ``device_at_most`` = what the cards could hold at best.

    A model whose layers may lie anywhere takes main memory for those that no card can hold.
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
    """What a server that is still loading took beyond what was expected; bytes of main memory."""

    taken: int
    expected: int | None
    """``None`` = nothing is known of it."""
    used_percent: float
    """Of the main memory, by all programs."""
    beyond_limit: bool
    """More is used than may be, and would not be without what it took beyond the expected."""
    runaway: bool
    """The load has to end."""


def excess_of(
    need: Need, taken: int, reading: MemoryReading, *, max_percent: float
) -> Excess | None:
    """Whether a load takes more than it should; ``None`` while it does not.

    ``taken`` is the anonymous and shared memory of its processes: file pages do not count, since
    the kernel can drop them. It is a runaway at 1.5 times the expected amount and 1 GiB more; or
    when more than ``max_percent`` of the memory is used, and would not be without what it took
    beyond the expected amount (and beyond what an estimate may be wrong by).
    """
    known = need.source is not NeedSource.UNKNOWN
    expected = amount_of(
        need, cards=bool(reading.gpus), device_at_most=sum(gpu.free for gpu in reading.gpus)
    ).host
    beyond = taken - expected
    if beyond <= (slack(expected) if known else 0):
        return None
    used = max(reading.total - reading.available, taken)
    beyond_limit = 0 < used - int(reading.total * max_percent / 100) <= beyond
    return Excess(
        taken=taken,
        expected=expected if known else None,
        used_percent=100 * used / reading.total,
        beyond_limit=beyond_limit,
        runaway=beyond_limit or (known and taken > _RUNAWAY_FACTOR * expected + _RUNAWAY_BYTES),
    )


def slack(size: int) -> int:
    """What a size of this many bytes may be wrong by."""
    return max(int(size * _SLACK_SHARE), _SLACK_BYTES)


def in_words(amount: Amount, *, cards: bool) -> str:
    """An amount for a person: ``3.1 GiB``, with cards ``0.4 GiB and 3.1 GiB of GPU memory``."""
    host = size_text(max(0, amount.host))
    return f"{host} and {size_text(max(0, amount.device))} of GPU memory" if cards else host


def footprint_by_change(
    before: MemoryReading | None, after: MemoryReading, pid: int
) -> Footprint | None:
    """What a server took that does not say so itself: its processes' memory, and what is missing
    on the cards since the reading before its load. ``None`` = it cannot be told.

    Without cards the driver of a GPU may have taken memory that is in none of the process's
    figures: what is missing since before the load tells, if it is far more than those; a little
    more is the work of other programs.
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

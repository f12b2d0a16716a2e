"""Decides where a request runs. A pure function: figures in, an order out.

The cost of a box is the wait that it expects for a new request, in seconds. A load that would
unload another model costs more, and the box that has read the beginning of this conversation costs
less. A box that splits the model over two is the last. This box wins a tie.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cyber_inference_tui.records.models import Fit, ModelRecord, ModelStatus

HERE = ""
"""The name of this box."""
_EVICTION = 20.0
"""Seconds that an eviction costs: somebody will have to load the other model again."""
_WARM = 5.0
"""Seconds that a box gains if its cache has the conversation."""
_SPLIT = 60.0
"""Seconds that a model across two boxes costs: each token passes through both."""
_HOP = 0.005
"""Seconds that a request to another box takes longer."""
_BYTES_PER_SECOND = 300e6
"""The speed of a load that nobody has measured yet: that of a slow SSD."""
_TURN = 5.0
"""Seconds until a slot becomes free, where nobody knows better."""


class Home(NamedTuple):
    """A box that has the model."""

    box: str
    """Its name; empty for this box."""
    record: ModelRecord
    """The model there."""
    sent: int = 0
    """Requests for it that this box has sent there and that are not answered."""
    warm: bool = False
    """Whether it has answered this conversation last."""


def order(homes: Iterable[Home]) -> list[Home]:
    """Return the boxes that can answer, the best first."""
    able = [home for home in homes if can_answer(home.record)]
    return sorted(able, key=lambda home: (cost(home), home.box != HERE, home.box))


def can_answer(record: ModelRecord) -> bool:
    """Return whether a box could answer with this model."""
    return not record.unreadable and record.fits is not Fit.NEVER


def cost(home: Home) -> float:
    """Return the cost of a box in seconds."""
    record = home.record
    seconds = _wait(record, home.sent)
    if record.status in _NOT_IN_MEMORY and record.fits is Fit.AFTER_UNLOADING:
        seconds += _EVICTION
    if record.split:
        seconds += _SPLIT
    if home.warm:
        seconds -= _WARM
    return seconds + (_HOP if home.box != HERE else 0.0)


_NOT_IN_MEMORY = frozenset(
    {ModelStatus.UNLOADED, ModelStatus.FAILED, ModelStatus.UNLOADING, ModelStatus.QUEUED}
)


def _wait(record: ModelRecord, sent: int) -> float:
    slots, told = record.slots or 1, record.in_flight + record.queued
    # Its figures are a moment old: what this box has sent meanwhile counts, too.
    more = max(0, sent - told)
    expected = record.expected_wait_seconds
    if record.status is ModelStatus.LOADED:
        if told + more < slots:
            return 0.0
        if not expected:
            return _TURN * (told + more) / slots
        return expected * (record.queued + 1 + more) / (record.queued + 1)
    if expected is None:
        expected = (record.size_bytes or 0) / _BYTES_PER_SECOND
    return expected + _TURN * ((told + more) // slots - told // slots)

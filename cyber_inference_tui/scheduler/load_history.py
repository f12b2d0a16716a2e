"""What earlier loads taught: how much memory models took, and how long they needed.

Kept by signature (model and arguments), so that a changed context size begins anew; bounded, the
oldest go first. Whoever keeps it over restarts feeds it with ``learn`` and listens to ``on_new``.
"""

from __future__ import annotations

from collections.abc import Callable

from cyber_inference_tui.llama.needs import Footprint, Measurement

_KEPT = 2_000
_NEWEST_WEIGHS = 0.5


class LoadHistory:
    """All measurements; ``on_new`` is told each one that was made in this run."""

    def __init__(self, on_new: Callable[[Measurement], None] = lambda _: None) -> None:
        self._measurements: dict[str, Measurement] = {}
        self._bytes_per_second: float | None = None
        self._on_new = on_new

    def recall(self, measurement: Measurement) -> None:
        """Take a measurement of a former run, the oldest first."""
        self._measurements.pop(measurement.signature, None)
        self._measurements[measurement.signature] = measurement
        while len(self._measurements) > _KEPT:
            del self._measurements[next(iter(self._measurements))]
        if measurement.size_bytes and measurement.load_seconds > 0:
            speed = measurement.size_bytes / measurement.load_seconds
            former = self._bytes_per_second or speed
            self._bytes_per_second = former + (speed - former) * _NEWEST_WEIGHS

    def learn(self, measurement: Measurement) -> None:
        """A load has just ended well."""
        self.recall(measurement)
        self._on_new(measurement)

    def footprint(self, signature: str) -> Footprint | None:
        """What a model took, started with the same arguments."""
        measurement = self._measurements.get(signature)
        return measurement.footprint if measurement else None

    def load_seconds(self, signature: str, size_bytes: int | None) -> float | None:
        """How long its load will take: as the last time, else by its size and others' speed."""
        measurement = self._measurements.get(signature)
        if measurement is not None:
            return measurement.load_seconds
        if size_bytes is None or self._bytes_per_second is None:
            return None
        return size_bytes / self._bytes_per_second

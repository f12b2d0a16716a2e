"""Keeps the memory and the duration of past loads, to predict the next ones.

The key is the signature of the specification, so a load with another context size is a new one. The
number of entries is limited. The service keeps them over restarts.
"""

from __future__ import annotations

from collections.abc import Callable

from cyber_inference_tui.llama.needs import Footprint, Measurement

_KEPT = 2_000
_NEWEST_WEIGHS = 0.5


class LoadHistory:
    """All measurements; ``on_new`` is called with each new one of this run."""

    def __init__(self, on_new: Callable[[Measurement], None] = lambda _: None) -> None:
        self._measurements: dict[str, Measurement] = {}
        self._bytes_per_second: float | None = None
        self._on_new = on_new

    def recall(self, measurement: Measurement) -> None:
        """Add a measurement of a former run; the oldest come first."""
        self._measurements.pop(measurement.signature, None)
        self._measurements[measurement.signature] = measurement
        while len(self._measurements) > _KEPT:
            del self._measurements[next(iter(self._measurements))]
        if measurement.size_bytes and measurement.load_seconds > 0:
            speed = measurement.size_bytes / measurement.load_seconds
            former = self._bytes_per_second or speed
            self._bytes_per_second = former + (speed - former) * _NEWEST_WEIGHS

    def learn(self, measurement: Measurement) -> None:
        """Add the measurement of a load that has just ended."""
        self.recall(measurement)
        self._on_new(measurement)

    def footprint(self, signature: str) -> Footprint | None:
        """Return the memory that a model with this signature used; ``None`` = never measured."""
        measurement = self._measurements.get(signature)
        return measurement.footprint if measurement else None

    def load_seconds(self, signature: str, size_bytes: int | None) -> float | None:
        """Return the seconds of the last load, else an estimate from the size and the speed of
        other loads; ``None`` = unknown."""
        measurement = self._measurements.get(signature)
        if measurement is not None:
            return measurement.load_seconds
        if size_bytes is None or self._bytes_per_second is None:
            return None
        return size_bytes / self._bytes_per_second

"""Reads the memory that a server has allocated from the buffer lines of its log.

llama-server prints a line for each buffer that it allocates. The name of the buffer type gives its
place (sources: ``load_tensors``, ``llama_kv_cache``, ``llama_memory_recurrent``, ``sched_reserve``
in llama.cpp's ``src``, and ``tools/mtmd/clip.cpp`` for the projector)::

    0.00.024.243 I load_tensors:   CPU_Mapped model buffer size =     1.08 MiB
    0.00.024.565 I llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB

A server with ``--fit`` tries the load without memory first. It may print the same lines for that
trial, with 0.00 MiB for the weights and the KV cache.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from cyber_inference_tui.llama.needs import Footprint

_MIB = 1 << 20
_MOST_LINES = 2000
"""Buffer lines kept; a server with many devices and draft models prints some dozens."""

_BUFFER = re.compile(
    r":\s+(?P<where>\S+)\s+(?P<kind>(?:\S+ )*?)(?:buffer|cache) size\s*=\s*(?P<mib>\d+\.\d+) MiB"
)
_NEW_CONTEXT = re.compile(r"constructing llama_context|llama_new_context_with_model: n_ctx ")
_PROJECTOR_BACKEND = re.compile(r"CLIP using (\S+) backend")
_PROJECTOR_SIZE = re.compile(r"(?:load_hparams|clip\w*): model size:\s*(\d+\.\d+) MiB")
# llama-server also loads the projector without memory first, to estimate its size.
_PROJECTOR_TRIED = re.compile(r"\[mtmd\] (?:estimated|failed to get memory usage)")
_RULES = (_BUFFER, _NEW_CONTEXT, _PROJECTOR_BACKEND, _PROJECTOR_SIZE, _PROJECTOR_TRIED)
_WORDS = ("size", "CLIP", "context")

_MAPPED = re.compile(r"_Mapped$")
# The CPU's own buffer types (CPU_REPACK, CPU_AARCH64 …), libraries that compute on the CPU, and
# buffers in main memory that a GPU's driver allocates (CUDA_Host, Vulkan_Host …).
_REMOTE = re.compile(r"^RPC\d")
"""Memory of another box."""
_HOST = re.compile(r"^(CPU|AMX|BLAS|Accelerate|ZenDNN)|(^|_)Host$", re.IGNORECASE)


def is_host(name: str) -> bool:
    """Return whether a buffer type or device with this name is in main memory."""
    return _HOST.search(name) is not None


class FootprintReader:
    """Collects the relevant lines of a server's log, and parses them on demand."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)

    def add(self, lines: Iterable[str]) -> None:
        """Add the next lines of the log."""
        for line in lines:
            # Search for a word first: most lines of a verbose server contain none.
            if any(word in line for word in _WORDS) and any(rule.search(line) for rule in _RULES):
                self._lines.append(line)

    def read(self) -> Footprint | None:
        """Parse the lines so far."""
        return read_footprint(self._lines)


def read_footprint(lines: Iterable[str]) -> Footprint | None:
    """Add up the buffers of a load; return ``None`` if the lines mention none.

    Trials without memory do not count. A server may have several loads: a draft model is loaded
    like any other.
    """
    loads: list[_Load] = []
    projectors: list[_Projector] = []
    now: _Load | _Projector | None = None
    for line in lines:
        if found := _PROJECTOR_BACKEND.search(line):
            if not isinstance(now, _Projector) or now.backend is not None:
                now = _Projector()
                projectors.append(now)
            now.backend = found[1]
        elif found := _PROJECTOR_SIZE.search(line):
            if not isinstance(now, _Projector) or now.weights is not None:
                now = _Projector()
                projectors.append(now)
            now.weights = _bytes(found[1])
        elif _PROJECTOR_TRIED.search(line):
            projectors.clear()
            now = None
        elif _NEW_CONTEXT.search(line):
            if loads:
                now = loads[-1]
                now.next_context()
        elif found := _BUFFER.search(line):
            where, kind, size = found["where"], found["kind"].strip() or "model", found["mib"]
            if kind == "model" and not (isinstance(now, _Load) and now.weights_only):
                now = _Load()
                loads.append(now)
            elif now is None:
                # The first lines are missing: count the rest.
                now = _Load()
                loads.append(now)
            now.take(where, kind, _bytes(size))
    buffers = [buffer for load in loads if not load.dry for buffer in load.buffers()]
    for number, projector in enumerate(projectors):
        # A projector for images and audio prints the size of its file once for each.
        shared = number > 0 and projectors[number - 1].weights == projector.weights
        buffers += projector.buffers(with_weights=not shared)
    if not any(size for _, size in buffers):
        return None
    buffers = [buffer for buffer in buffers if not _REMOTE.match(buffer[0])]
    allocated = [buffer for buffer in buffers if not _MAPPED.search(buffer[0])]
    return Footprint(
        mapped=sum(size for where, size in buffers if _MAPPED.search(where)),
        host=sum(size for where, size in allocated if is_host(where)),
        device=sum(size for where, size in allocated if not is_host(where)),
    )


class _Load:
    """A model's weights and the contexts made for it."""

    def __init__(self) -> None:
        self.weights: list[tuple[str, int]] = []
        self.others: list[tuple[str, int]] = []
        self.compute: dict[tuple[int, str], int] = {}
        self.context = 0

    @property
    def weights_only(self) -> bool:
        """True while only weights have been allocated."""
        return not self.others and not self.compute

    @property
    def dry(self) -> bool:
        """True for a trial without memory."""
        return bool(self.weights) and not any(size for _, size in self.weights)

    def next_context(self) -> None:
        self.context += 1

    def take(self, where: str, kind: str, size: int) -> None:
        if kind == "model":
            self.weights.append((where, size))
        elif kind == "compute":
            # A context may reserve its buffer again, in place of the first one.
            self.compute[self.context, where] = size
        else:
            self.others.append((where, size))

    def buffers(self) -> list[tuple[str, int]]:
        compute = [(where, size) for (_, where), size in self.compute.items()]
        return [*self.weights, *self.others, *compute]


class _Projector:
    """A projector's weights and compute buffers."""

    def __init__(self) -> None:
        self.backend: str | None = None
        self.weights: int | None = None
        self.compute: dict[str, int] = {}

    def take(self, where: str, kind: str, size: int) -> None:
        self.compute[where] = size

    def buffers(self, *, with_weights: bool) -> list[tuple[str, int]]:
        weights = [(self.backend or "CPU", self.weights or 0)] if with_weights else []
        return [*weights, *self.compute.items()]


def _bytes(mib: str) -> int:
    return round(float(mib) * _MIB)

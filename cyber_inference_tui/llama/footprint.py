"""What a server says it has taken: its log's buffer lines, read into a ``Footprint``.

llama-server prints one line for each buffer that it allocates, with the buffer type's name, which
tells where it lies (sources: ``load_tensors``, ``llama_kv_cache``, ``llama_memory_recurrent``,
``sched_reserve`` in llama.cpp's ``src``, and ``tools/mtmd/clip.cpp`` for the projector)::

    0.00.024.243 I load_tensors:   CPU_Mapped model buffer size =     1.08 MiB
    0.00.024.565 I llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB

A server with ``--fit`` tries the load without memory first and may print the same lines for that,
those of the weights and the KV cache with 0.00 MiB.
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
# llama-server loads the projector without memory, too, to learn what it would take.
_PROJECTOR_TRIED = re.compile(r"\[mtmd\] (?:estimated|failed to get memory usage)")
_RULES = (_BUFFER, _NEW_CONTEXT, _PROJECTOR_BACKEND, _PROJECTOR_SIZE, _PROJECTOR_TRIED)
_WORDS = ("size", "CLIP", "context")

_MAPPED = re.compile(r"_Mapped$")
# The CPU's own buffer types (CPU_REPACK, CPU_AARCH64 …) and other libraries that compute on it,
# and what a GPU's driver allocates in main memory for it (CUDA_Host, Vulkan_Host …).
_HOST = re.compile(r"^(CPU|AMX|BLAS|Accelerate|ZenDNN)|(^|_)Host$", re.IGNORECASE)


def is_host(name: str) -> bool:
    """Whether a buffer type or device of this name lies in main memory."""
    return _HOST.search(name) is not None


class FootprintReader:
    """Collects the lines that matter as they come, and reads them when asked."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)

    def add(self, lines: Iterable[str]) -> None:
        """Further lines of one server, in order."""
        for line in lines:
            # The look for a word first: most lines of a chatty server hold none.
            if any(word in line for word in _WORDS) and any(rule.search(line) for rule in _RULES):
                self._lines.append(line)

    def read(self) -> Footprint | None:
        """What the lines so far tell."""
        return read_footprint(self._lines)


def read_footprint(lines: Iterable[str]) -> Footprint | None:
    """The buffers of the load that these lines tell of; ``None`` when they tell of none.

    Loads without memory do not count. Several real ones do: that of a draft model is one.
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
                # The beginning is missing; what is there is better than nothing.
                now = _Load()
                loads.append(now)
            now.take(where, kind, _bytes(size))
    buffers = [buffer for load in loads if not load.dry for buffer in load.buffers()]
    for number, projector in enumerate(projectors):
        # An eye and an ear from one file each tell the size of the whole file.
        shared = number > 0 and projectors[number - 1].weights == projector.weights
        buffers += projector.buffers(with_weights=not shared)
    if not any(size for _, size in buffers):
        return None
    allocated = [buffer for buffer in buffers if not _MAPPED.search(buffer[0])]
    return Footprint(
        mapped=sum(size for where, size in buffers if _MAPPED.search(where)),
        host=sum(size for where, size in allocated if is_host(where)),
        device=sum(size for where, size in allocated if not is_host(where)),
    )


class _Load:
    """One model's weights and the contexts made for it."""

    def __init__(self) -> None:
        self.weights: list[tuple[str, int]] = []
        self.others: list[tuple[str, int]] = []
        self.compute: dict[tuple[int, str], int] = {}
        self.context = 0

    @property
    def weights_only(self) -> bool:
        """Whether nothing else was allocated yet."""
        return not self.others and not self.compute

    @property
    def dry(self) -> bool:
        """Whether it was done without memory."""
        return bool(self.weights) and not any(size for _, size in self.weights)

    def next_context(self) -> None:
        self.context += 1

    def take(self, where: str, kind: str, size: int) -> None:
        if kind == "model":
            self.weights.append((where, size))
        elif kind == "compute":
            # A context may reserve again, in place of what it had.
            self.compute[self.context, where] = size
        else:
            self.others.append((where, size))

    def buffers(self) -> list[tuple[str, int]]:
        compute = [(where, size) for (_, where), size in self.compute.items()]
        return [*self.weights, *self.others, *compute]


class _Projector:
    """A projector's weights and its buffers for computing."""

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

"""Calls NVIDIA's management library safely.

It may be missing, know a GPU without its values, or lose its driver and find it again while we run.
Whatever happens, a call here returns a value or ``None``.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_RETRY_SECONDS = 30.0
_VISIBLE = re.compile(r"[0-9]{1,4}|(?:GPU|MIG)-.{0,200}")
_MOST_GPUS = 64
_NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED
# nvmlReturn_t: errors that make the connection useless, not just one value.
_LOST = frozenset(
    {
        1,  # NVML_ERROR_UNINITIALIZED
        9,  # NVML_ERROR_DRIVER_NOT_LOADED
        15,  # NVML_ERROR_GPU_IS_LOST
        18,  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
    }
)


def load_pynvml() -> Any | None:
    """Return the module ``pynvml``; ``None`` = the driver's library is not installed."""
    # Its import costs megabytes, which a machine without an NVIDIA driver need not pay.
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return importlib.import_module("pynvml")


class Nvml:
    """The library: ``gpus`` returns handles, ``call`` asks about one.

    It starts with the first call. If it fails to start, or is lost later, it is started again, at
    most every 30 s. ``load`` returns the module (or ``None``); ``clock`` is monotonic, in seconds.
    Threads may share an instance.
    """

    def __init__(
        self,
        load: Callable[[], Any | None] = load_pynvml,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._module: Any = None
        self._handles: tuple[Any, ...] = ()
        self._pid = 0
        self._lost = True
        self._next_try = float("-inf")

    def gpus(self) -> tuple[Any, ...]:
        """Return the handles of all GPUs by index; ``None`` for a GPU without a handle."""
        with self._lock:
            # NVML's state does not work in a forked child.
            forked = self._pid not in {0, os.getpid()}
            if (self._lost or forked) and (forked or self._clock() >= self._next_try):
                self._next_try = self._clock() + _RETRY_SECONDS
                self._start()
            return self._handles

    def call(self, function: str, *arguments: Any) -> Any | None:
        """Return the result of ``pynvml``'s ``function``; ``None`` = it failed."""
        module = self._module
        if module is None:
            return None
        try:
            return getattr(module, function)(*arguments)
        except _errors(module) as error:
            if getattr(error, "value", None) in _LOST:
                self._lost = True
            return None

    def is_unsupported(self, function: str, *arguments: Any) -> bool:
        """Return whether the driver reports that this GPU lacks the function."""
        module = self._module
        try:
            getattr(module, function)(*arguments)
        except _errors(module) as error:
            return getattr(error, "value", None) == _NOT_SUPPORTED
        return False

    def number(self, function: str, *arguments: Any) -> int | None:
        """Call a function that returns a count; a negative count is ``None``."""
        value = self.call(function, *arguments)
        return value if isinstance(value, int) and value >= 0 else None

    def text(self, function: str, *arguments: Any) -> str | None:
        """Call a function that returns a text (bytes in old versions); the text is not cleaned."""
        value = self.call(function, *arguments)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return value if isinstance(value, str) else None

    def _start(self) -> None:
        self._handles = ()
        if self._module is None:
            try:
                self._module = self._load()
            except (ImportError, OSError, AttributeError):
                return
            if self._module is None:
                return
        elif self._pid:
            self.call("nvmlShutdown")
        self._lost = False
        self._pid = os.getpid()
        try:
            self._module.nvmlInit()
        except _errors(self._module):
            self._lost = True
            return
        count = min(self.number("nvmlDeviceGetCount") or 0, _MOST_GPUS)
        self._handles = tuple(
            self.call("nvmlDeviceGetHandleByIndex", index) for index in range(count)
        )
        # GPUs can be slow to start after boot: try again while one is missing.
        self._lost = self._lost or not self._handles or None in self._handles


def _errors(module: Any) -> tuple[type[BaseException], ...]:
    """Return the errors of a call into the library, including a symbol that an old driver lacks."""
    own = getattr(module, "NVMLError", OSError)
    return (own, AttributeError, OSError, TypeError, ValueError, ctypes.ArgumentError)


def visible_gpus(variable: str | None) -> Sequence[str] | None:
    """Return the entries of ``CUDA_VISIBLE_DEVICES``; ``None`` = not set: all GPUs are visible.

    As in the CUDA programming guide, entries are indexes or (shortened) UUIDs; the first other
    entry hides itself and all that follow.
    """
    if variable is None:
        return None
    visible: list[str] = []
    for entry in variable.split(",")[:256]:
        word = entry.strip()
        if not _VISIBLE.fullmatch(word):
            break
        visible.append(word)
    return visible

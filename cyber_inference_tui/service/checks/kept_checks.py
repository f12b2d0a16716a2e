"""Keeps the results of checks in ``checks.json`` in the data directory."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records.checks import ModelCheck

CHECKS_FILE: Final = "checks.json"
_MOST_BYTES: Final = 16 << 20
_MOST_KEPT: Final = 1_000
"""Models; the one that was checked first is forgotten."""

_logger = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    signature: str
    """That of the model's server (``ServerSpec.signature``)."""
    modified: int | None
    """The last modification of the model's files, in nanoseconds since 1970."""
    check: ModelCheck


class KeptChecks:
    """The results of all checks, each as long as it is valid."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / CHECKS_FILE
        self._kept: dict[str, _Kept] = {}
        """By id."""
        self._writing = asyncio.Lock()

    async def read(self) -> None:
        """Read the file. Without a valid one, no model counts as checked."""
        try:
            data = await asyncio.to_thread(read_file, self._file, _MOST_BYTES)
            self._kept = msgspec.json.decode(data, type=thread_safe(dict[str, _Kept]))
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _logger.warning("the results of checks are lost: %s: %s", self._file, error)

    def of(self, model: LocalModel, spec: ServerSpec, build: str | None) -> ModelCheck | None:
        """Return the results for a model as it is now; ``None`` if there are none."""
        kept = self._kept.get(model.id)
        if kept is None or kept.check.build != build or kept.modified != model.modified:
            return None
        return kept.check if kept.signature == spec.signature else None

    async def keep(self, model: LocalModel, spec: ServerSpec, check: ModelCheck) -> None:
        """Keep the results for a model as it is now, and drop older ones."""
        self._kept.pop(model.id, None)
        self._kept[model.id] = _Kept(spec.signature, model.modified, check)
        while len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        async with self._writing:
            data = msgspec.json.encode(self._kept)
            try:
                await asyncio.to_thread(replace_file, self._file, data, mode=0o600)
            except OSError as error:
                # They are in memory, and the next check writes them, too.
                _logger.warning("%s", write_problem(self._file, error))

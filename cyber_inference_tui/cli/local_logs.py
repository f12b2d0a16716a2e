"""Logs read from their files, for when no service runs to show them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from cyber_inference_tui.client.service_url import base_url
from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.llama.log_file import has_log, log_file_name, read_earlier_lines
from cyber_inference_tui.service.listing import library_for
from cyber_inference_tui.service.logs import LOGS, SERVICE_LOG
from cyber_inference_tui.settings.credentials import is_loopback
from cyber_inference_tui.settings.load import Source

if TYPE_CHECKING:
    from cyber_inference_tui.settings.load import Loaded

_LINE_BYTES = 4096
"""Read for each line that is asked for: far more than a line has on average."""
_MOST_BYTES = 64 << 20


class LocalLog(NamedTuple):
    """The end of a log, read from its file and the rotated ones before it."""

    id: str
    path: Path
    lines: list[tuple[datetime, str]]


def local_log(loaded: Loaded, name: str, lines: int, environ: Mapping[str, str]) -> LocalLog | None:
    """The last ``lines`` of the log of ``name``: a log's id, or a model's id or alias.

    ``None`` where there is no such file, and where ``--host`` names another machine, whose logs
    are not here.
    """
    settings = loaded.settings
    place = urlsplit(base_url(settings.host, settings.port)).hostname or ""
    if loaded.sources["host"] is Source.FLAG and not is_loopback(place):
        return None
    folder = settings.data_dir / LOGS
    log_id, path = name, folder / _file_name(name)
    if not has_log(path):
        try:
            log_id = library_for(settings, demo=True, environ=environ).scan().resolve(name).id
        except ModelNotFoundError:
            return None
        path = folder / _file_name(log_id)
        if not has_log(path):
            return None
    found = read_earlier_lines(path, limit=min(_MOST_BYTES, lines * _LINE_BYTES))
    return LocalLog(log_id, path, found[-lines:] if lines else [])


def _file_name(log_id: str) -> str:
    return f"{SERVICE_LOG}.log" if log_id == SERVICE_LOG else log_file_name(log_id)

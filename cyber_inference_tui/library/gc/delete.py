"""Deletes the entries of a plan, each only if it is still the same."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.library.disk import error_text
from cyber_inference_tui.library.gc.facts import Entry
from cyber_inference_tui.library.scan import path_text


class Deleted(NamedTuple):
    """The result of a deletion."""

    freed: int
    """Bytes of the files whose last name was deleted."""
    problem: str = ""
    """Why the rest was not deleted; empty = all of it was."""


def delete_entries(paths: Iterable[Path], entries: Mapping[Path, Entry], stop: Path) -> Deleted:
    """Delete files and links in order, then the folders below ``stop`` that are empty. Blocks."""
    freed, problem = 0, ""
    folders: dict[Path, None] = {}
    for path in paths:
        try:
            freed += _delete(entries[path])
        except OSError as error:
            problem = f"{path_text(path)} cannot be deleted: {error_text(error)}"
            break
        folders[path.parent] = None
    for folder in folders:
        _tidy(folder, stop)
    return Deleted(freed, problem)


def _delete(entry: Entry) -> int:
    """Delete a name; return the bytes that are free then. Raises ``OSError``."""
    path = entry.path
    if path.parent.resolve() != path.parent:
        raise OSError("its folder has become a link")
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    same = (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns
    if same != (entry.inode, entry.size, entry.modified) or stat.S_ISDIR(status.st_mode):
        raise OSError("it has changed")
    path.unlink()
    return entry.allocated if status.st_nlink == 1 else 0


def _tidy(folder: Path, stop: Path) -> None:
    """Delete empty folders, up to ``stop``."""
    while folder != stop and folder.is_relative_to(stop):
        try:
            folder.rmdir()
        except OSError:
            return  # it is not empty, or we may not delete it
        folder = folder.parent

"""Lists files in the model directories that are no models, with reasons, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from cyber_inference_tui.text import clean_line

SUFFIX: Final = ".gguf"
# Programs that download to the final name keep a companion file until they have finished.
UNFINISHED: Final = (".part", ".incomplete", ".aria2", ".crdownload", ".tmp", ".download")
OTHER_FORMATS: Final = (".bin", ".safetensors", ".ggml", ".pt", ".pth")
PACKED: Final = (".zip", ".7z", ".rar", ".tar", ".gz", ".bz2", ".xz", ".zst")
PIECE: Final = re.compile(r"\.part\d+of\d+|\.gguf-split-[a-z]+|\.gguf\.\d{2,3}$", re.IGNORECASE)
"""Matches the name of a part of a file that was split for an upload."""

_ENDING: Final = re.compile(
    rf"(?:{'|'.join(map(re.escape, (SUFFIX, *UNFINISHED, *OTHER_FORMATS, *PACKED)))}"
    rf"|{PIECE.pattern}|-\d{{5}}-of-\d{{5}})$",
    re.IGNORECASE,
)
_NO_TEXT: Final = re.compile(r"\\x[0-9a-f]{2}")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the model directories, or a table, that is no model, with the reason."""

    where: str
    """A path or an id, as text to show."""
    reason: str
    name: str = ""
    """The name in a request; empty = its path gives the name."""
    passing: bool = False
    """It cannot be read at the moment; earlier results for it are kept."""

    def cleaned(self) -> Problem:
        """Return a copy with texts that are safe to show."""
        return msgspec.structs.replace(
            self, where=clean_line(self.where), reason=clean_line(self.reason)
        )

    @property
    def file_name(self) -> str:
        """The last part of its path; other text unchanged."""
        return self.where.rpartition("/")[2] if self.where.startswith("/") else self.where


class Unusable:
    """Problems by the names that requests may use for them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._by_name: dict[str, list[tuple[str, Problem]]] = {}
        for problem in problems:
            called = _plain(problem.name or problem.where)
            # A name that is not UTF-8 arrives with replacement characters, or in Latin-1.
            latin = _NO_TEXT.sub(lambda byte: chr(int(byte[0][2:], 16)), called).casefold()
            for name in {called, _NO_TEXT.sub("\ufffd", called), latin}:
                self._by_name.setdefault(name.rpartition("/")[2], []).append((name, problem))

    def find(self, name: str) -> Problem | None:
        """Return the first problem with this name, which may be a file name or the end of a path.

        Case, the file ending and the number of a shard are ignored.
        """
        wanted = _plain(name)
        for called, problem in self._by_name.get(wanted.rpartition("/")[2], ()):
            if wanted and (called == wanted or called.endswith(f"/{wanted}")):
                return problem
        return None


def _plain(text: str) -> str:
    text = clean_line(text).strip().casefold()
    while shorter := _ENDING.sub("", text):
        if shorter == text:
            break
        text = shorter
    return text

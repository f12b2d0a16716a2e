"""What lies in the model directories and is no model, with the reason, and by which name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from cyber_inference_tui.text import clean_line

SUFFIX: Final = ".gguf"
# Programs that download straight to the final name leave a companion until they are done.
UNFINISHED: Final = (".part", ".incomplete", ".aria2", ".crdownload", ".tmp", ".download")
OTHER_FORMATS: Final = (".bin", ".safetensors", ".ggml", ".pt", ".pth")
PACKED: Final = (".zip", ".7z", ".rar", ".tar", ".gz", ".bz2", ".xz", ".zst")
PIECE: Final = re.compile(r"\.part\d+of\d+|\.gguf-split-[a-z]+|\.gguf\.\d{2,3}$", re.IGNORECASE)
"""In the name of a piece of a file that was cut up so that a site would take it."""

_ENDING: Final = re.compile(
    rf"(?:{'|'.join(map(re.escape, (SUFFIX, *UNFINISHED, *OTHER_FORMATS, *PACKED)))}"
    rf"|{PIECE.pattern}|-\d{{5}}-of-\d{{5}})$",
    re.IGNORECASE,
)
_NO_TEXT: Final = re.compile(r"\\x[0-9a-f]{2}")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the model directories or tables that is no model, and why."""

    where: str
    """A path or an id, as text to show."""
    reason: str
    name: str = ""
    """What a request would call it; empty = its path says so."""
    passing: bool = False
    """It cannot be read at the moment: what was found there before still counts."""

    def cleaned(self) -> Problem:
        """The same with texts that are safe to show."""
        return msgspec.structs.replace(
            self, where=clean_line(self.where), reason=clean_line(self.reason)
        )

    @property
    def file_name(self) -> str:
        """The last part of its path; what is no path as it is."""
        return self.where.rpartition("/")[2] if self.where.startswith("/") else self.where


class Unusable:
    """Problems by the names that requests may call them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._by_name: dict[str, list[tuple[str, Problem]]] = {}
        for problem in problems:
            called = _plain(problem.name or problem.where)
            # A name that is not UTF-8 arrives with replacement characters, or as it was meant.
            latin = _NO_TEXT.sub(lambda byte: chr(int(byte[0][2:], 16)), called).casefold()
            for name in {called, _NO_TEXT.sub("\ufffd", called), latin}:
                self._by_name.setdefault(name.rpartition("/")[2], []).append((name, problem))

    def find(self, name: str) -> Problem | None:
        """The first problem of a thing with this name: a file's, or the end of its path.

        Case, the file's ending and the number of a shard do not count.
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

"""The parts of a model's details as text with styles: headings and files."""

from __future__ import annotations

from cyber_inference_tui.records import FileRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import fold, plain
from cyber_inference_tui.units import size_text

Parts = list[tuple[str, str]]

MUTED = "$text-muted"
HEADING = "bold $text-muted"


def heading(title: str, remark: str = "") -> Parts:
    """Return the heading of a section, with a remark behind it."""
    return [(f"\n{title}", HEADING), (f"  {remark}\n" if remark else "\n", MUTED)]


def file_parts(file: FileRecord, remark: str, charset: Charset, width: int) -> Parts:
    """Return a file's size and path, with a remark below."""
    size = charset.known(file.size_bytes, size_text).rjust(9)
    first, *more = fold(plain(file.path), max(8, width - 11), after="/")
    parts: Parts = [(f"{size}  ", MUTED), (f"{first}\n", "")]
    parts += [(f"{' ' * 11}{piece}\n", "") for piece in more]
    if remark:
        parts += [(f"{' ' * 9}{remark}\n", MUTED)]
    return parts

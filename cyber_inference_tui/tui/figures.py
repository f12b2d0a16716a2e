"""Numbers and times as the terminal app shows them: one unit and one precision down a column.

``None`` is what the machine does not tell: it is shown as the charset's ``missing`` dash.
"""

from __future__ import annotations

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.units import context_text

_GIB = 1024**3


def memory_text(size: int | None, *, estimate: bool = False, charset: Charset = UNICODE) -> str:
    """Bytes in GiB with one decimal, whatever the size: ``3.1 GiB``, ``~2.9 GiB`` (an estimate).

    What would round to nothing is told as ``<0.1 GiB``.
    """
    if size is None:
        return charset.missing
    if 0 < size < 0.05 * _GIB:
        return "<0.1 GiB"
    return f"{'~' if estimate else ''}{size / _GIB:.1f} GiB"


def number_text(
    value: float | None, *, decimals: int = 0, unit: str = "", charset: Charset = UNICODE
) -> str:
    """A number with thousands separators: ``8,192``, ``21.4``, ``63 %``, ``4.8 W``."""
    if value is None:
        return charset.missing
    return f"{value:,.{decimals}f}" + (f" {unit}" if unit else "")


def speed_text(speed: float | None, *, charset: Charset = UNICODE) -> str:
    """Tokens a second, with one decimal."""
    return number_text(speed, decimals=1, charset=charset)


def countdown_text(seconds: float | None, *, charset: Charset = UNICODE) -> str:
    """Time left as a clock: ``0:07``, ``3:12``, ``2:05:00``, ``3 d 04 h``; never below ``0:00``."""
    if seconds is None:
        return charset.missing
    # Rounded up: "0:00" means that it is over, not that a part of a second is left.
    whole = max(0, -int(-seconds // 1))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def age_text(seconds: float | None, *, charset: Charset = UNICODE) -> str:
    """How long ago: ``now``, ``12 s``, ``5 min``, ``3 h``, ``4 d``; in its largest unit."""
    if seconds is None:
        return charset.missing
    if seconds < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def status_text(
    status: ModelStatus, progress: float | None = None, *, charset: Charset = UNICODE
) -> str:
    """A state as sign and word, with the progress from 0 to 1: ``◐ loading 64 %``."""
    text = f"{charset.status_sign(status)} {status.value}"
    if status is ModelStatus.LOADING and progress is not None:
        # Rounded down: 100 % would say that it is loaded.
        text += f" {min(99, int(progress * 100))} %"
    return text


def context_size_text(tokens: int | None, *, charset: Charset = UNICODE) -> str:
    """A context length as model cards give it: ``128K``."""
    return context_text(tokens) if tokens else charset.missing


def requests_text(number: int) -> str:
    """``1 request``, ``3 requests``."""
    return f"{number} request" + ("" if number == 1 else "s")


def params_text(parameters: int | None, *, charset: Charset = UNICODE) -> str:
    """How many weights: ``4.0 B``, ``475 M``."""
    if parameters is None:
        return charset.missing
    for size, unit in ((1e12, "T"), (1e9, "B")):
        if parameters >= 0.9995 * size:
            return f"{parameters / size:.1f} {unit}"
    return f"{parameters / 1e6:.0f} M" if parameters >= 999_500 else f"{parameters:,}"

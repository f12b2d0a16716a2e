"""The two character sets for signs and marks, and the choice for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from cyber_inference_tui.records import ModelStatus

CharsetChoice = Literal["auto", "unicode", "ascii"]
Value = TypeVar("Value")

# The kernel's console has a font of at most 512 glyphs, without braille; `dumb` promises nothing.
_PLAIN_TERMINALS = frozenset({"linux", "dumb", "vt100", "vt102", "vt220", "unknown"})

_KEY_WORDS = {
    "⏎": "enter", "↑": "up", "↓": "down", "←": "left", "→": "right",
    "⌫": "backspace", "⇥": "tab", "␣": "space",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Charset:
    """The characters of signs and marks; each is one cell wide."""

    unicode: bool
    ellipsis: str
    """Marks a cut."""
    missing: str
    """Replaces an unknown value."""
    cursor: str
    ascending: str
    descending: str
    check: str
    dot: str
    """Between two remarks on one line."""
    pin: str
    favourite: str
    mark: str
    """The tick on a meter."""
    bar: tuple[str, str]
    """The full and the empty part of a bar."""
    signs: Mapping[str, str]
    """Sign of each model state."""
    levels: Mapping[str, str]
    """Sign of each level of ``doctor``'s findings."""

    def key(self, shown: str) -> str:
        """Return a key's name from Textual; in ASCII its signs become words."""
        return shown if self.unicode else "".join(_KEY_WORDS.get(sign, sign) for sign in shown)

    @property
    def about(self) -> str:
        """The sign before a number that is about right."""
        return "≈" if self.unicode else "~"

    @property
    def plus_minus(self) -> str:
        """The sign between a value and its noise."""
        return "±" if self.unicode else "+-"

    @property
    def dots(self) -> str:
        """Three dots, for something that takes time or goes on."""
        return "…" if self.unicode else "..."

    def status_sign(self, status: ModelStatus) -> str:
        """Return the sign of a model's state; always show it with the word."""
        return self.signs[status]

    def status_text(self, status: ModelStatus, progress: float | None = None) -> str:
        """Return a state as sign and word, with a load's progress (0 to 1): ``◐ loading 64 %``."""
        text = f"{self.status_sign(status)} {status.value}"
        if status == "loading" and progress is not None:
            # Rounded down: 100 % would mean that the model is loaded.
            text += f" {min(99, int(progress * 100))} %"
        return text

    def known(self, value: Value | None, text: Callable[[Value], str]) -> str:
        """Return ``text(value)``, or the sign for a missing value."""
        return self.missing if value is None else text(value)

    def bar_text(self, share: float, width: int) -> str:
        """Return a bar of ``width`` cells, filled to ``share`` (0 to 1), rounded down."""
        full = int(max(0.0, min(1.0, share)) * width)
        return self.bar[0] * full + self.bar[1] * (width - full)


UNICODE = Charset(
    unicode=True,
    ellipsis="…",
    missing="–",  # noqa: RUF001 - the dash is meant
    cursor="▸",
    ascending="▲",
    descending="▼",
    check="✔",
    dot="·",
    pin="◆",
    favourite="★",
    mark="┊",
    bar=("█", "░"),
    signs={
        "loaded": "●",
        "loading": "◐",
        "queued": "◌",
        "unloading": "◍",
        "unloaded": "○",
        "failed": "✖",
    },
    levels={"ok": "✔", "hint": "●", "warning": "▲", "error": "✖"},
)
ASCII = Charset(
    unicode=False,
    ellipsis="~",
    missing="-",
    cursor=">",
    ascending="^",
    descending="v",
    check="+",
    dot="-",
    pin="P",
    favourite="*",
    mark="|",
    bar=("#", "."),
    signs={
        "loaded": "*",
        "loading": "~",
        "queued": ".",
        "unloading": "-",
        "unloaded": "o",
        "failed": "x",
    },
    levels={"ok": "+", "hint": "*", "warning": "!", "error": "x"},
)


def charset_of(
    environ: Mapping[str, str], encoding: str | None, choice: CharsetChoice = "auto"
) -> Charset:
    """Return the charset for ``TERM`` in ``environ`` and the ``encoding`` of the stream.

    Any ``choice`` of the user but ``auto`` decides.
    """
    if choice != "auto":
        return UNICODE if choice == "unicode" else ASCII
    if environ.get("TERM", "") in _PLAIN_TERMINALS:
        return ASCII
    return charset_for(encoding)


def charset_for(encoding: str | None) -> Charset:
    """Return the charset that a stream with ``encoding`` can write."""
    try:
        "".join(("…▸⣿", *UNICODE.bar, *UNICODE.signs.values())).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE

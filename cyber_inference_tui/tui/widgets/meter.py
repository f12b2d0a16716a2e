"""A bar of one line that shows the parts of a whole, such as a machine's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from textual.widget import Widget

from cyber_inference_tui.tui.charset import UNICODE, Charset

PartKind = Literal["model", "system", "free"]


@dataclass(frozen=True)
class Part:
    """One part: ``value`` in the unit of the total, ``figure`` as it is written (``3.1``)."""

    label: str
    value: float
    kind: PartKind
    figure: str = ""


class Meter(Widget):
    """Shows parts of a total, each as wide as its share, with their labels where they fit."""

    def __init__(
        self,
        *,
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)

    def show(self, parts: Sequence[Part], total: float, mark: float | None = None) -> None:
        """Show ``parts`` of ``total`` in order, with a tick at ``mark`` (in the same unit)."""
        raise NotImplementedError

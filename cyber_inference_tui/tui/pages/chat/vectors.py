"""The chat page's pane for models that make vectors: two texts, and how alike they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line

_SHOWN = 6
"""The first values of a vector that are shown."""


class VectorsPane(Vertical):
    """Two lines to type in; enter in either asks the model."""

    DEFAULT_CSS = """
    VectorsPane { height: auto; }
    VectorsPane Input { margin-bottom: 1; }
    VectorsPane Static { height: auto; margin: 0 1; }
    """

    def __init__(self, client: ServiceClient, charset: Charset) -> None:
        super().__init__(id="vectors")
        self._client = client
        self._charset = charset
        self._model = ""
        self.asking = False
        """The model has been asked and has not answered."""

    def compose(self) -> ComposeResult:
        """The lines and the answer."""
        for number, word in (("one", "a text"), ("two", "another one, to compare")):
            line = Input(placeholder=word, id=number)
            line.cursor_blink = False
            yield line
        yield Static(id="answer")

    def ask_of(self, model: str) -> None:
        """The texts go to this model; another one's vectors say nothing of it."""
        if model != self._model:
            self.workers.cancel_group(self, "embed")
            self._model = model
            self._tell("")

    @property
    def has_text(self) -> bool:
        """There is something to ask for."""
        return any(line.value.strip() for line in self.query(Input))

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.ask()

    def ask(self) -> None:
        """Ask for the vectors of what is typed."""
        if self.has_text:
            self.run_worker(self._ask(), group="embed", exclusive=True, exit_on_error=False)

    def stop(self) -> None:
        """Forget what was asked for."""
        self.workers.cancel_group(self, "embed")
        self._tell("stopped", "$text-muted")

    async def _ask(self) -> None:
        texts = [line.value for line in self.query(Input) if line.value.strip()]
        self._tell(f"asking {self._model} {self._charset.ellipsis}", "$text-warning")
        self._set_asking(True)
        try:
            vectors = await self._client.embed(self._model, texts)
        except CyberError as error:
            told = clean_line(" ".join(str(error).split()), limit=600)
            self._tell(f"{told} ctrl+r tries again.", "$text-error")
            return
        finally:
            self._set_asking(False)
        if len(vectors) != len(texts):
            self._tell("The model's server sent another number of vectors.", "$text-error")
            return
        lines = [(f"{vector_text(one, self._charset.ellipsis)}\n", "") for one in vectors]
        if len(vectors) == 2:
            alike = cosine_similarity(*vectors)
            number = self._charset.missing if alike is None else f"{alike:.3f}"
            lines += [("\ncosine similarity  ", "$text-muted"), (number, "bold $text-accent")]
            lines.append(("   1 = the same direction, 0 = nothing in common", "$text-muted"))
        self.query_one("#answer", Static).update(Content.assemble(*lines))

    def _set_asking(self, asking: bool) -> None:
        self.asking = asking
        if self.is_attached:
            self.screen.refresh_bindings()

    def _tell(self, text: str, style: str = "") -> None:
        self.query_one("#answer", Static).update(Content.styled(clean_line(text), style))


def cosine_similarity(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The cosine of the angle between two vectors, from -1 to 1.

    ``None`` where it is not defined: different sizes, a vector of nothing, values that are no
    finite numbers.
    """
    if len(one) != len(other) or not one:
        return None
    # Scaled by their greatest value, so that no square becomes too large or nothing.
    most = max(map(abs, one)), max(map(abs, other))
    if not all(math.isfinite(value) for value in (*one, *other)) or not all(most):
        return None
    first = [value / most[0] for value in one]
    second = [value / most[1] for value in other]
    product = sum(a * b for a, b in zip(first, second, strict=True))
    length = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    return max(-1.0, min(1.0, product / length))


def vector_text(vector: Sequence[float], ellipsis: str) -> str:
    """Its size and its first values: ``768 values   0.0123  -0.0441  …``."""
    shown = "  ".join(f"{value:.4f}" for value in vector[:_SHOWN])
    rest = f"  {ellipsis}" if len(vector) > _SHOWN else ""
    return f"{len(vector):,} value{'' if len(vector) == 1 else 's'}   {shown}{rest}"

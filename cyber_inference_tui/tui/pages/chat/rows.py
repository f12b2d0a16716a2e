"""Turns a conversation into rows of the screen; only new text is wrapped again."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import fold, head, plain
from cyber_inference_tui.tui.pages.chat.conversation import ANSWER_CHARACTERS, Turn, TurnState
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow
from cyber_inference_tui.units import counted, number_text

TEXT_WIDTH = 100
"""Maximum cells of a line of text; longer lines are hard to read."""
_INDENT = "  "


def wrap(text: str, width: int) -> list[str]:
    """Wrap one line to ``width`` cells, between words if possible.

    Further lines of a list item are indented below its text.
    """
    if cell_len(text) <= width:
        return [text]
    stripped = text.lstrip(" ")
    hang = min(len(text) - len(stripped), width // 2)
    if stripped[:2] in {"- ", "* ", "+ "}:
        hang += 2
    pieces = []
    space = ""
    while cell_len(space + text) > width:
        room = width - len(space)
        piece = head(text, room)
        at = piece.rfind(" ") if text[len(piece)] != " " else len(piece)
        # A break inside the indentation would make a row without text.
        if at > len(piece) - len(piece.lstrip(" ")):
            piece = piece[:at]
        pieces.append(space + piece)
        text = text[len(piece) :].lstrip(" ")
        space = " " * min(hang, width // 2)
    if text:
        pieces.append(space + text)
    return pieces


class TextFlow:
    """Wraps a text that grows at its end to rows of ``width`` cells."""

    def __init__(self, width: int, role: Role = "text") -> None:
        self._width = max(8, width - len(_INDENT))
        self._role: Role = role
        self._rows: list[TextRow] = []
        self._done = 0
        self._code = False

    def rows(self, text: str) -> list[TextRow]:
        """Return the rows of ``text``, which has to begin with the text of the last call."""
        *whole, tail = text[self._done :].split("\n")
        for line in whole:
            self._rows += self._line(line)
            self._done += len(line) + 1
            if line.lstrip().startswith("```"):
                self._code = not self._code
        return [*self._rows, *self._line(tail)] if tail else list(self._rows)

    def _line(self, line: str) -> list[TextRow]:
        safe = plain(line, limit=ANSWER_CHARACTERS).rstrip()
        role = self._role
        if self._code or safe.lstrip().startswith("```"):
            pieces = fold(safe, self._width)
            role = "code" if role == "text" else role
        else:
            pieces = wrap(safe, self._width)
            if role == "text" and safe.startswith("#") and safe.lstrip("#").startswith(" "):
                role = "heading"
        return [((_INDENT + piece, role),) for piece in pieces]


class TurnRows:
    """Makes the rows of a turn while it grows."""

    def __init__(self, turn: Turn, width: int, charset: Charset = UNICODE) -> None:
        self._turn = turn
        self._width = min(width, TEXT_WIDTH)
        self._charset = charset
        self._head: list[TextRow] = [
            (("You", "name"),),
            *TextFlow(self._width).rows(turn.question + "\n"),
            (),
            ((plain(turn.model, limit=200), "name"),),
        ]
        self._thinking = TextFlow(self._width, "dim")
        self._answer = TextFlow(self._width)

    def rows(self, *, unfolded: bool) -> list[TextRow]:
        """Return all rows; ``unfolded`` shows the model's thinking."""
        turn = self._turn
        rows = list(self._head)
        if turn.thinking:
            rows.append(((f"{_INDENT}{thinking_text(turn, self._charset)}", "dim"),))
            if unfolded:
                rows += [*self._thinking.rows(turn.thinking.rstrip("\n")), ()]
        rows += self._answer.rows(turn.answer)
        if turn.error:
            sign = self._charset.status_sign(ModelStatus.FAILED)
            text = f"{sign} {plain(turn.error)}"
            rows += [((_INDENT + piece, "error"),) for piece in wrap(text, self._width - 2)]
            rows.append(((f"{_INDENT}ctrl+r tries again.", "dim"),))
        elif turn.state is not TurnState.ANSWERING:
            rows.append(((_INDENT + answer_summary(turn, self._charset), "dim"),))
        return [*rows, ()]


def thinking_text(turn: Turn, charset: Charset) -> str:
    """Return ``thinking … 212 tokens`` while the model thinks, then ``thought  212 tokens``."""
    busy = turn.state is TurnState.ANSWERING and not turn.answer
    word = f"thinking {charset.dots}" if busy else "thought "
    return f"{word} {counted(turn.thought_pieces, 'token')}"


def answer_summary(turn: Turn, charset: Charset) -> str:
    """Return an answer's tokens, tokens per second and time to the first text."""
    parts = []
    if turn.state is TurnState.STOPPED:
        parts.append(
            f"ended after {ANSWER_CHARACTERS:,} characters"
            if turn.finish_reason == "too long"
            else "stopped"
        )
    elif turn.finish_reason == "length":
        parts.append("cut at max_tokens")
    if turn.state is TurnState.DONE and not turn.pieces:
        parts.append("empty answer")
    if turn.pieces:
        parts.append(counted(turn.tokens, "token"))
    if turn.rate is not None:
        parts.append(_rate_text(turn.rate))
    if turn.first_seconds is not None:
        parts.append(f"first text after {turn.first_seconds:.2f} s")
    return f" {charset.dot} ".join(parts)


def _rate_text(rate: float) -> str:
    return number_text(rate, decimals=1, unit="tok/s")


def state_content(turn: Turn | None, now: float, charset: Charset, more: str = "") -> Content:
    """Return the line below the conversation: the state of the running answer, and ``more``."""
    if turn is None:
        return Content.styled(more, "$text-muted")
    sign = charset.status_sign(ModelStatus.LOADING)
    if turn.first_at is None:
        doing = plain(turn.waiting, limit=200) or "waiting for the first word"
        # Whole seconds, because tenths would be painted with each update.
        parts = [(f"{sign} {doing}", "$text-warning"), (f"  {int(now - turn.began)} s", "")]
    else:
        doing = "answering" if turn.answer else "thinking"
        rate = charset.known(turn.rate, _rate_text)
        parts = [
            (f"{sign} {doing}", "$text-warning"),
            (f"  {turn.tokens:>5,} tokens  {rate:>11}  first text after ", ""),
            (f"{turn.first_seconds or 0:.2f} s", ""),
        ]
    return Content.assemble(*parts, (f"   {more or 'esc stops'}", "$text-muted"))

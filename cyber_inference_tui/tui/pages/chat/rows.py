"""Turns a conversation into rows of the screen; only new text is wrapped again."""

from __future__ import annotations

from textual.content import Content

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.pages.chat.conversation import ANSWER_CHARACTERS, Turn, TurnState
from cyber_inference_tui.tui.pages.chat.markdown import MarkdownFlow
from cyber_inference_tui.tui.pages.chat.markdown_rows import CodeBlock
from cyber_inference_tui.tui.pages.chat.styled import wrap
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow
from cyber_inference_tui.units import counted, number_text

TEXT_WIDTH = 100
"""Maximum cells of a line of text; longer lines are hard to read."""
_INDENT = "  "


class TextFlow:
    """Wraps a plain text that grows at its end to rows of ``width`` cells."""

    def __init__(self, width: int, role: Role = "text") -> None:
        self._width = max(8, width - len(_INDENT))
        self._role: Role = role
        self._rows: list[TextRow] = []
        self._done = 0

    def rows(self, text: str) -> list[TextRow]:
        """Return the rows of ``text``, which has to begin with the text of the last call."""
        *whole, tail = text[self._done :].split("\n")
        for line in whole:
            self._rows += self._line(line)
            self._done += len(line) + 1
        return [*self._rows, *self._line(tail)] if tail else list(self._rows)

    def _line(self, line: str) -> list[TextRow]:
        safe = plain(line, limit=ANSWER_CHARACTERS).rstrip()
        return [((_INDENT + piece, self._role),) for piece in wrap(safe, self._width)]


class TurnRows:
    """Makes the rows of a turn while it grows."""

    def __init__(self, turn: Turn, width: int, charset: Charset = UNICODE) -> None:
        self._turn = turn
        self._width = min(width, TEXT_WIDTH)
        self._charset = charset
        self._head: list[TextRow] = [
            (("You", "name"),),
            *TextFlow(self._width).rows(turn.question + "\n"),
            *(row for image in turn.images for row in self._lines(image.text)),
            (),
            ((plain(turn.model, limit=200), "name"),),
        ]
        self._thinking = TextFlow(self._width, "dim")
        self._answer = MarkdownFlow(self._width, charset)

    def _lines(self, text: str, role: Role = "dim") -> list[TextRow]:
        return [((_INDENT + piece, role),) for piece in wrap(text, self._width - len(_INDENT))]

    @property
    def code_blocks(self) -> list[CodeBlock]:
        """The blocks of code in the answer, as far as its rows are made."""
        return self._answer.blocks

    def rows(self, *, unfolded: bool) -> list[TextRow]:
        """Return all rows; ``unfolded`` shows the model's thinking."""
        turn = self._turn
        rows = list(self._head)
        if turn.thinking:
            rows += self._lines(thinking_text(turn, self._charset))
            if unfolded:
                rows += [*self._thinking.rows(turn.thinking.rstrip("\n")), ()]
        # Many models begin with empty lines.
        rows += self._answer.rows(turn.answer.lstrip("\n"))
        if rows[-1] and rows[-1][-1][1] == "code":
            rows.append(())  # what follows is not on the background of the code
        if turn.error:
            sign = self._charset.status_sign(ModelStatus.FAILED)
            rows += self._lines(f"{sign} {plain(turn.error)}", "error")
            rows += self._lines("ctrl+r tries again.")
        elif turn.state is not TurnState.ANSWERING:
            rows += self._lines(answer_summary(turn, self._charset))
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
        parts.append(rate_text(turn.rate))
    if turn.first_seconds is not None:
        parts.append(f"first text after {turn.first_seconds:.2f} s")
    return f" {charset.dot} ".join(parts)


def talk_word(turn: Turn | None) -> str:
    """Return a word about an answer that is not shown: its state, or its speed."""
    if turn is None:
        return ""
    if turn.state is TurnState.FAILED:
        return "failed"
    if turn.rate is not None:
        return f"{turn.rate:.1f}/s"
    return "waits" if turn.state is TurnState.ANSWERING else turn.state.value


def rate_text(rate: float) -> str:
    """Return a speed as ``21.4 tok/s``."""
    return number_text(rate, decimals=1, unit="tok/s")


def state_content(
    turn: Turn | None, now: float, charset: Charset, more: str = "", *, short: bool = False
) -> Content:
    """Return the line below an answer: its state while it runs, and ``more``.

    A ``short`` one leaves out what the answer's title says.
    """
    if turn is None:
        return Content.styled(more, "$text-muted")
    sign = charset.status_sign(ModelStatus.LOADING)
    more = more or ("" if short else "esc stops")
    if turn.first_at is None:
        doing = plain(turn.waiting, limit=200) or "waiting for the first word"
        # Whole seconds, because tenths would be painted with each update.
        parts = [(f"{sign} {doing}", "$text-warning"), (f"  {int(now - turn.began)} s", "")]
    else:
        doing = "answering" if turn.answer else "thinking"
        figures = f"  {turn.tokens:>5,} tokens"
        if not short:
            rate = charset.known(turn.rate, rate_text)
            figures += f"  {rate:>11}  first text after {turn.first_seconds or 0:.2f} s"
        parts = [(f"{sign} {doing}", "$text-warning"), (figures, "")]
    return Content.assemble(*parts, (f"  {more}" if more else "", "$text-muted"))

"""A request's place at another box, which takes the place of a model's server here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import ceil, inf

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.peers.peer import Peer, PeerServer, refusal_in
from cyber_inference_tui.settings.schema import Settings

_SECONDS_LEFT = "X-Queue-Timeout"
"""The header in which a box says for how many seconds its request may wait at this one."""
_MOST_COMMENT = 4096
_REFUSALS = frozenset({401, 403, 404, 409, 413, 429, 500, 502, 503, 504, 507})
_OF_THE_WAY_HERE = re.compile(
    rb"(?im)^(?:cookie|origin|referer|sec-[^:\r\n]*|forwarded|via|x-forwarded-[^:\r\n]*|x-real-ip"
    rb"|access-control-[^:\r\n]*):[^\n]*\n"
)
"""Headers about the client's way to this box: its login, its page, its proxy. Another box has its
own rules for them, which this box has applied already."""


def without_way(lines: bytes) -> bytes:
    """Return the lines of a request's head without those that are for this box only."""
    return _OF_THE_WAY_HERE.sub(b"", lines)


def seconds_left_in(headers: Mapping[str, str]) -> float:
    """Return for how many more seconds a request of another box may wait; ``inf`` = no limit."""
    try:
        return float(headers.get(_SECONDS_LEFT, "inf"))
    except ValueError:
        return inf


def is_refusal(status: int) -> bool:
    """Return whether a box that answers with this status leaves the request to another one."""
    return status in _REFUSALS


class BoxRefusedError(Exception):
    """Another box cannot answer a request now, for the reason in its answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(refusal_in(body) or f"status {status}")
        self.status = status


class BoxPlace:
    """A request's place at another box: what a ``Lease`` is at a model of this one.

    The box has its own queue and limits, so there is nothing to hold here. The request may wait
    until ``waits_until``, a time of the loop; ``None`` = without a limit.
    """

    stopped_on_purpose = server_exited = was_alone = False

    def __init__(self, peer: Peer, model_id: str, waits_until: float | None) -> None:
        self._peer = peer
        self._waits_until = waits_until
        self._there = model_id
        self._released = False
        self._answers_before = peer.answers
        self.on_forced_unload: set[Callable[[], None]] = set()
        """Stays empty: a box unloads its models itself."""
        peer.begin(model_id)

    @property
    def address(self) -> ServerAddress:
        """The address of the box, with the key for it."""
        return self._peer.address

    @property
    def server(self) -> PeerServer:
        """The box."""
        return self._peer.server

    @property
    def on_lost(self) -> set[Callable[[], None]]:
        """The calls for the moment at which the box is lost."""
        return self._peer.on_lost

    @property
    def model_id(self) -> str:
        """The model and its box, for messages."""
        return f"{self._there} on {self._peer.name}"

    @property
    def others_succeed(self) -> bool:
        """Return whether the box has answered other requests since this one was sent there."""
        return self._peer.answers > self._answers_before

    def limit_line(self, now: float) -> bytes:
        """Return the line of the request's head that limits its wait there; empty = no limit.

        In whole seconds: the other box remembers heads, and most are the same.
        """
        if self._waits_until is None:
            return b""
        return b"%b: %d\r\n" % (_SECONDS_LEFT.encode(), max(0, ceil(self._waits_until - now)))

    def stall_seconds(self, settings: Settings) -> float:
        """Return after how many seconds without a byte the box counts as hung; 0 = never.

        The request may wait there, as long as it might here.
        """
        both = settings.stall_timeout and settings.queue_timeout
        return settings.stall_timeout + settings.queue_timeout if both else 0.0

    async def wait_exited(self, timeout: float) -> None:
        """Do nothing: another box is no child process."""

    def exit_reason(self) -> str:
        """Return why the box is gone."""
        return "it is gone"

    def count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Do nothing: the box counts its own sessions."""

    def keep_loaded(self, idle_timeout: float) -> None:
        """Do nothing: the box unloads its models itself."""

    def sent(self) -> None:
        """Do nothing: see ``begin`` of the box."""

    def begun(self) -> None:
        """Do nothing."""

    def answered(self) -> None:
        """Note that the box has answered."""
        self._peer.answered()

    def release(self) -> None:
        """Give the place back. Further calls have no effect."""
        if not self._released:
            self._released = True
            self._peer.end(self._there)


class LeadingComments:
    """Takes the comments before the first event of a stream (HTML standard, "Server-sent events").

    Such a comment is how a service says that a request waits.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> tuple[list[str], bytes]:
        """Take a piece of the stream. Return the texts of complete comments, and what follows.

        Once something follows, that and all further pieces are the answer.
        """
        data, self._held = self._held + data, b""
        texts: list[str] = []
        while data:
            line, end, rest = data.partition(b"\n")
            if line[:1] not in {b":", b"", b"\r"}:
                return texts, data
            if not end:
                if len(line) > _MOST_COMMENT:
                    return texts, data
                self._held = data
                break
            if text := line[1:].strip().decode("utf-8", "replace"):
                texts.append(text)
            data = rest
        return texts, b""

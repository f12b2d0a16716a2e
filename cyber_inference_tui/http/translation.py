"""The translation of an answer for a client of another API than llama-server's."""

from __future__ import annotations

from typing import Protocol

from cyber_inference_tui.http.body_fields import Body

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
"""The head of an answer that is not a stream, without its length."""


class Translation(Protocol):
    """Translates the answer to one request.

    The forwarder calls ``feed`` and ``rest`` for an answer that is a stream of events, ``whole``
    for any other. It puts errors into the shape of the API itself (``error_responses``).
    """

    stream_type: bytes
    """The content type of a translated stream."""
    idle_timeout: float | None
    """The model's idle timeout after this request, until it is unloaded; 0 = never."""

    def sent(self) -> None:
        """Note that the request leaves for the model's server, after a wait."""

    def waiting(self) -> bytes:
        """Return a part of the stream that says nothing yet, so that the client does not time
        out."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the server's stream, and return the bytes that they add to the client's.

        Raises ``BadResponseError``.
        """

    def rest(self) -> bytes:
        """Return the end of the client's stream, after the end of the server's."""

    def whole(self, body: bytes) -> bytes:
        """Translate an answer that is not a stream. Raises ``BadResponseError``."""

    def shortened(self, request: Body | memoryview, refusal: bytes) -> bytes | None:
        """Return a shorter body for a request that the server has refused.

        ``None``: the client gets the refusal.
        """

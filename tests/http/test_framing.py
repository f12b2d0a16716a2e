from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.http.answer_head import AnswerHeads
from cyber_inference_tui.http.framing import (
    BadResponseError,
    BodyScanner,
    Framing,
    ResponseHead,
    parse_head,
)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return ``data`` in pieces that are not empty."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def chunked(
    chunks: list[bytes], *, extension: bytes = b"", trailers: bytes = b"", upper: bool = False
) -> bytes:
    number = "%X" if upper else "%x"
    parts = [
        (number % len(chunk)).encode() + extension + b"\r\n" + chunk + b"\r\n"
        for chunk in chunks
        if chunk
    ]
    return b"".join([*parts, b"0" + extension + b"\r\n", trailers, b"\r\n"])


places = st.lists(st.integers(0, 1 << 30), max_size=20)
contents = st.lists(st.binary(max_size=300), max_size=6)
extensions = st.sampled_from([b"", b";a=b", b' ; name="x y"', b" "])
trailer_sets = st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: b\r\nC: d\r\n"])


@given(contents, places, st.tuples(extensions, trailer_sets, st.booleans()), st.booleans())
def test_a_chunked_body_passes_to_its_end(
    chunks: list[bytes],
    edges: list[int],
    dress: tuple[bytes, bytes, bool],
    decode: bool,
) -> None:
    extension, trailers, upper = dress
    body = chunked(chunks, extension=extension, trailers=trailers, upper=upper)
    scanner = BodyScanner(Framing.CHUNKED, 0, decode=decode)
    passed = b""
    for piece in cut(body, edges):
        assert not scanner.done
        passed += scanner.feed(piece)
    assert scanner.done
    assert passed == (b"".join(chunks) if decode else body)


@given(contents, places)
def test_passed_bytes_end_at_a_boundary_only_between_chunks(
    chunks: list[bytes], edges: list[int]
) -> None:
    body = chunked(chunks)
    boundaries = {0}
    for chunk in chunks:
        if chunk:
            boundaries.add(max(boundaries) + len(b"%x\r\n" % len(chunk)) + len(chunk) + 2)
    scanner = BodyScanner(Framing.CHUNKED, 0)
    sent = 0
    for piece in cut(body, edges):
        assert scanner.at_boundary == (sent in boundaries)
        sent += len(scanner.feed(piece))
        # Such small chunks are held back until they are complete.
        assert scanner.done or sent in boundaries


def test_a_big_chunk_is_not_held_and_its_middle_is_no_boundary() -> None:
    content = bytes(range(256)) * 2048
    body = chunked([content])
    scanner = BodyScanner(Framing.CHUNKED, 0)
    passed = b""
    most_held = 0
    seen = set()
    for start in range(0, len(body), 1000):
        passed += scanner.feed(body[start : start + 1000])
        most_held = max(most_held, min(start + 1000, len(body)) - len(passed))
        seen.add(scanner.at_boundary)
    assert passed == body
    assert scanner.done
    assert seen == {True, False}
    assert most_held <= 64 << 10


@given(st.binary(min_size=1, max_size=500), places)
def test_a_body_with_a_length_ends_with_its_last_byte(body: bytes, edges: list[int]) -> None:
    scanner = BodyScanner(Framing.LENGTH, len(body))
    passed = b""
    for piece in cut(body, edges):
        assert not scanner.done
        assert not scanner.at_boundary
        passed += scanner.feed(piece)
    assert scanner.done
    assert passed == body
    with pytest.raises(BadResponseError):
        scanner.feed(b"x")


@pytest.mark.parametrize(("reset", "done"), [(False, True), (True, False)])
def test_a_body_without_a_length_ends_with_its_connection(reset: bool, done: bool) -> None:
    scanner = BodyScanner(Framing.CLOSE, 0)
    assert scanner.feed(b"some") == b"some"
    assert not scanner.done
    scanner.ended(reset)
    assert scanner.done is done


@pytest.mark.parametrize(
    ("framing", "length"), [(Framing.CHUNKED, 0), (Framing.LENGTH, 5)], ids=["chunked", "length"]
)
def test_the_end_of_the_connection_is_no_end_of_other_bodies(framing: Framing, length: int) -> None:
    scanner = BodyScanner(framing, length)
    scanner.feed(b"3\r\n")
    scanner.ended(reset=False)
    assert not scanner.done


def test_an_empty_body_is_done_and_stays_done() -> None:
    # As in the answer to a HEAD: there is a length, but no body.
    scanner = BodyScanner(Framing.NONE, 10)
    assert scanner.done
    with pytest.raises(BadResponseError):
        scanner.feed(b"xyz")
    assert scanner.done


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-1\r\nx\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"\r\n",
        b"5 5\r\nhello\r\n",
        b"ffffffffffffffffff\r\n",
        b"3\r\nabcXX0\r\n\r\n",
        b"3\r\nabcde\r\n0\r\n\r\n",
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"3\r\nabc\r\n0\r\n\r\nx",
        # Line ends and control characters that a client could read in another way.
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcX\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
        b"0\r\nX: a\nY: b\r\n\r\n",
        b"0\r\nX: a\x1b\r\n\r\n",
        b"0\r\nno trailer\r\n\r\n",
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_broken_body_is_refused(body: bytes, bytewise: bool) -> None:
    scanner = BodyScanner(Framing.CHUNKED, 0)
    with pytest.raises(BadResponseError):
        for piece in [body[i : i + 1] for i in range(len(body))] if bytewise else [body]:
            scanner.feed(piece)
    # Only a body whose last byte was passed on is complete.
    assert not scanner.done or bytewise


@pytest.mark.parametrize("start", [b"5", b"5;", b"0\r\nX: "])
def test_an_endless_line_is_refused(start: bytes) -> None:
    scanner = BodyScanner(Framing.CHUNKED, 0)
    scanner.feed(start)
    with pytest.raises(BadResponseError):
        for _ in range(100):
            scanner.feed(b"0" * 1000)


@given(st.binary(max_size=200), places, st.booleans())
def test_any_bytes_are_a_body_or_refused(data: bytes, edges: list[int], decode: bool) -> None:
    scanner = BodyScanner(Framing.CHUNKED, 0, decode=decode)
    try:
        for piece in cut(data, edges):
            scanner.feed(piece)
    except BadResponseError:
        pass


# Heads


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK", method: str = "POST") -> ResponseHead:
    return parse_head(b"\r\n".join([status, *lines]), method)


def test_a_head_loses_only_the_headers_of_the_connection() -> None:
    parsed = head(
        b"Server: llama.cpp",
        b"Keep-Alive: timeout=5, max=100",
        b"Transfer-Encoding: Chunked",
        b"Set-Cookie: a",
        b"set-cookie: b",
        b"Content-Type:  Text/Event-Stream ",
    )
    assert parsed.headers == [
        (b"Server", b"llama.cpp"),
        (b"Set-Cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"Content-Type", b"Text/Event-Stream"),
    ]
    assert parsed.framing is Framing.CHUNKED
    assert parsed.content_type == b"text/event-stream"
    assert parsed.keep_alive
    assert parsed.most_requests == 100


def test_a_head_loses_the_headers_that_connection_names() -> None:
    parsed = head(b"X-Secret: 1", b"Connection: close, X-Secret", b"connection: X-B", b"X-b: 2")
    assert parsed.headers == []


def test_chunks_count_for_a_remembered_head_as_well() -> None:
    heads = AnswerHeads()
    for number in (2, 3):
        data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nTransfer-Encoding: chunked" % number
        known, length = heads.parse(data + b"\r\n\r\n", len(data), "POST")
        assert (known.framing, length) == (Framing.CHUNKED, 0)


@pytest.mark.parametrize(
    ("line", "most"),
    [
        (b"Keep-Alive: timeout=5, max=100", 90),
        (b"keep-alive: MAX=20", 18),
        (b"Keep-Alive: max=1", 0),
        (b"Keep-Alive: max=0", 0),
        (b"Keep-Alive: max=1000000", 1000),
        (b"Keep-Alive: max=-5", 1000),
        (b"Keep-Alive: max=" + b"9" * 50, 1000),
        (b"Keep-Alive: timeout=5", 1000),
        (b"X-One: max=3", 1000),
        (b"Connection: close\r\nKeep-Alive: max=100", 0),
    ],
)
def test_a_connection_serves_what_the_server_announces(line: bytes, most: int) -> None:
    data = b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: 0", line])
    known, _ = AnswerHeads().parse(data + b"\r\n\r\n", len(data), "POST")
    assert known.most_requests == most


@pytest.mark.parametrize(
    ("lines", "status", "method", "framing", "length"),
    [
        ((b"Content-Length: 7",), b"HTTP/1.1 200 OK", "POST", Framing.LENGTH, 7),
        ((b"Content-Length: 0",), b"HTTP/1.1 200", "POST", Framing.LENGTH, 0),
        ((b"Content-Length: 7",), b"HTTP/1.1 200 OK", "HEAD", Framing.NONE, 7),
        ((b"Content-Length: 7",), b"HTTP/1.1 304 Not Modified", "GET", Framing.NONE, 7),
        ((), b"HTTP/1.1 204 No Content", "DELETE", Framing.NONE, 0),
        ((), b"HTTP/1.1 200 OK", "GET", Framing.CLOSE, 0),
        ((), b"HTTP/1.1 200 OK", "HEAD", Framing.NONE, 0),
        (
            (b"Content-Length: 7", b"Transfer-Encoding: chunked"),
            b"HTTP/1.1 200 OK",
            "GET",
            Framing.CHUNKED,
            0,
        ),
        (
            (b"Transfer-Encoding: chunked", b"Content-Length: 7"),
            b"HTTP/1.1 200 OK",
            "GET",
            Framing.CHUNKED,
            0,
        ),
    ],
)
def test_how_the_body_ends(
    lines: tuple[bytes, ...], status: bytes, method: str, framing: Framing, length: int
) -> None:
    parsed = head(*lines, status=status, method=method)
    assert (parsed.framing, parsed.length) == (framing, length)
    announced = b"Content-Length" in b"".join(lines) and framing is not Framing.CHUNKED
    told = [value for name, value in parsed.headers if name == b"Content-Length"]
    assert told == ([b"%d" % length] if announced else [])


@pytest.mark.parametrize(
    ("status", "connection", "stays"),
    [
        (b"HTTP/1.1 200 OK", None, True),
        (b"HTTP/1.1 200 OK", b"Close", False),
        (b"HTTP/1.0 200 OK", None, False),
        (b"HTTP/1.0 200 OK", b"Keep-Alive", True),
    ],
)
def test_whether_the_connection_stays(status: bytes, connection: bytes | None, stays: bool) -> None:
    lines = [b"Content-Length: 1"]
    if connection is not None:
        lines.append(b"Connection: " + connection)
    assert head(*lines, status=status).keep_alive is stays


def test_a_body_that_ends_with_the_connection_leaves_none_to_keep() -> None:
    assert not head(b"Connection: keep-alive").keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 No",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n: no name",
        b"HTTP/1.1 200 OK\r\nName : x",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded",
        b"HTTP/1.1 200 OK\r\nA: b\nInjected: c",
        b"HTTP/1.1 200 OK\r\nA: b\rc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1,1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x",
        b"HTTP/1.1 200 O\x1b[2JK",
        b"HTTP/1.1 200 OK\r\nA: b\x00c",
        b"HTTP/1.1 200 OK\r\nA b: c",
        b"HTTP/1.1 200 OK\nA: b",
    ],
)
def test_a_broken_head_is_refused(data: bytes) -> None:
    with pytest.raises(BadResponseError):
        parse_head(data, "GET")


@given(st.binary(max_size=300), st.sampled_from(["GET", "HEAD", "POST"]))
def test_any_bytes_are_a_head_or_refused(data: bytes, method: str) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length:"):
        try:
            parse_head(prefix + data, method)
        except BadResponseError:
            continue

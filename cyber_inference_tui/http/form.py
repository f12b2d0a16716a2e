"""Searches multipart forms for the field ``model``. Pure."""

from __future__ import annotations

import re

from cyber_inference_tui.errors import InvalidRequestError

# One more parameter of a header's value (RFC 9110, 5.6.6).
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;,\s]++)', re.DOTALL)
_MAX_PARTS = 1000
_MAX_PART_HEAD = 8192
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_BEHIND_BOUNDARY = re.compile(rb"--|[ \t]{0,100}(?:\r?\n|\Z)")
_MOST_BEHIND = 102


def is_form(content_type: str) -> bool:
    """Check whether a body of this type is a multipart form."""
    return content_type.lower().startswith("multipart/form-data")


class FormSearch:
    """The search for the field ``model`` of a multipart body, as the body arrives.

    Call ``look`` whenever there are more bytes, and ``field`` once the body is whole. No byte is
    searched twice. Lines may end with LF alone, as those of some scripts do.
    """

    def __init__(self, content_type: str) -> None:
        boundary = _parameters(content_type).get("boundary")
        self._problem = "" if boundary else "The multipart body has no boundary."
        # The line end in front belongs to the delimiter (RFC 2046, 5.1.1).
        self._delimiter = b"\n--" + (boundary or "").encode("latin-1", "replace")
        self._at = 0
        """The place where the search goes on."""
        self._part: int | None = None
        """The beginning of the present part."""
        self._count = 0
        self._file: slice | None = None
        self._found: slice | None = None
        self._is_over = not boundary

    def field(self, body: bytes | bytearray) -> slice | None:
        """Return the position of the field's value in the whole body; ``None`` = there is none.

        A field sent as a file counts only if there is no other. Raises ``InvalidRequestError``.
        """
        self.look(body, is_whole=True)
        self._is_over = True
        if self._problem:
            raise InvalidRequestError(self._problem)
        return self._found or self._file

    def look(self, body: bytes | bytearray, *, is_whole: bool = False) -> None:
        """Search the bytes that have arrived since the last call."""
        while not self._is_over:
            start = self._next_delimiter(body)
            behind = start + len(self._delimiter)
            if start < -1 or (len(body) < behind + _MOST_BEHIND and not is_whole):
                return
            self._count += 1
            if self._count > _MAX_PARTS:
                self._problem = f"The multipart body has more than {_MAX_PARTS} parts."
                self._is_over = True
            # Otherwise it is the beginning of a longer boundary, of a nested body.
            elif _BEHIND_BOUNDARY.match(body, behind):
                if self._part is not None:
                    self._end_part(body, self._part, start)
                self._part = behind
            self._at = behind

    def _next_delimiter(self, body: bytes | bytearray) -> int:
        """Return the position of the next delimiter, below -1 if there is none yet.

        At the very beginning of a body it has no line end in front, which would be at -1.
        """
        delimiter = self._delimiter
        if self._at == 0 and body.startswith(delimiter[1:]):
            return -1
        found = body.find(delimiter, self._at)
        if found < 0:
            if len(body) >= len(delimiter):
                self._at = max(self._at, len(body) - len(delimiter) + 1)
            return -2
        self._at = found
        return found

    def _end_part(self, body: bytes | bytearray, start: int, end: int) -> None:
        """Note the value of a part if it is the field."""
        if body.startswith(b"\r", end - 1):
            end -= 1
        head_end = _HEAD_END.search(body, start, min(end, start + _MAX_PART_HEAD))
        if head_end is None:
            return
        for line in body[start : head_end.start()].splitlines():
            if not line.lower().startswith(b"content-disposition:"):
                continue
            about = _parameters(line.decode("latin-1"))
            if about.get("name") != "model":
                continue
            value = slice(head_end.end(), end)
            if "filename" not in about:
                self._found, self._is_over = value, True
                return
            self._file = self._file or value


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header's value, with names in lower case."""
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
        for name, value in _PARAMETER.findall(header)
    }

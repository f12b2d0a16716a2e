"""The header of a GGUF file, read within bounds (versions 2 and 3, little-endian).

Nothing in the file is believed: every count, length and offset is checked against the file's
size before it is used, arrays are skipped rather than built, and one typed error says what is
wrong. Layout: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

from cyber_inference_tui.errors import GGUFError

MAGIC = b"GGUF"
MAX_KEYS = 100_000
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES = 65_535
MAX_TEXT_BYTES = 1 << 20
"""A longer string value is skipped: chat templates are the longest that matter."""

MAX_LIST = 4096
"""Arrays of numbers up to this length are kept (per-layer counts); longer ones are skipped."""

_MAX_NESTING = 4
_BUFFER = 1 << 18

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip

# ggml's tensor types: (values in a block, bytes of a block); ggml/src/ggml.c, type_traits.
_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17), 40: (64, 36),
}  # fmt: skip

Value = int | float | bool | str | tuple[int | float | bool, ...] | None
"""``None`` stands for what was skipped: long or nested arrays, arrays of strings, long texts."""


class Tensor(msgspec.Struct, frozen=True):
    """One tensor's description; ``size`` in bytes, ``None`` for a type unknown here."""

    name: str
    shape: tuple[int, ...]
    type: int
    size: int | None

    @property
    def count(self) -> int:
        """How many values it holds."""
        total = 1
        for dimension in self.shape:
            total *= dimension
        return total


class Header(msgspec.Struct, frozen=True):
    """What stands before the tensors' data."""

    version: int
    values: dict[str, Value]
    lengths: dict[str, int]
    """The lengths of arrays, kept or not."""
    tensors: tuple[Tensor, ...]
    data_offset: int
    file_size: int

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors of known type."""
        return sum(tensor.size or 0 for tensor in self.tensors)


def read_header(path: Path) -> Header:
    """The header of a file. Raises ``GGUFError``, or ``OSError`` if it cannot be read at all."""
    with path.open("rb", buffering=_BUFFER) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return parse_header(file, size)


def parse_header(file: BinaryIO, size: int) -> Header:
    """As ``read_header``, from an open file of ``size`` bytes that stands at its beginning."""
    reader = _Reader(file, size)
    if reader.take(4) != MAGIC:
        raise GGUFError("it is not a GGUF file")
    version = reader.number("I")
    if version not in {2, 3}:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in {2, 3}:
            raise GGUFError("it is a big-endian GGUF file")
        raise GGUFError(f"its GGUF version {version} is unknown")
    # The smallest tensor description has 24 bytes, the smallest key-value pair 13.
    tensor_count = reader.count("tensors", MAX_TENSORS, 24)
    key_count = reader.count("keys", MAX_KEYS, 13)
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(key_count):
        key = reader.text(MAX_KEY_BYTES, "a key")
        kind = reader.number("I")
        values[key], length = reader.value(kind)
        if length is not None:
            lengths[key] = length
    described = [_tensor(reader) for _ in range(tensor_count)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise GGUFError("its alignment makes no sense")
    offset = -(-reader.position // alignment) * alignment
    for tensor, start in described:
        end = offset + start + (tensor.size or 0)
        if end > size:
            raise GGUFError(
                f"it is truncated: {tensor.name[:80]} should end at byte {end}, the file has {size}"
            )
    return Header(version, values, lengths, tuple(one for one, _ in described), offset, size)


def _tensor(reader: _Reader) -> tuple[Tensor, int]:
    name = reader.text(MAX_KEY_BYTES, "a tensor's name")
    dimensions = reader.number("I")
    if dimensions > 8:
        raise GGUFError(f"a tensor has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    kind = reader.number("I")
    start = reader.number("Q")
    total = 1
    for dimension in shape:
        total *= dimension
    if total >= 1 << 63 or start >= 1 << 63:
        raise GGUFError("a tensor's size makes no sense")
    block = _TYPES.get(kind)
    size = -(-total // block[0]) * block[1] if block else None
    return Tensor(name, shape, kind, size), start


class _Reader:
    """Reads forward within the file's size."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        self._check(count)
        data = self._file.read(count)
        if len(data) != count:
            raise GGUFError("it is truncated in its header")
        self.position += count
        return data

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        self._check(count)
        self._file.seek(count, io.SEEK_CUR)
        self.position += count

    def _check(self, count: int) -> None:
        if count > self._size - self.position:
            raise GGUFError("it is truncated in its header")

    def number(self, code: str) -> int:
        """One whole number."""
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def count(self, what: str, most: int, smallest: int) -> int:
        """A number of things of at least ``smallest`` bytes each, which must fit the file."""
        value = self.number("Q")
        if value > most or value * smallest > self._size - self.position:
            raise GGUFError(f"it claims {value} {what}, more than the file can hold")
        return value

    def text(self, most: int, what: str) -> str:
        """A string of at most ``most`` bytes."""
        length = self.number("Q")
        if length > most:
            raise GGUFError(f"{what} has {length} bytes")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int) -> tuple[Value, int | None]:
        """A value of the given type, and its length if it is an array."""
        code = _SCALARS.get(kind)
        if code is not None:
            scalar: int | float | bool = struct.unpack(
                f"<{code}", self.take(struct.calcsize(f"<{code}"))
            )[0]
            return scalar, None
        if kind == _STRING:
            length = self.number("Q")
            if length > MAX_TEXT_BYTES:
                self.skip(length)
                return None, None
            return self.take(length).decode("utf-8", "replace"), None
        if kind == _ARRAY:
            return self._array(0)
        raise GGUFError(f"it has a value of unknown type {kind}")

    def _array(self, nesting: int) -> tuple[Value, int]:
        if nesting > _MAX_NESTING:
            raise GGUFError("its arrays are nested too deeply")
        kind = self.number("I")
        length = self.number("Q")
        code = _SCALARS.get(kind)
        if code is not None:
            width = struct.calcsize(f"<{code}")
            if length > MAX_LIST:
                self.skip(length * width)
                return None, length
            return struct.unpack(f"<{length}{code}", self.take(length * width)), length
        # Every string and every array has a length of 8 bytes at least.
        if length * 8 > self._size - self.position:
            raise GGUFError("it is truncated in its header")
        if kind == _STRING:
            self._skip_strings(length)
        elif kind == _ARRAY:
            for _ in range(length):
                self._array(nesting + 1)
        else:
            raise GGUFError(f"it has an array of unknown type {kind}")
        return None, length

    def _skip_strings(self, count: int) -> None:
        # Vocabularies have 100,000s of them: this loop decides how long a scan takes.
        read, seek, unpack = self._file.read, self._file.seek, struct.Struct("<Q").unpack
        left = self._size - self.position
        for _ in range(count):
            raw = read(8)
            if len(raw) != 8:
                raise GGUFError("it is truncated in its header")
            length = unpack(raw)[0]
            left -= 8 + length
            if left < 0:
                raise GGUFError("it is truncated in its header")
            if length < 4096:
                read(length)
            else:
                seek(length, io.SEEK_CUR)
        self.position = self._size - left

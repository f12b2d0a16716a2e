"""Reads the header of a GGUF file, and nothing more, within fixed limits.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. A file
may be truncated, damaged or malicious. Every count, length and offset is compared with the file's
size before it is used, large values are skipped without being built, and every error in the file is
a ``GGUFError``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.gguf.adapter import AdaptedMatrix, AdaptedTensors
from cyber_inference_tui.gguf.quantization import TENSOR_TYPES
from cyber_inference_tui.gguf.repacking import Matrices, Role, matrix_kind
from cyber_inference_tui.text import clean_line

Value = bool | int | float | str | tuple[bool | int | float, ...]

# Far above any real file (a vocabulary of 262,144 tokens with its merges is 20 MB of header).
_MAX_HEADER: Final = 512 * 2**20
_MAX_ENTRIES: Final = 65_536
_MAX_TENSORS: Final = 262_144
_MAX_STRINGS: Final = 8 * 2**20
_MAX_KEY: Final = 65_535
_MAX_NAME: Final = 1024
_MAX_DIMENSIONS: Final = 8
_MAX_NESTED: Final = 65_536
# Limits of the values in memory: longer strings and arrays are skipped. A larger total is an error.
_MAX_STRING: Final = 256 * 1024
_MAX_ARRAY: Final = 1024
_MAX_KEPT: Final = 4 * 2**20

_CHUNK: Final = 256 * 1024

_TOKENS: Final = "tokenizer.ggml.tokens"
# Only older files name these tokens; llama.cpp finds them by their text (``src/llama-vocab.cpp``).
_INFILL_KEYS: Final = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
_INFILL_TOKENS: Final = tuple(
    struct.pack("<Q", len(token.encode())) + token.encode()
    for token in (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",  # noqa: RUF001 - DeepSeek's sign
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    )
)
# llama.cpp recognizes a prediction layer by this tensor (common/speculative.cpp).
_PREDICTION: Final = ".nextn.eh_proj.weight"
_LONGEST_TOKEN: Final = max(map(len, _INFILL_TOKENS))

_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _UINT32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _UINT64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}


@dataclass(frozen=True, slots=True)
class Tensors:
    """The sums over the list of tensors. Sizes are bytes."""

    count: int
    parameters: int
    """The numbers in all tensors together."""
    size: int
    size_by_type: dict[str, int]
    """``"?"`` = unknown types, with 0 bytes."""
    matrices: tuple[Matrices, ...] = ()
    """The matrices of the model's multiplications."""
    adapted: tuple[AdaptedMatrix, ...] = ()
    """Of a LoRA adapter: the matrices that it changes."""
    adapted_blocks: int = 0
    """Of a LoRA adapter: the number of the last block that it changes, from 1."""
    predicts: bool = False
    """There are the tensors of a prediction layer (MTP)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The content of a header."""

    version: int
    values: dict[str, Value]
    """Scalars, strings up to 256 KiB and arrays of up to 1,024 numbers, by key."""
    array_lengths: dict[str, int]
    """The number of items of each array, including arrays whose items were skipped."""
    tensors: Tensors
    infill: bool = False
    """The vocabulary has a token that begins a text with a gap to fill."""
    tokens_digest: str | None = None
    """A digest of the texts of all tokens, in order; ``None`` = it has none."""


def read_header(path: Path) -> Header:
    """Return the header of the file at ``path``. Raises ``GGUFError`` for every error in it.

    Takes a few MiB of memory at most, for any file. Never waits: a pipe is refused.
    """
    try:
        with _regular_file(path) as (descriptor, size):
            return _read(_Cursor(descriptor, size))
    except OSError as error:
        raise GGUFError(f"it cannot be read: {error.strerror or error}") from error


def read_beginning(data: bytes) -> Header:
    """Return the header in the first bytes of a file: no tensors, and only the first keys.

    Writers put the architecture's keys before the vocabulary, so 64 KiB contain them all. Raises
    ``GGUFError`` if the bytes are not the start of a GGUF file.
    """
    cursor = _Beginning(data)
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    try:
        version, tensors, entries = _counts(cursor)
        _read_metadata(cursor, entries, values, lengths)
    except _BeginningEndsError as end:
        if not values:
            raise GGUFError("too little of it is there") from end
    return Header(version, values, lengths, Tensors(tensors, 0, 0, {}))


@contextmanager
def _regular_file(path: Path) -> Iterator[tuple[int, int]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise GGUFError("its path is not valid") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError("it is not a regular file")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


class _Cursor:
    """A position in the file that only moves forward, with one chunk of the file in memory."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size
        self._start = 0  # where in the file the chunk begins
        self._chunk = b""
        self._at = 0  # position within the chunk, or beyond it after a skip
        self._strings = 0
        self._nested = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes. The caller limits ``count``."""
        if self._at + count > len(self._chunk):
            self._fill(count)
        taken = self._chunk[self._at : self._at + count]
        self._at += count
        return taken

    def skip(self, count: int) -> None:
        if count > self.size - self.position:
            raise self.cut_short()
        self._at += count

    def _fill(self, count: int) -> None:
        position = self.position
        if count > self.size - position:
            raise self.cut_short()
        if position + count > _MAX_HEADER:
            raise GGUFError("its header is longer than 512 MiB")
        self._chunk = os.pread(self._descriptor, max(count, _CHUNK), position)
        self._start, self._at = position, 0
        if len(self._chunk) < count:  # the file became shorter since it was opened
            raise self.cut_short()

    def cut_short(self) -> GGUFError:
        return GGUFError("it is cut short: its header says more than the file holds")

    def uint32(self) -> int:
        return int(_UINT32.unpack(self.take(4))[0])

    def uint64(self) -> int:
        return int(_UINT64.unpack(self.take(8))[0])

    def has_passed(self, start: int, texts: tuple[bytes, ...]) -> bool:
        """Return whether one of the texts is between ``start`` and the position.

        Their bytes are read a second time. No text is longer than ``_LONGEST_TOKEN``.
        """
        while start < self.position:
            if any(text in self._again(start) for text in texts):
                return True
            start += _CHUNK - _LONGEST_TOKEN
        return False

    def digest_since(self, start: int) -> str:
        """Return a digest of the bytes from ``start`` to the position, which are read again."""
        digest = hashlib.blake2b(digest_size=16)
        while start < self.position:
            chunk = self._again(start)
            digest.update(chunk)
            start += len(chunk)
        return digest.hexdigest()

    def _again(self, start: int) -> bytes:
        """Return bytes from ``start`` on, up to the position and a chunk at most."""
        chunk = os.pread(self._descriptor, min(_CHUNK, self.position - start), start)
        if not chunk:  # the file became shorter since it was opened
            raise self.cut_short()
        return chunk

    def array_length(self) -> int:
        """Return the number of items of the array that begins here; stay at the position."""
        start = self.take(12)
        self._at -= 12
        return int(_UINT64.unpack(start[4:])[0])

    def key(self) -> str:
        length = self.uint64()
        if length > _MAX_KEY:
            raise GGUFError(f"a key in its header has {length} bytes")
        return self.take(length).decode("utf-8", "replace")

    def name(self) -> str:
        length = self.uint64()
        if length > _MAX_NAME:
            raise GGUFError(f"the name of one of its tensors has {length} bytes")
        return self.take(length).decode("utf-8", "replace")

    def skip_nested_array(self) -> None:
        """Skip an array within an array; it may only contain plain values."""
        self._nested += 1
        kind, count = self.uint32(), self.uint64()
        scalar = _SCALARS.get(kind)
        if scalar is not None and self._nested <= _MAX_NESTED:
            self.skip(count * scalar.size)
        elif kind == _STRING and self._nested <= _MAX_NESTED:
            self.skip_strings(count)
        else:
            raise GGUFError("its header holds arrays within arrays beyond reason")

    def skip_strings(self, count: int) -> None:
        """Skip ``count`` strings. This is the inner loop for a header: vocabularies are long."""
        self._strings += count
        if count > (self.size - self.position) // 8:
            raise self.cut_short()
        if self._strings > _MAX_STRINGS:
            raise GGUFError("its header holds more than 8 million strings")
        unpack = _UINT64.unpack_from
        chunk, at = self._chunk, self._at
        for _ in range(count):
            if at + 8 > len(chunk):
                self._at = at
                self._fill(8)
                chunk, at = self._chunk, self._at
            at += 8 + unpack(chunk, at)[0]
        self._at = at
        if self.position > self.size:
            raise self.cut_short()


class _BeginningEndsError(GGUFError):
    """The available bytes end before the header does."""


class _Beginning(_Cursor):
    """A cursor over the first bytes of a file, in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, len(data))
        self._chunk = data

    def _fill(self, count: int) -> None:
        raise self.cut_short()

    def _again(self, start: int) -> bytes:
        return self._chunk[start : min(self._at, start + _CHUNK)]

    def cut_short(self) -> GGUFError:
        return _BeginningEndsError("its beginning ends here")


def _counts(cursor: _Cursor) -> tuple[int, int, int]:
    """Return the version, and the numbers of tensors and metadata entries."""
    magic = cursor.take(4) if cursor.size >= 24 else b""
    if magic == b"vers" and cursor.take(20) == b"ion https://git-lfs.":
        raise GGUFError("it is a Git LFS pointer, not the model itself: get that with git lfs pull")
    if magic != b"GGUF":
        raise GGUFError("it is not a GGUF file")
    version = cursor.uint32()
    if version not in {2, 3}:
        if version & 0xFFFF == 0:
            raise GGUFError("it is a big-endian GGUF file, which this machine cannot run")
        raise GGUFError(f"its GGUF version {version} is not known (2 and 3 are)")
    tensors, entries = cursor.uint64(), cursor.uint64()
    if entries > _MAX_ENTRIES or tensors > _MAX_TENSORS:
        raise GGUFError(f"its header claims {tensors} tensors and {entries} metadata entries")
    return version, tensors, entries


def _read(cursor: _Cursor) -> Header:
    version, tensors, entries = _counts(cursor)
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    infill, tokens = _read_metadata(cursor, entries, values, lengths)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not _is_power_of_two(alignment):
        raise GGUFError("its general.alignment is not a power of two")
    return Header(version, values, lengths, _tensors(cursor, tensors, alignment), infill, tokens)


def _read_metadata(
    cursor: _Cursor, entries: int, values: dict[str, Value], lengths: dict[str, int]
) -> tuple[bool, str | None]:
    """Fill in ``values`` and ``lengths``; an array has a length even if its items are cut off.

    Return whether the vocabulary has a token for infilling, and the digest of its tokens.
    """
    kept, infill, tokens = 0, False, None
    for _ in range(entries):
        key = cursor.key()
        kind = cursor.uint32()
        if kind == _ARRAY:
            lengths[key] = cursor.array_length()
        start = cursor.position
        value = _value(cursor, kind)
        if key == _TOKENS:
            infill = cursor.has_passed(start, _INFILL_TOKENS)
            tokens = cursor.digest_since(start)
        kept += len(key) + _weight(value)
        if kept > _MAX_KEPT:
            raise GGUFError("its metadata is larger than 4 MiB beside the vocabulary")
        if value is not None:
            if key in values:
                raise GGUFError(f"its header holds {clean_line(key, limit=100)} twice")
            values[key] = value
    return infill or any(key in values for key in _INFILL_KEYS), tokens


def _weight(value: Value | None) -> int:
    """Return an estimate of the bytes of memory that ``value`` takes."""
    if isinstance(value, str):
        return len(value)
    return 64 + (32 * len(value) if isinstance(value, tuple) else 0)


def _value(cursor: _Cursor, kind: int) -> Value | None:
    """Return a value; ``None`` = it was skipped."""
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        raw = cursor.take(scalar.size)
        value: Value = _checked_bool(raw) if kind == _BOOL else scalar.unpack(raw)[0]
        return value
    if kind == _STRING:
        length = cursor.uint64()
        if length > _MAX_STRING:
            cursor.skip(length)
            return None
        return cursor.take(length).decode("utf-8", "replace")
    if kind == _ARRAY:
        return _array(cursor)
    raise GGUFError(f"its header holds a value of unknown type {kind}")


def _checked_bool(raw: bytes) -> bool:
    if raw not in {b"\0", b"\1"}:
        raise GGUFError("its header holds a truth value that is neither 0 nor 1")
    return raw == b"\1"


def _array(cursor: _Cursor) -> Value | None:
    kind, count = cursor.uint32(), cursor.uint64()
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        if count > _MAX_ARRAY:
            cursor.skip(count * scalar.size)
            return None
        raw = cursor.take(count * scalar.size)
        return tuple(chain.from_iterable(scalar.iter_unpack(raw)))
    if kind == _STRING:
        cursor.skip_strings(count)
        return None
    if kind != _ARRAY:
        raise GGUFError(f"its header holds an array of unknown type {kind}")
    for _ in range(count):
        cursor.skip_nested_array()
    return None


def _tensors(cursor: _Cursor, count: int, alignment: int) -> Tensors:
    parameters = total = end = 0
    by_type: dict[str, int] = {}
    matrices: dict[tuple[str, Role, int], int] = {}
    adapted = AdaptedTensors()
    predicts = False
    for _ in range(count):
        name = cursor.name()
        dimensions = cursor.uint32()
        if dimensions > _MAX_DIMENSIONS:
            raise GGUFError(f"one of its tensors has {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))
        kind = cursor.uint32()
        offset = cursor.uint64()
        numbers = _product(shape)
        if offset % alignment:
            raise GGUFError("one of its tensors is not aligned")
        known = TENSOR_TYPES.get(kind)
        adapted.add(name, shape)
        predicts = predicts or name.endswith(_PREDICTION)
        size = 0
        if known is not None:
            if (shape[0] if shape else 1) % known.values:
                raise GGUFError(f"one of its tensors does not fill its {known.name} blocks")
            size = numbers // known.values * known.bytes
            if (matrix := matrix_kind(name, known, shape)) is not None:
                matrices[matrix] = matrices.get(matrix, 0) + size
        label = known.name if known is not None else "?"
        by_type[label] = by_type.get(label, 0) + size
        parameters += numbers
        total += size
        end = max(end, offset + size)
    start = -(-cursor.position // alignment) * alignment
    if count and start + end > cursor.size:
        raise GGUFError(
            f"it is cut short: {cursor.size:,} of at least {start + end:,} bytes are there"
        )
    if "?" in by_type:  # all other bytes belong to the unknown types
        total = cursor.size - start
    alike = tuple(Matrices(*kind, size) for kind, size in matrices.items())
    return Tensors(
        count, parameters, total, by_type, alike, adapted.matrices, adapted.blocks, predicts
    )


def _product(shape: tuple[int, ...]) -> int:
    numbers = 1
    for length in shape:
        numbers *= length
        if numbers >= 2**63:
            raise GGUFError("one of its tensors claims more numbers than any machine holds")
    return numbers


def _is_power_of_two(number: int) -> bool:
    return not isinstance(number, bool) and 0 < number <= 2**30 and number & (number - 1) == 0

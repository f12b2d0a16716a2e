"""Writes small GGUF files without numpy: metadata, and tensors given as sparse rows.

Layout: github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3, little-endian).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

ALIGNMENT = 32
_F32, _Q8_0 = 0, 8
_BLOCK_VALUES = 32
T = TypeVar("T")
_Q8_0_BLOCK = struct.Struct("<e32b")

Row = Mapping[int, float]
"""Column to value; all other columns are zero."""


class Tensor(NamedTuple):
    """One tensor: its ``ggml`` type, its shape with the row length first, and its bytes."""

    name: str
    type: int
    shape: tuple[int, ...]
    data: bytes


def f32_vector(name: str, values: Sequence[float]) -> Tensor:
    """Return a vector of 32-bit floats, the format of norm weights."""
    return Tensor(name, _F32, (len(values),), struct.pack(f"<{len(values)}f", *values))


def q8_0_matrix(name: str, rows: Sequence[Row], columns: int) -> Tensor:
    """Return a matrix in Q8_0: 32 values of a row share one half-float scale (34 bytes a block).

    ``columns`` is a multiple of 32. A row with one value in each block is exact to 0.05 %.
    """
    blocks = columns // _BLOCK_VALUES
    zeros = bytes(blocks * _Q8_0_BLOCK.size)
    return Tensor(
        name, _Q8_0, (columns, len(rows)), b"".join(_q8_0_row(row, zeros) for row in rows)
    )


def _q8_0_row(row: Row, zeros: bytes) -> bytes:
    if not row:
        return zeros
    by_block: dict[int, list[tuple[int, float]]] = {}
    for column, value in row.items():
        by_block.setdefault(column // _BLOCK_VALUES, []).append((column % _BLOCK_VALUES, value))
    out = bytearray(zeros)
    for block, entries in by_block.items():
        scale = max(abs(value) for _, value in entries) / 127
        quants = [0] * _BLOCK_VALUES
        for column, value in entries:
            quants[column] = round(value / scale) if scale else 0
        _Q8_0_BLOCK.pack_into(out, block * _Q8_0_BLOCK.size, scale, *quants)
    return bytes(out)


def gguf_bytes(metadata: Mapping[str, object], tensors: Sequence[Tensor]) -> bytes:
    """Return a whole GGUF file.

    Metadata values: bool, int (as uint32), float (as float32), str, and lists of str, of int (as
    int32) or of float.
    """
    header = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _text(key) + _value(value)
    offset = 0
    for tensor in tensors:
        header += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        header += struct.pack("<IQ", tensor.type, offset)
        offset += _padded(len(tensor.data))
    parts = [bytes(header).ljust(_padded(len(header)), b"\0")]
    parts += [tensor.data.ljust(_padded(len(tensor.data)), b"\0") for tensor in tensors]
    return b"".join(parts)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _array(8, value, _text)
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return _array(5, value, struct.Struct("<i").pack)
    if isinstance(value, list) and all(isinstance(item, float) for item in value):
        return _array(6, value, struct.Struct("<f").pack)
    raise TypeError(f"no GGUF type for {type(value).__name__}")


def _array(item_type: int, items: Sequence[T], pack: Callable[[T], bytes]) -> bytes:
    return struct.pack("<IIQ", 9, item_type, len(items)) + b"".join(map(pack, items))

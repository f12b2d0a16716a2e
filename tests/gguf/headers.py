"""GGUF files for tests: complete ones by the package's writer, odd ones byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyber_inference_tui.gguf.file_writer import Tensor, f32_vector, gguf_bytes, q8_0_matrix

LLAMA: dict[str, object] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 15,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}


def tensors() -> list[Tensor]:
    return [
        f32_vector("output_norm.weight", [1.0] * 64),
        q8_0_matrix("output.weight", [{}] * 3, 64),
    ]


def write_gguf(
    path: Path,
    metadata: Mapping[str, object] | None = None,
    weights: Sequence[Tensor] | None = None,
) -> Path:
    """Write a small model to ``path``; the metadata is added to a llama's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = gguf_bytes({**LLAMA, **(metadata or {})}, tensors() if weights is None else weights)
    path.write_bytes(data)
    return path


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


def tensor(
    shape: Sequence[int],
    *,
    name: str = "t",
    kind: int = 0,
    offset: int = 0,
    claimed: int | None = None,
) -> bytes:
    dimensions = len(shape) if claimed is None else claimed
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", dimensions) + sizes + struct.pack("<IQ", kind, offset)


def raw(
    entries: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    *,
    version: int = 3,
    data: bytes = b"",
    tensor_count: int | None = None,
    entry_count: int | None = None,
) -> bytes:
    counts = (
        len(infos) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    header = struct.pack("<4sIQQ", b"GGUF", version, *counts) + b"".join(entries) + b"".join(infos)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + data

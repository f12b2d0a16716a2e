"""Models for the pictures of the documentation, on the disk and on the hub.

A file has a real header, and a hole in place of the weights. The stand-in for llama-server answers
in their place.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.gguf.file_writer import Tensor, gguf_bytes
from tests.hub.stand_in_hub import StandInHub

_Q4_K, _Q6_K, _F16 = 12, 14, 1
_BYTES = {_Q4_K: 144 / 256, _Q6_K: 210 / 256, _F16: 2.0}
"""Bytes of a value, by the type of a tensor."""


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A model: the numbers of its header, and the manners of its server."""

    architecture: str
    name: str
    layers: int
    width: int
    kv_heads: int
    context: int
    vocabulary: int
    size: float
    """Of the file, in GB."""
    type: int = _Q4_K
    more: Mapping[str, object] = msgspec.field(default_factory=dict)
    answer: Mapping[str, Any] = msgspec.field(default_factory=dict)
    load_seconds: float = 1.0
    fails: str = ""
    """The last line of its server's log, if its load fails."""

    def write(self, path: Path) -> None:
        """Write the header, and a hole in place of the weights."""
        header, weights = self.header()
        path.write_bytes(header)
        with path.open("r+b") as file:
            file.truncate(len(header) + weights)

    def header(self) -> tuple[bytes, int]:
        """Return the beginning of the file, and the bytes of the weights after it."""
        values = {
            "context_length": self.context,
            "embedding_length": self.width,
            "block_count": self.layers,
            "feed_forward_length": 4 * self.width,
            "attention.head_count": 32,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": 128,
            "attention.value_length": 128,
        }
        metadata = {
            "general.architecture": self.architecture,
            "general.name": self.name,
            "general.file_type": {_Q4_K: 15, _F16: 1}[self.type],
            **{f"{self.architecture}.{key}": value for key, value in values.items()},
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.chat_template": "{{ messages }}{{ tools }}",
            **self.more,
        }
        words = Tensor("token_embd.weight", _Q6_K, (self.width, self.vocabulary), b"")
        left = self.size * 1e9 - self.width * self.vocabulary * _BYTES[_Q6_K]
        rows = int(left / self.layers / self.width / _BYTES[self.type])
        layers = [
            Tensor(f"blk.{number}.ffn_up.weight", self.type, (self.width, rows), b"")
            for number in range(self.layers)
        ]
        header = bytearray(gguf_bytes(metadata, [words, *layers]))
        offset = 0
        for tensor in (words, *layers):  # The writer takes the offsets from the data.
            at = header.index(tensor.name.encode() + struct.pack("<I", 2)) + len(tensor.name) + 24
            struct.pack_into("<Q", header, at, offset)
            offset += math.ceil(math.prod(tensor.shape) * _BYTES[tensor.type] / 32) * 32
        return bytes(header), offset

    def switches(self) -> dict[str, Any]:
        """Return the switches of its stand-in."""
        cache = self.layers * self.kv_heads * 128 * 2 * 2 * min(self.context, 8192)
        sizes = {"model": self.size * 1e9, "KV": cache, "compute": 0.3 * (1 << 30)}
        begin = "0.00.0{}0.000 I {}:        {:>10} {} buffer size = {:8.2f} MiB"
        sources = ("load_tensors", "llama_kv_cache", "sched_reserve")
        lines = [
            begin.format(number, source, "CUDA0", kind, size / (1 << 20))
            for number, (source, (kind, size)) in enumerate(
                zip(sources, sizes.items(), strict=True), 2
            )
        ]
        found = {
            "load_lines": lines,
            "load_seconds": self.load_seconds,
            "max_life": 1800.0,
            "slot_tokens": True,
        }
        if self.fails:
            found["die"] = {"after": 1.0, "stderr": [f"0.00.050.000 E {self.fails}"]}
        return {**found, "answer": dict(self.answer)}


def _speed(tokens_per_second: float, text: str, *, cached: int = 900, new: int = 60) -> Any:
    """Return the switches of an answer."""
    times = {"cached": cached, "new": new}
    prefill = round(new / 1300, 2)
    interval = 1 / tokens_per_second
    return {"text": text, "interval": interval, "prefill": prefill, "timings": times}


MODELS: Mapping[str, Staged] = {
    "qwen3-4b-q4_k_m": Staged(
        architecture="qwen3",
        name="Qwen3 4B",
        layers=36,
        width=2560,
        kv_heads=8,
        context=40960,
        vocabulary=151936,
        size=2.5,
        answer=_speed(
            21.0,
            "Start with the **directories**, largest last:\n\n"
            "```sh\ndu -xh --max-depth=1 / | sort -h\n```\n\n"
            "Then look inside the largest one in the same way. Two places fill up most often:\n\n"
            "- `/var/log`: old logs. `journalctl --vacuum-size=200M` keeps the newest.\n"
            "- `~/.cache`: programs make its files again when they need them.\n\n"
            "If `df` still shows a full disk, a deleted file is open in some program. "
            "`lsof +L1` names it, and a restart of that program frees the space.",
        ),
    ),
    "gemma-3-4b-it-q4_k_m": Staged(
        architecture="gemma3",
        name="Gemma 3 4B IT",
        layers=34,
        width=2560,
        kv_heads=4,
        context=131072,
        vocabulary=262144,
        size=2.49,
        more={"gemma3.attention.sliding_window": 1024},
        answer=_speed(
            17.0,
            "The quickest way is a program that shows it as a list:\n\n"
            "1. Install `ncdu` (Debian: `apt install ncdu`).\n"
            "2. Run `ncdu -x /`. It reads the whole disk once.\n"
            "3. Walk down with the arrow keys; `d` deletes.\n\n"
            "The option `-x` stays on **one** file system, so that it does not count "
            "network drives.",
        ),
    ),
    "qwen2.5-coder-3b-q4_k_m": Staged(
        architecture="qwen2",
        name="Qwen2.5 Coder 3B",
        layers=36,
        width=2048,
        kv_heads=2,
        context=32768,
        vocabulary=151936,
        size=1.93,
        load_seconds=20.0,
        answer=_speed(27.0, "Yes. " * 60),
    ),
    "nomic-embed-text-v2": Staged(
        architecture="bert",
        name="Nomic Embed Text v2",
        layers=12,
        width=768,
        kv_heads=12,
        context=512,
        vocabulary=250048,
        size=0.51,
        type=_F16,
        answer={"prefill": 0.05, "timings": {"cached": 0, "new": 310}, "text": ""},
    ),
    "phi-4-mini-q4_k_m": Staged(
        architecture="phi3",
        name="Phi 4 Mini",
        layers=32,
        width=3072,
        kv_heads=8,
        context=131072,
        vocabulary=200064,
        size=2.49,
        fails="llama_model_load: error loading model: unknown pre-tokenizer type: 'gpt-4o'",
    ),
    "llama-3.3-70b-q4_k_m": Staged(
        architecture="llama",
        name="Llama 3.3 70B",
        layers=80,
        width=8192,
        kv_heads=8,
        context=131072,
        vocabulary=128256,
        size=42.5,
    ),
}


class Large(bytes):
    """The beginning of a file on the hub, which says that it has ``size`` bytes."""

    size: int

    def __len__(self) -> int:
        return self.size


_CARD = """\
---
license: apache-2.0
---
# {stem}

Quantized weights of {stem} for llama.cpp.

## Use

```sh
cyber-inference-tui download-model {name}:Q4_K_M
```

- **Q4_K_M** is the usual choice.
- **Q8_0** is close to the original, and needs twice the memory.
"""


def fill(hub: StandInHub) -> None:
    """Add repositories like those of the real hub."""
    for name, billions, layers, width, downloads in (
        ("Qwen/Qwen3-4B-GGUF", 4.0, 36, 2560, 187_000),
        ("Qwen/Qwen3-8B-GGUF", 8.2, 36, 4096, 141_000),
        ("Qwen/Qwen3-14B-GGUF", 14.8, 40, 5120, 65_400),
        ("Qwen/Qwen3-1.7B-GGUF", 1.7, 28, 2048, 48_900),
        ("Qwen/Qwen3-32B-GGUF", 32.8, 64, 5120, 39_800),
        ("Qwen/Qwen3-0.6B-GGUF", 0.6, 28, 1024, 21_700),
    ):
        stem = name.rpartition("/")[2].removesuffix("-GGUF")
        model = Staged(
            architecture="qwen3",
            name=stem,
            layers=layers,
            width=width,
            kv_heads=8,
            context=40960,
            vocabulary=151936,
            size=billions * 0.61,
        )
        begin = model.header()[0].ljust(1 << 16, b"\0")
        files: dict[str, bytes] = {"README.md": _CARD.format(stem=stem, name=name).encode()}
        for kind, size in (("Q4_K_M", 0.61), ("Q5_K_M", 0.71), ("Q6_K", 0.82), ("Q8_0", 1.07)):
            file = files[f"{stem}-{kind}.gguf"] = Large(begin)
            file.size = int(billions * size * 1e9)
        repo = hub.add(name, files)
        repo.downloads, repo.likes = downloads, downloads // 700
        repo.gguf = {"total": int(billions * 1e9), "architecture": "qwen3", "context_length": 40960}

"""``python -m benchmarks.memory``: what is estimated for models beside what a real server took.

Needs a llama-server (``--llama-server`` or ``CYBER_TEST_LLAMA_SERVER``) and some 300 MB in the
temporary directory. Prints a Markdown table; takes half a minute.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.gguf.memory_estimate import MemoryEstimate
from tests.gguf import synthetic, synthetic_recurrent
from tests.gguf.synthetic import Synthetic
from tests.gguf.synthetic_projector import projector
from tests.real.reported_memory import MIB, Reported, estimated_memory, reported_memory

_MODELS: tuple[tuple[str, Callable[[], Synthetic] | None, str], ...] = (
    ("llama, the built-in demo", None, "-c 8192"),
    ("llama", synthetic.dense, "-c 32768"),
    ("llama", synthetic.dense, "-c 32768 -ctk q8_0 -ctv q4_0 -np 3"),
    ("llama", synthetic.dense, "-c 8192 -fa off -ub 256"),
    ("llama, for embeddings", synthetic.dense, "-c 8192 --embedding --pooling mean"),
    ("qwen3", lambda: synthetic.dense("qwen3", layers=16), "-c 16384 -ub 2048"),
    ("qwen3moe", synthetic.experts, "-c 16384"),
    ("deci, heads differ by layer", synthetic.uneven, "-c 16384"),
    ("gemma3, sliding window", synthetic.windowed, "-c 32768"),
    ("gemma3, sliding window", synthetic.windowed, "-c 32768 --swa-full"),
    ("gemma3n, shared cache", synthetic.gemma3n, "-c 16384"),
    ("gemma4, shared cache", synthetic.gemma4, "-c 16384 -np 2"),
    ("gpt-oss, sliding window", synthetic.gpt_oss, "-c 32768"),
    ("deepseek2, latent attention", synthetic.deepseek2, "-c 32768"),
    ("falcon-h1, attention and state", synthetic_recurrent.falcon_h1, "-c 16384"),
    ("qwen35, attention or state", synthetic_recurrent.qwen35, "-c 16384"),
    ("lfm2, attention or convolution", synthetic_recurrent.lfm2, "-c 16384"),
    ("mamba, state only", synthetic_recurrent.mamba, "-c 16384 -np 8"),
    ("rwkv7, state only", synthetic_recurrent.rwkv7, "-c 16384"),
    ("bert, nothing kept", synthetic.bert, "-c 2048 --embedding"),
)
_WITH_PROJECTOR: tuple[str, ...] = ("gemma3", "qwen2vl_merger")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    server = Path(options.llama_server).resolve()
    print(
        "| model | arguments | weights | cache and state | projector | compute | total | off by |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="cyber-benchmark-") as name:
        for line in _rows(server, Path(name)):
            print(line, flush=True)
    return 0


def _rows(server: Path, folder: Path) -> Iterator[str]:
    path, beside = folder / "model.gguf", folder / "mmproj.gguf"
    for label, make, arguments in _MODELS:
        if make is None:
            write_demo(path)
        else:
            make().write(path)
        words = arguments.split()
        real = reported_memory(server, path, [*words, "-fit", "off"])
        yield _row(label, arguments, estimated_memory(path, words), real)
    synthetic.windowed().write(path)
    for kind in _WITH_PROJECTOR:
        projector(kind).write(beside)
        words = ["-c", "2048"]
        real = reported_memory(server, path, [*words, "-fit", "off", "--mmproj", str(beside)])
        estimated = estimated_memory(path, words, projector=beside)
        yield _row(f"gemma3 with a projector ({kind})", "-c 2048 --mmproj …", estimated, real)


def _row(label: str, arguments: str, estimated: MemoryEstimate, real: Reported) -> str:
    pairs = (
        (estimated.weights, real.weights),
        (estimated.kv_cache, real.kv_cache),
        (estimated.projector, real.projector),
        (estimated.compute, real.compute),
        (estimated.total, real.total),
    )
    cells = [
        f"{ours / MIB:.1f} / {theirs / MIB:.1f}" if ours or theirs else "" for ours, theirs in pairs
    ]
    off = f"{round(estimated.total / real.total - 1, 3) + 0.0:+.1%}"
    return f"| {label} | `{arguments}` | {' | '.join(cells)} | {off} |"


if __name__ == "__main__":
    sys.exit(main())

"""The built-in model as a file, computed once for each process of the tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cyber_inference_tui.gguf.demo import demo_bytes

_bytes = cache(demo_bytes)


def write_demo(path: Path) -> None:
    """Write the model ``demo``; tests/gguf tests how the service writes it."""
    path.write_bytes(_bytes())

"""The built-in model as a file, computed once for each process of the tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cyber_inference_tui.gguf.demo import demo_bytes

_bytes = cache(demo_bytes)


def write_demo(path: Path) -> None:
    """Writes the model ``demo``; how the service does that is tested in tests/gguf."""
    path.write_bytes(_bytes())

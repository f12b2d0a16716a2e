"""The demo model's bytes, computed once for each process of the tests because it is slow."""

from __future__ import annotations

import functools

from cyber_inference_tui.gguf import demo

demo_bytes = functools.cache(demo.demo_bytes)

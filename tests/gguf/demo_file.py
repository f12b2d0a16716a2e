"""The demo model's bytes, made once for all tests of a process, as that takes a while."""

from __future__ import annotations

import functools

from cyber_inference_tui.gguf import demo

demo_bytes = functools.cache(demo.demo_bytes)

"""Levels of lines from llama-server, compilers and other programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.log_level import LEVELS, line_ranks


@pytest.mark.parametrize(
    ("level", "text"),
    [
        # llama-server, new and old
        ("info", "0.00.001.416 I srv  llama_server: initializing ..."),
        ("warning", "0.00.039.310 W srv  llama_server: security: no API key is set"),
        ("error", "12.34.041.487 E llama_model_load: error loading model: bad magic"),
        ("debug", "0.00.041.345 D que    start_loop: waiting for new tasks"),
        ("info", "0.00.041.345 I srv  log_server_r: error: said by a client, the letter decides"),
        ("error", "E main: no device"),
        ("warning", '{"type":"log","time":16026,"level":"warn","msg":"srv  error: none\\n"}'),
        ("info", '{"type":"log","time":16026,"level":"new","msg":"srv  error: none\\n"}'),
        ("error", "llama_model_load: error loading model: tensor is missing"),
        ("error", "llama_load_model_from_file: failed to load model"),
        ("error", "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1 MiB failed"),
        ("error", "CUDA error: out of memory"),
        ("error", "/src/ggml.c:12: GGML_ASSERT(false) failed"),
        ("info", "srv  update_slots: all slots are idle"),
        ("info", "llm_load_print_meta: model params = 7.24 B"),
        # The service, and servers that use Python's logging
        ("warning", "W llama.launcher: it is slow"),
        ("error", "C asyncio: nothing works"),
        ("info", "INFO:     Started server process [12]"),
        ("error", "ERROR 01-31 12:00:00 engine.py:12] no memory"),
        ("warning", "2026-01-31 12:00:00 - app - WARNING - careful"),
        ("error", "2026-01-31 12:00:00 | ERROR | app"),
        ("debug", "[DEBUG] detail"),
        ("error", "Traceback (most recent call last):"),
        ("error", "ValueError: no such thing"),
        # CMake, compilers, make
        ("error", "CMake Error at CMakeLists.txt:3 (find_package):"),
        ("warning", "CMake Warning (dev) at CMakeLists.txt:3:"),
        ("warning", "CMake Deprecation Warning at CMakeLists.txt:3:"),
        ("error", "/src/a.cpp:10:5: error: expected ';'"),
        ("warning", "/src/a.cpp:10:5: warning: unused variable [-Wunused]"),
        ("error", "fatal error: cuda.h: No such file or directory"),
        ("error", "make[2]: *** [Makefile:10: all] Error 2"),
        ("info", "C compilers and other tools"),
        ("info", "0 errors and no warnings"),
        ("info", "-- Looking for terror"),
        ("info", ""),
    ],
)
def test_levels_of_lines(level: str, text: str) -> None:
    assert LEVELS[line_ranks([text])[0]].value == level


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(
                ["E a", "error: x", "WARN x", "ok", "I error:", "make: *** x", "EXCEPTION: x"]
            ),
            st.lists(
                st.sampled_from(
                    ["error", "ERROR", "warn", ": ", "failed", " to", "\u017f", "x", "\u212a"]
                ),
                max_size=6,
            ).map("".join),
        ),
        max_size=8,
    )
)
def test_lines_together_have_the_levels_they_have_alone(texts: list[str]) -> None:
    assert list(line_ranks(texts)) == [line_ranks([text])[0] for text in texts]

"""Why a server ended, from its exit and its last lines (lines as real servers print them)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.failure import (
    PORT_TAKEN,
    deciding_line,
    describe_exit,
    explain,
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("NvMapMemAllocInternalTagged: 1075072515 error 12", "NvMap error 12"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "GPU"),
        ("CUDA error: out of memory", "out of GPU memory"),
        ("ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "out of GPU memory"),
        ("ggml_aligned_malloc: failed to allocate CPU buffer of size 99", "out of memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out of memory"),
        ("error loading model: unknown model architecture: 'new'", "does not know the architec"),
        ("gguf_init_from_file_impl: invalid magic characters: 'xxxx'", "damaged or incomplete"),
        ("tensor 'output.weight' data is not within the file bounds", "damaged or incomplete"),
        ("missing tensor 'blk.0.attn_q.weight'", "damaged or incomplete"),
        ("error: invalid argument: --badflag", "a wrong argument"),
        ("E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1", PORT_TAKEN),
        ("error while loading shared libraries: libcuda.so.1: cannot open", "shared library"),
        (
            "gguf_init_from_file: failed to open GGUF file 'x' (No such file or directory)",
            "missing",
        ),
    ],
)
def test_known_failures_have_a_plain_reason(line: str, reason: str) -> None:
    noise = ["0.00.001 I srv init", "0.00.009 I main: exiting due to model loading error"]
    found, said = deciding_line([noise[0], line, noise[1]])
    assert found is not None
    assert reason in found
    assert said == line


def test_the_most_telling_line_decides_not_the_last() -> None:
    lines = [
        "cudaMalloc failed: out of memory",
        "llama_model_load: error loading model: failed to allocate buffer",
        "E srv load_model: failed to load model, 'x.gguf'",
    ]
    assert deciding_line(lines) == ("out of GPU memory", lines[0])


def test_without_a_known_pattern_the_last_error_is_told() -> None:
    lines = ["0.00.1 E first", "0.00.2 E second thing", "0.00.3 I cleaning up before exit"]
    assert deciding_line(lines) == (None, "0.00.2 E second thing")
    assert deciding_line(["all is well"]) == (None, None)


def test_exits_are_described() -> None:
    assert describe_exit(1) == "exited with code 1"
    assert describe_exit(-6) == "was killed by SIGABRT"
    assert describe_exit(-100) == "was killed by signal 100"


def test_explanations_name_what_and_why() -> None:
    assert explain(1, ["E couldn't bind x"]) == (
        "its port is taken (its server exited with code 1: E couldn't bind x)"
    )
    assert explain(1, ["0.1 E odd"]) == "its server exited with code 1: 0.1 E odd"
    assert explain(-9, []).startswith("its server was killed by SIGKILL (the kernel does that")
    assert explain(0, []) == "its server exited with code 0"


@given(st.integers(-70, 300), st.lists(st.text(max_size=80), max_size=10))
def test_any_exit_and_any_lines_give_a_sentence(returncode: int, lines: list[str]) -> None:
    assert "its server" in explain(returncode, lines)

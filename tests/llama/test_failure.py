"""Explanations of failures, from exit codes and last lines (as real servers print them)."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.failure import Cause, describe_exit, diagnose

BEFORE = "0.00.001.434 I srv  llama_server: initializing ..."
AFTER = (
    "0.00.019.061 E srv    load_model: failed to load model, '/m.gguf'",
    "0.00.019.063 I srv    operator(): operator(): cleaning up before exit...",
    "0.00.019.539 E srv  llama_server: exiting due to model loading error",
)


@pytest.mark.parametrize(
    ("line", "cause", "reason"),
    [
        ("NvMapMemAllocInternalTagged: 1075072515 error 12", Cause.NVMAP, "NvMap error 12"),
        (
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 25667.10 MiB on device 0:"
            " cudaMalloc failed: out of memory",
            Cause.OUT_OF_GPU_MEMORY,
            "out of GPU memory",
        ),
        ("CUDA error: out of memory", Cause.OUT_OF_GPU_MEMORY, "out of GPU memory"),
        ("ROCm error: out of memory", Cause.OUT_OF_GPU_MEMORY, "out of GPU memory"),
        (
            "E llama_model_load: error loading model: error loading model hyperparameters: key not"
            " found in model: llama.block_count",
            Cause.DAMAGED_FILE,
            "the model file is damaged or incomplete",
        ),
        (
            "E llama_model_load: error loading model: error loading model vocabulary: cannot find"
            " tokenizer merges in model file",
            Cause.DAMAGED_FILE,
            "the model file is damaged or incomplete",
        ),
        (
            "E llama_model_load: error loading model: done_getting_tensors: wrong number of"
            " tensors; expected 12, got 11",
            Cause.DAMAGED_FILE,
            "the model file is damaged or incomplete",
        ),
        (
            "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
            Cause.OUT_OF_GPU_MEMORY,
            "out of GPU memory",
        ),
        (
            "ggml_vulkan: Device memory allocation of size 462323712 failed.",
            Cause.OUT_OF_GPU_MEMORY,
            "out of GPU memory",
        ),
        (
            "E llama_model_load: error loading model: unable to allocate Vulkan0 buffer",
            Cause.OUT_OF_GPU_MEMORY,
            "out of GPU memory",
        ),
        (
            "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 4884066560",
            Cause.OUT_OF_GPU_MEMORY,
            "out of GPU memory",
        ),
        (
            "alloc_tensor_range: failed to allocate CUDA_Host buffer of size 99",
            Cause.OUT_OF_MEMORY,
            "out of memory",
        ),
        (
            "0.00.087.770 E ggml_aligned_malloc: insufficient memory (attempted to allocate 2 MB)",
            Cause.OUT_OF_MEMORY,
            "out of memory",
        ),
        (
            "E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 512",
            Cause.OUT_OF_MEMORY,
            "out of memory",
        ),
        (
            "E llama_model_load: error loading model: unable to allocate CPU buffer",
            Cause.OUT_OF_MEMORY,
            "out of memory",
        ),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'",
            Cause.OUT_OF_MEMORY,
            "out of memory",
        ),
        (
            "E llama_model_load: error loading model: mmap failed: Cannot allocate memory",
            Cause.OUT_OF_MEMORY,
            "out of memory",
        ),
        (
            "E llama_model_load: error loading model: unknown model architecture: 'new'",
            Cause.UNSUPPORTED_ARCHITECTURE,
            "does not know the architecture",
        ),
        (
            "E llama_model_load: error loading model vocabulary: unknown tokenizer: 'zzzz'",
            Cause.UNSUPPORTED_ARCHITECTURE,
            "does not know the tokenizer",
        ),
        (
            "E gguf_init_from_reader: tensor 'output.weight' has invalid ggml type 142."
            " should be in [0, 43)",
            Cause.UNSUPPORTED_ARCHITECTURE,
            "does not know the file's format",
        ),
        (
            "gguf_init_from_file_impl: invalid magic characters: 'xxxx'",
            Cause.DAMAGED_FILE,
            "the model file is damaged or incomplete",
        ),
        ("E gguf_init_from_reader: failed to read magic", Cause.DAMAGED_FILE, "damaged"),
        (
            "E gguf_init_from_reader: encountered bad_alloc error while reading value for key 'x'",
            Cause.DAMAGED_FILE,
            "damaged",
        ),
        (
            "tensor 'output.weight' data is not within the file bounds",
            Cause.DAMAGED_FILE,
            "damaged",
        ),
        (
            "E llama_model_load: error loading model: check_tensor_dims: tensor 'x' not found",
            Cause.DAMAGED_FILE,
            "damaged",
        ),
        (
            "E mtmd_init_from_file: error: Failed to load CLIP model from demo.gguf",
            Cause.DAMAGED_FILE,
            "the model file cannot be loaded",
        ),
        ("error: invalid argument: --badflag", Cause.BAD_ARGUMENT, "a wrong argument"),
        (
            "error while handling argument \"--grammar-file\": error: failed to open file 'nope'",
            Cause.BAD_ARGUMENT,
            "a wrong argument",
        ),
        (
            "E llama_init_from_model: quantized V cache requires flash_attn to be enabled",
            Cause.BAD_ARGUMENT,
            "a wrong argument",
        ),
        (
            "E llama_init_from_model: n_batch and n_ubatch cannot both be zero",
            Cause.BAD_ARGUMENT,
            "a wrong argument",
        ),
        (
            "E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1",
            Cause.PORT_TAKEN,
            "its port is taken",
        ),
        (
            "error while loading shared libraries: libcuda.so.1: cannot open shared object file:"
            " No such file or directory",
            Cause.MISSING_LIBRARY,
            "a shared library is missing",
        ),
        (
            "E gguf_init_from_file: failed to open GGUF file 'x.gguf' (No such file or directory)",
            Cause.MISSING_FILE,
            "a file is missing",
        ),
        (
            "E gguf_init_from_file: failed to open GGUF file 'x.gguf' (Permission denied)",
            Cause.UNREADABLE_FILE,
            "a file may not be read",
        ),
        (
            "CUDA error: no kernel image is available for execution on the device",
            Cause.GPU_ERROR,
            "the GPU reported an error",
        ),
        (
            "./src/llama-context.cpp:2624: GGML_ASSERT(n_outputs >= 1) failed",
            Cause.SIGNAL,
            "it stopped itself on an internal error",
        ),
        (
            "./src/ggml-backend.cpp:1442: GGML_ASSERT(*cur_backend_id != -1) failed",
            Cause.SIGNAL,
            "it cannot compute with weights that it repacked for this processor: "
            "add --no-repack to the model's args",
        ),
        (
            "ggml/src/ggml-cpu/repack.cpp:4282: GGML_ASSERT(ggml_n_dims(op->src[0]) == 2) failed",
            Cause.SIGNAL,
            "it cannot compute with weights that it repacked for this processor: "
            "add --no-repack to the model's args",
        ),
    ],
)
def test_known_failures_have_a_cause_and_a_plain_reason(
    line: str, cause: Cause, reason: str
) -> None:
    found = diagnose(1, [BEFORE, line, *AFTER])
    assert found.cause is cause
    assert reason in found.sentence
    assert found.line == line
    assert found.out_of_memory == (
        cause in {Cause.NVMAP, Cause.OUT_OF_GPU_MEMORY, Cause.OUT_OF_MEMORY}
    )


HINTS = (
    "0.00.135.672 E srv          init: init: please consider disabling jinja via --no-jinja, or use"
    " a custom chat template via --chat-template",
    "0.00.135.672 E srv          init: init: for example: --no-jinja --chat-template chatml",
)
EMPTY_ERROR = "0.00.135.672 E srv          init: init: chat template parsing error: std::exception"
UNFINISHED = (
    "0.00.135.642 E common_chat_templates_init: error: parser: Parser Error: Unexpected EOF",
    "...{% for...",
    "      ^",
    "0.00.135.643 E common_chat_templates_init: failed to initialize chat template",
)
RAISES = (
    "0.00.050.041 E srv          init: init: chat template parsing error: Unable to generate parser"
    " for this template. Automatic parser generation failed: ",
    "------------",
    "While executing CallExpression at line 1, column 19 in source:",
    '...{{ raise_exception("no way") }}...',
    "                     ^",
    "Error: Jinja Exception: no way",
)
UNSUPPORTED = "error: the supplied chat template is not supported: {% for"


@pytest.mark.parametrize(
    ("lines", "quoted"),
    [
        (
            [*UNFINISHED, EMPTY_ERROR, *HINTS],
            "parser: Parser Error: Unexpected EOF ...{% for...",
        ),
        (
            [*RAISES, *HINTS],
            "Unable to generate parser for this template. Automatic parser generation failed:"
            " While executing CallExpression at line 1, column 19 in source:"
            ' ...{{ raise_exception("no way") }}... Error: Jinja Exception: no way',
        ),
        # If a line of the template is very long, only the reason is quoted.
        ([*RAISES[:3], "x" * 400, *RAISES[4:], *HINTS], "Error: Jinja Exception: no way"),
        # Its output has another order than its log.
        ([UNSUPPORTED, "", *UNFINISHED], "parser: Parser Error: Unexpected EOF ...{% for..."),
        ([UNSUPPORTED, "note: started"], "the supplied chat template is not supported: {% for"),
        # Builds without time and level in their log lines.
        (
            ["main: chat template parsing error: Expected value at row 1, column 5:", "main: bye"],
            "Expected value at row 1, column 5:",
        ),
        (
            [EMPTY_ERROR, *HINTS],
            "srv init: init: chat template parsing error: std::exception",
        ),
    ],
)
def test_a_broken_chat_template_is_explained_in_the_parsers_words(
    lines: list[str], quoted: str
) -> None:
    found = diagnose(1, [BEFORE, *lines, *AFTER[1:]])
    assert found.cause is Cause.BAD_TEMPLATE
    assert found.sentence == (
        f"its chat template cannot be used (its server exited with code 1: {quoted});"
        " give another with --chat-template or --chat-template-file in its args"
    )


def test_a_template_that_was_given_up_for_another_is_no_reason() -> None:
    found = diagnose(1, [*UNFINISHED, "E llama_model_load: unknown model architecture: 'x'"])
    assert found.cause is Cause.UNSUPPORTED_ARCHITECTURE


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            [
                "0.1 E gguf_init_from_reader: failed to read magic",
                "0.2 E srv    load_model: failed to load multimodal model, '/p/mmproj.gguf'",
            ],
            "the projector /p/mmproj.gguf is damaged or incomplete (",
        ),
        (
            [
                "0.1 E mtmd_init_from_file: error: mismatch between text model (n_embd = 1120)"
                " and mmproj (n_embd = 512)",
                "hint: you may be using wrong mmproj",
                "0.2 E srv    load_model: failed to load multimodal model, '/p/mmproj.gguf'",
            ],
            "the projector /p/mmproj.gguf does not belong to this model (",
        ),
        (
            [
                "0.1 E llama_model_load: error loading model: tensor 'x' data is not within the"
                " file bounds",
                "0.2 E srv    load_model: failed to load draft model, '/d.gguf'",
            ],
            "the draft model /d.gguf is damaged or incomplete (",
        ),
        (
            [
                "0.1 E llama_adapter_lora_init_from_file_ptr: failed to apply lora adapter: expect"
                " general.type to be 'adapter', but got: ",
                "0.2 E cmn  common_init_: failed to load lora adapter '/l.gguf'",
                "0.3 E cmn  common_init_: failed to create context with model '/m.gguf'",
            ],
            "the LoRA adapter /l.gguf cannot be loaded (",
        ),
    ],
)
def test_a_further_file_is_not_taken_for_the_model(lines: list[str], sentence: str) -> None:
    found = diagnose(1, [*lines, *AFTER[1:]])
    assert found.line == lines[0].strip()
    assert found.sentence.startswith(sentence)


def test_hints_and_lines_without_a_reason_are_skipped() -> None:
    line = "0.00.1 E srv  init_listene: static assets path not found: /nope"
    last = "0.00.2 E srv  llama_server: failed to initialize HTTP server"
    hints = ["error: please try another", "hint: this failed as well", *HINTS]
    assert diagnose(1, [line, last, *hints]).line == line


def test_the_most_specific_line_decides_not_the_last() -> None:
    lines = [
        "cudaMalloc failed: out of memory",
        "llama_model_load: error loading model: failed to allocate buffer",
        "E srv load_model: failed to load model, 'x.gguf'",
    ]
    found = diagnose(1, lines)
    assert (found.cause, found.line) == (Cause.OUT_OF_GPU_MEMORY, lines[0])


def test_a_missing_model_is_not_a_damaged_one() -> None:
    found = diagnose(
        1,
        [
            "E llama_model_load: error loading model: llama_model_loader: failed to load model"
            " from missing.gguf",
            "E common_fit_params: encountered an error while trying to fit params to free device"
            " memory: failed to load model",
            "E gguf_init_from_file: failed to open GGUF file 'missing.gguf'"
            " (No such file or directory)",
            "E llama_model_load: error loading model: llama_model_loader: failed to load model"
            " from missing.gguf",
            *AFTER,
        ],
    )
    assert found.cause is Cause.MISSING_FILE


def test_the_trial_before_the_load_does_not_mislead() -> None:
    trial = [
        "I cmn  common_init_: fitting params to device memory ...",
        "E ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 4884066560",
        "W common_fit_params: failed to fit params to free device memory: was unable to fit model"
        " into system memory by reducing context, abort",
        "I common_fit_params: fitting params to free memory took 0.50 seconds",
    ]
    found = diagnose(1, [*trial, "E srv start: couldn't bind HTTP server socket"])
    assert found.cause is Cause.PORT_TAKEN
    # Without another message, it is the best line.
    assert diagnose(1, [*trial, AFTER[2]]).cause is Cause.OUT_OF_GPU_MEMORY
    # A failed trial is not a reason.
    assert diagnose(1, [trial[2], "0.1 E odd thing"]).line == "0.1 E odd thing"


@pytest.mark.parametrize(
    "line",
    [
        "W ggml_cuda_host_malloc: failed to allocate 512.00 MiB of pinned memory: out of memory",
        "W warning: failed to mlock 123-byte buffer: Cannot allocate memory",
        "E srv  alloc: failed to allocate memory for prompt cache state: std::bad_alloc",
        "E srv    load_model: [mtmd] failed to get memory usage of mmproj",
    ],
)
def test_harmless_failures_are_no_reason(line: str) -> None:
    found = diagnose(1, [line, "0.1 E the real thing"])
    assert (found.cause, found.line) == (Cause.UNKNOWN, "0.1 E the real thing")


def test_without_a_known_pattern_the_last_specific_error_is_quoted() -> None:
    lines = ["0.00.1 E first", "0.00.2 E second thing", *AFTER]
    assert diagnose(1, lines).line == "0.00.2 E second thing"
    assert diagnose(1, AFTER).line == AFTER[2]
    found = diagnose(3, ["all is well"])
    assert (found.cause, found.line) == (Cause.UNKNOWN, None)
    assert found.sentence == "its server exited with code 3"


@pytest.mark.parametrize("returncode", [-signal.SIGKILL, 128 + signal.SIGKILL])
def test_a_kill_out_of_the_blue_is_the_kernels_for_want_of_memory(returncode: int) -> None:
    found = diagnose(returncode, [BEFORE, "W cannot open x: No such file or directory"])
    assert found.cause is Cause.OUT_OF_MEMORY
    assert found.sentence == (
        "its server was killed by SIGKILL (the kernel does that when memory runs out)"
    )
    # A specific message about memory wins.
    found = diagnose(returncode, ["NvMapMemAllocInternalTagged: 1075072515 error 12"])
    assert found.cause is Cause.NVMAP


def test_a_crash_is_a_signal_unless_a_line_knows_more() -> None:
    assert diagnose(-signal.SIGSEGV, [BEFORE]).cause is Cause.SIGNAL
    assert diagnose(-signal.SIGABRT, ["what():  std::bad_alloc"]).cause is Cause.OUT_OF_MEMORY
    trace = [f"#{depth} 0x00007f2672c9c0f9 in a_function ()" for depth in range(20)]
    line = "./src/llama-context.cpp:2624: GGML_ASSERT(n_outputs >= 1) failed"
    trace.insert(3, "#3  0x00007fd66c13fb2e in ggml_abort () from /lib/libggml-base.so.0")
    found = diagnose(-signal.SIGABRT, [line, *trace])
    assert (found.cause, found.line) == (Cause.SIGNAL, line)
    what = "  what():  failed to parse grammar"
    thrown = [*trace, "terminate called after throwing an instance of 'std::runtime_error'", what]
    assert diagnose(-signal.SIGABRT, thrown).line == what.strip()


def test_exits_are_described() -> None:
    assert describe_exit(1) == "exited with code 1"
    assert describe_exit(-6) == "was killed by SIGABRT"
    assert describe_exit(134) == "was killed by SIGABRT"
    assert describe_exit(-100) == "was killed by signal 100"
    assert describe_exit(255) == "exited with code 255"


def test_sentences_name_the_failure_and_its_reason() -> None:
    assert diagnose(1, ["E couldn't bind x"]).sentence == (
        "its port is taken (its server exited with code 1: E couldn't bind x)"
    )
    assert diagnose(1, ["0.1 E odd"]).sentence == "its server exited with code 1: odd"
    assert diagnose(0, []).sentence == "its server exited with code 0"


@given(st.integers(-70, 300), st.lists(st.text(max_size=80), max_size=10))
def test_any_exit_and_any_lines_give_a_sentence(returncode: int, lines: list[str]) -> None:
    found = diagnose(returncode, lines)
    assert "its server" in found.sentence
    assert found.line is None or found.line in found.sentence


@pytest.mark.parametrize(
    ("returncode", "lines", "cause"),
    [
        (0, [], Cause.BACKGROUND),
        (0, ["error: invalid argument: --nope"], Cause.BACKGROUND),
        (7, ["a log line"], Cause.BACKGROUND),
        (1, ["error: invalid argument: --nope"], Cause.BAD_ARGUMENT),
        (1, ["E something failed"], Cause.UNKNOWN),
        (-9, [], Cause.OUT_OF_MEMORY),
        (-11, [], Cause.SIGNAL),
    ],
)
def test_processes_left_in_the_background_are_the_cause_without_another(
    returncode: int, lines: list[str], cause: Cause
) -> None:
    assert diagnose(returncode, lines, left_running=True).cause is cause
    assert diagnose(returncode, lines).cause is not Cause.BACKGROUND

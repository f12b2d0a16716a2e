"""Explains why a server ended, from its exit code and its last log lines. Pure functions.

The patterns are messages of llama-server, ggml's backends and the dynamic loader.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from enum import StrEnum
from itertools import takewhile

import msgspec


class Cause(StrEnum):
    """The kinds of failures."""

    NVMAP = "nvmap"
    """A Jetson's allocator failed, which also happens while memory is free."""
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
    OUT_OF_MEMORY = "out_of_memory"
    """Main memory."""
    UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
    """This build does not support the model's architecture, tokenizer or quantization."""
    DAMAGED_FILE = "damaged_file"
    BAD_TEMPLATE = "bad_template"
    """The chat template of the file, or the template that replaces it, cannot be used."""
    BAD_ARGUMENT = "bad_argument"
    PORT_TAKEN = "port_taken"
    MISSING_LIBRARY = "missing_library"
    UNREADABLE_FILE = "unreadable_file"
    MISSING_FILE = "missing_file"
    GPU_ERROR = "gpu_error"
    """The GPU's driver reported an error other than a lack of memory."""
    BACKGROUND = "background"
    """Its command ended, and processes that the command had started kept running."""
    SIGNAL = "signal"
    """It crashed or was killed."""
    UNKNOWN = "unknown"


_MEMORY = frozenset({Cause.NVMAP, Cause.OUT_OF_GPU_MEMORY, Cause.OUT_OF_MEMORY})
# A second start with the same file, settings and program fails in the same way.
_LASTING = frozenset(
    {Cause.UNSUPPORTED_ARCHITECTURE, Cause.DAMAGED_FILE, Cause.BAD_ARGUMENT, Cause.BAD_TEMPLATE}
    | {Cause.MISSING_LIBRARY, Cause.UNREADABLE_FILE, Cause.MISSING_FILE}
)


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The explanation of a failure."""

    cause: Cause
    sentence: str
    """The end of the server and, if known, the reason: a clause without capital letter and full
    stop."""
    line: str | None
    """The log line that decided, or else the last line that looks like an error."""

    @property
    def out_of_memory(self) -> bool:
        """True if a load may succeed once more memory is free."""
        return self.cause in _MEMORY

    @property
    def needs_person(self) -> bool:
        """True if every load fails until somebody changes something."""
        return self.cause in _LASTING


# The first rule whose pattern matches a line gives the cause. Rules are sorted from the most to the
# least specific, because a failure usually logs several lines. ``{file}`` is replaced by the file
# concerned. Patterns are compiled when a server fails: in most services none does.
_RULES: tuple[tuple[str, Cause, str], ...] = (
    (
        r"NvMapMem(Alloc|Handle).*error 12",
        Cause.NVMAP,
        "the Jetson's memory allocator refused (NvMap error 12): unload a model or reboot",
    ),
    (
        r"(cuda|hip)Malloc\w* failed|(CUDA|ROCm|HIP|MUSA) error: out of memory"
        r"|cuMem\w+.*out of memory|CUBLAS_STATUS_ALLOC_FAILED"
        r"|ErrorOutOfDeviceMemory|Device memory allocation of size \d+ failed"
        r"|UR_RESULT_ERROR_OUT_OF_(DEVICE_MEMORY|RESOURCES)|can't (malloc|allocate) .* device"
        r"|CallbackErrorOutOfMemory|ggml_metal.*failed to allocate buffer",
        Cause.OUT_OF_GPU_MEMORY,
        "out of GPU memory",
    ),
    (
        r"(failed|unable) to allocate (CUDA|ROCm|HIP|MUSA|Vulkan|SYCL|MTL|Metal|OpenCL|CANN)"
        r"(?!_Host)\w* buffer",
        Cause.OUT_OF_GPU_MEMORY,
        "out of GPU memory",
    ),
    (
        r"insufficient memory|std::bad_alloc|cannot allocate memory|not enough memory"
        r"|ErrorOutOfHostMemory",
        Cause.OUT_OF_MEMORY,
        "out of memory",
    ),
    (
        r"(failed|unable) to allocate .*(buffer|cache|bytes|memory)",
        Cause.OUT_OF_MEMORY,
        "out of memory",
    ),
    (
        r"unknown model architecture",
        Cause.UNSUPPORTED_ARCHITECTURE,
        "this llama-server does not know the architecture",
    ),
    (
        r"unknown (pre-)?tokenizer",
        Cause.UNSUPPORTED_ARCHITECTURE,
        "this llama-server does not know the tokenizer",
    ),
    (
        r"has invalid ggml type \d+|only supports up to version",
        Cause.UNSUPPORTED_ARCHITECTURE,
        "this llama-server does not know the file's format",
    ),
    (
        r"data is not within the file bounds|file is corrupted|is the file complete"
        r"|invalid magic|failed to read (magic|header|key-value|tensor)"
        r"|unexpectedly reached end of file|error while reading (key|value|tensor)"
        r"|tensor .* (is missing|not found|has wrong shape)|missing tensor|invalid GGUF"
        r"|illegal split file|invalid split file"
        r"|error loading model (hyperparameters|vocabulary)|key not found in model"
        r"|wrong number of tensors|wrong type .* for key",
        Cause.DAMAGED_FILE,
        "{file} is damaged or incomplete",
    ),
    (
        r"chat template parsing error|the supplied chat template is not supported",
        Cause.BAD_TEMPLATE,
        "its chat template cannot be used",
    ),
    (
        r"invalid argument: |unknown argument|unrecogni[sz]ed (argument|option)|invalid option"
        r"|error while handling argument|expected value for argument"
        r"|n_(batch|ubatch|seq_max) .*(cannot|must) (both )?be"
        r"|V cache (quantization )?requires flash_attn",
        Cause.BAD_ARGUMENT,
        "a wrong argument",
    ),
    (
        r"couldn't bind|address already in use|failed to bind|\bbind\b.* failed",
        Cause.PORT_TAKEN,
        "its port is taken",
    ),
    (
        r"error while loading shared libraries|symbol lookup error|Library not loaded"
        r"|version `\S+' not found|no backends are loaded",
        Cause.MISSING_LIBRARY,
        "a shared library is missing",
    ),
    (
        r"failed to open.*Permission denied|Permission denied.*\.gguf",
        Cause.UNREADABLE_FILE,
        "a file may not be read",
    ),
    (r"No such file or directory|failed to open", Cause.MISSING_FILE, "a file is missing"),
    (
        r"mismatch between text model .* and mmproj",
        Cause.DAMAGED_FILE,
        "{file} does not belong to this model",
    ),
    (
        r"llama_model_loader: failed to load model from|Failed to load CLIP model"
        r"|failed to apply lora adapter",
        Cause.DAMAGED_FILE,
        "{file} cannot be loaded",
    ),
    (
        r"(CUDA|ROCm|HIP|MUSA) error|ErrorDeviceLost|no kernel image is available"
        r"|UR_RESULT_ERROR",
        Cause.GPU_ERROR,
        "the GPU reported an error",
    ),
    (
        # A matrix of a deepseek2 in AMX's layout; experts of a deepseek4 in that of Arm.
        r"GGML_ASSERT\(\*cur_backend_id != -1\)|/repack\.cpp:\d+: GGML_ASSERT\(",
        Cause.SIGNAL,
        "it cannot compute with weights that it repacked for this processor: "
        "add --no-repack to the model's args",
    ),
    (r"^\s*what\(\): ", Cause.SIGNAL, "it stopped itself on an internal error"),
    (
        r"GGML_ASSERT\(|GGML_ABORT|terminate called|fatal error",
        Cause.SIGNAL,
        "it stopped itself on an internal error",
    ),
)
# Failures that llama-server survives: it continues without these extras.
_HARMLESS = re.compile(
    r"pinned memory|mlock|prompt cache state|failed to (get|measure) (the )?memory"
    r"|retrying without|cannot be used with preferred buffer|using CPU instead",
    re.IGNORECASE,
)
# Before a load llama-server tries it without memory (``--fit``), and logs the result.
_TRIED = re.compile(
    r"\b(common_fit_params|common_params_fit\w*|llama_params_fit\w*): "
    r"(encountered|failed|successfully|fitting params to free memory took)"
    r"|retrying without pipeline",
    re.IGNORECASE,
)
# Lines without a reason, and hints for a user at a terminal.
_GENERIC = re.compile(
    r"exiting due to|cleaning up before exit|failed to create_?\s?context"
    r"|failed to load (model|multimodal model|draft model|lora adapter)"
    r"|failed to initialize (chat template|HTTP server)"
    r"|for example:|\bplease |\b(hint|note): |^\s*$",
    re.IGNORECASE,
)
_STACK_FRAME = re.compile(r"#\d+ +(0x[0-9a-f]+ in )?\S")
"""A line of the debugger that llama-server starts on itself when it aborts."""

_OTHER_FILE = re.compile(
    r"failed to load (?P<what>multimodal model|draft model|lora adapter),? '(?P<path>.+)'"
)
_OTHER_FILES = {
    "multimodal model": "the projector",
    "draft model": "the draft model",
    "lora adapter": "the LoRA adapter",
}
_ERROR_LEVEL = re.compile(r"^[\d.]+ E |\berror\b|\bfailed\b|\bfatal\b", re.IGNORECASE)

_HIGHEST_SIGNAL = 64


def diagnose(returncode: int, lines: Sequence[str], *, left_running: bool = False) -> Diagnosis:
    """Explain why a server ended.

    ``returncode`` is as ``subprocess`` gives it. ``left_running`` = processes that it had started
    were still running. SIGKILL during a load counts as out of memory: nobody but the kernel sends
    it then.
    """
    if left_running and returncode == 0:
        return _in_background(returncode)
    what = f"its server {describe_exit(returncode)}"
    killed = _signal_of(returncode) == signal.SIGKILL
    relevant = [
        line for line in lines if not _HARMLESS.search(line) and not _STACK_FRAME.match(line)
    ]
    for part in (_after_trials(relevant), relevant):
        for pattern, cause, reason in _RULES:
            if killed and cause not in _MEMORY:
                # A killed process did not end because of its own error messages.
                continue
            for line in reversed(part):
                if re.search(pattern, line, re.IGNORECASE) and not _TRIED.search(line):
                    text = line.strip()
                    quoted, way_out = _words(text), ""
                    if cause is Cause.BAD_TEMPLATE:
                        quoted, way_out = _template_error(part) or quoted, _OTHER_TEMPLATE
                    why = reason.format(file=_file_of(part))
                    sentence = f"{why} ({what}: {quoted}){way_out}"
                    return Diagnosis(cause=cause, sentence=sentence, line=text)
    if killed:
        return Diagnosis(
            cause=Cause.OUT_OF_MEMORY,
            sentence=f"{what} (the kernel does that when memory runs out)",
            line=None,
        )
    found = _last_error(relevant)
    if left_running and found is None and _signal_of(returncode) is None:
        return _in_background(returncode)
    return Diagnosis(
        cause=Cause.UNKNOWN if _signal_of(returncode) is None else Cause.SIGNAL,
        sentence=f"{what}: {_words(found)}" if found else what,
        line=found,
    )


def _in_background(returncode: int) -> Diagnosis:
    return Diagnosis(
        cause=Cause.BACKGROUND,
        sentence=(
            f"its command ended with code {returncode} while the server that it had started went on"
            " in the background: start the server with `exec`, or end the script with `wait`"
        ),
        line=None,
    )


def _after_trials(lines: Sequence[str]) -> Sequence[str]:
    """Return the lines after the last trial without memory, since failed trials explain nothing."""
    last = max((at for at, line in enumerate(lines) if _TRIED.search(line)), default=-1)
    return lines[last + 1 :]


def _file_of(lines: Sequence[str]) -> str:
    """Return the file that could not be loaded; a later line names a model's other files."""
    found = next((match for line in lines if (match := _OTHER_FILE.search(line))), None)
    return f"{_OTHER_FILES[found['what']]} {found['path']}" if found else "the model file"


_OTHER_TEMPLATE = "; give another with --chat-template or --chat-template-file in its args"
# The first pattern that matches is the most specific one.
_TEMPLATE_ERRORS = (
    re.compile(r"chat template parsing error: (?!std::exception)(.+)"),
    re.compile(r"common_chat_templates_init: error: (.+)"),
    re.compile(r"(the supplied chat template is not supported.*)"),
)
_ENTRY = re.compile(r"[\d.]+ [DIWE] ")
_MOST_OF_AN_ENTRY = 8
_MOST_QUOTED = 400


def _template_error(lines: Sequence[str]) -> str | None:
    """Return llama-server's own words on the error in the chat template.

    Its parser prints the place in further lines, and the reason in the last of them.
    """
    for pattern in _TEMPLATE_ERRORS:
        for at, line in enumerate(lines):
            match = pattern.search(line)
            if match is None:
                continue
            found = [match[1].strip()]
            if _ENTRY.match(line):
                rest = lines[at + 1 : at + 1 + _MOST_OF_AN_ENTRY]
                found += takewhile(lambda line: not _ENTRY.match(line), rest)
            # Leave out lines that only underline the line above.
            found = [words for line in found if (words := line.strip()).strip("-^ ")]
            whole = " ".join(found)
            return whole if len(whole) <= _MOST_QUOTED else found[-1][:_MOST_QUOTED]
    return None


def _words(line: str) -> str:
    """Return a line of the log without its time and level."""
    entry = _ENTRY.match(line)
    return " ".join(line[entry.end() :].split()) if entry else line


def _last_error(lines: Sequence[str]) -> str | None:
    errors = [line.strip() for line in lines if _ERROR_LEVEL.search(line)]
    specific = [line for line in errors if not _GENERIC.search(line) and not _TRIED.search(line)]
    return next(reversed(specific or errors), None)


def _signal_of(returncode: int) -> int | None:
    """Return the signal that ended it; a shell in between reports 128 + signal."""
    if returncode < 0:
        return -returncode
    if 128 < returncode <= 128 + _HIGHEST_SIGNAL:
        return returncode - 128
    return None


def describe_exit(returncode: int) -> str:
    """Return ``exited with code 1`` or ``was killed by SIGKILL`` for a subprocess return code."""
    number = _signal_of(returncode)
    if number is None:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"

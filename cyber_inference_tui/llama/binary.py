"""Finds llama-server, and probes the abilities of each build once. Everything blocks."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import NoLlamaServerError
from cyber_inference_tui.files import read_file, replace_file
from cyber_inference_tui.llama.command import child_environment
from cyber_inference_tui.llama.companion_options import companion_flags
from cyber_inference_tui.llama.footprint import is_host
from cyber_inference_tui.llama.program import last_line, read_output
from cyber_inference_tui.text import clean_line

PROGRAM = "llama-server"
WORKERS = ("ggml-rpc-server", "rpc-server")
"""The names, new and old, of llama.cpp's program that lends the memory and the devices of this
machine to the llama-server of another one."""
_PROBE_TIMEOUT = 30.0
_ANOTHER = "`cyber-inference-tui install-llama --force` gets another."
_DEVICES_TIMEOUT = 10.0
"""Seconds for the list of GPUs. A driver may need some of them, and a load waits."""
_PROBE_AGE = 86_400.0
_NONE_AGE = 3600.0
"""Seconds until the next probe of a build that listed no GPU."""
_UNSURE_AGE = 60.0
"""Seconds until the next probe after the list of GPUs failed. It doubles up to ``_NONE_AGE``."""
_PROBE_FORMAT = 7
"""Raise it when a probe has other fields: older records are ignored then."""
_MAX_RECORD = 1 << 20

# A build whose program and libraries lack these words does not speak the router protocol.
_ROUTER_MARKS = (b"cmd_child_to_router:", b"cmd_router_to_child:exit")
_VERSION = re.compile(r"version:\s*(\S+)(?:\s*\((?:build\s+)?(\w+))?")
_BUILD = re.compile(r"build\s+(\d+)")
_TRACE_LEVEL = re.compile(r"^\s+- (\d+): trace\b", re.MULTILINE)
# If a driver fails, a build lists no GPU and exits with 0 (ggml-cuda.cu: ggml_cuda_init).
_DRIVER_FAILED = re.compile(r"failed to initialize (CUDA|ROCm|MUSA): (?!no \S+-capable device).*")
_DEVICE = re.compile(r"^\s+(\w+): (.+)$")
_ELF = b"\x7fELF"
_TRACE_LIBRARIES = {"LD_TRACE_LOADED_OBJECTS": "1"}
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


class LlamaBinary(msgspec.Struct, frozen=True, kw_only=True):
    """A llama-server that runs on this machine, and the abilities of its build."""

    path: Path
    version: str
    build: int | None = None
    flags: frozenset[str] = frozenset()
    """The names of the options in its ``--help``, and the entries of ``companion_flags``."""
    trace_level: int | None = None
    """The ``--verbosity`` that logs allocations; ``None`` = the build has no such level."""
    devices: tuple[str, ...] | None = ()
    """Names of the GPUs that the build uses: ``CUDA0``, ``Vulkan1`` …; ``None`` = the list failed,
    so there may be some."""
    devices_problem: str = ""
    """A sentence on why the list failed."""
    router_child: bool = False
    """It speaks the router protocol: progress and readiness on stdout, and a stop command on stdin.
    """
    libraries: tuple[Path, ...] | None = None
    """The folders of the libraries that it is linked with; ``None`` = unknown, as of a script."""
    env: dict[str, str] = {}


class _Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a probe, with the size and time of the probed file."""

    format: int
    size: int
    mtime_ns: int
    at: float
    binary: LlamaBinary
    unanswered: int = 0
    """Failed lists of GPUs in a row."""

    @property
    def good_for(self) -> float:
        """Seconds for which the result is valid."""
        if self.binary.devices is None:
            return min(_UNSURE_AGE * 2.0 ** (self.unanswered - 1), _NONE_AGE)
        return _PROBE_AGE if self.binary.devices else _NONE_AGE


def installed_path(data_dir: Path) -> Path:
    """Return the path of the build that ``install-llama`` put in use."""
    return data_dir / "llama" / "current" / "bin" / PROGRAM


def find_llama_server(*, setting: str, data_dir: Path, environ: Mapping[str, str]) -> LlamaBinary:
    """Locate and probe the llama-server to use. Raises ``NoLlamaServerError``."""
    path = locate_llama_server(setting=setting, data_dir=data_dir, environ=environ)
    return probe(path, data_dir=data_dir, environ=environ)


def locate_llama_server(*, setting: str, data_dir: Path, environ: Mapping[str, str]) -> Path:
    """Return the path of llama-server: by the setting, else installed, else on ``PATH``.

    Raises ``NoLlamaServerError``. The setting is binding: if it names no file, that is an error.
    """
    if setting:
        path = Path(setting)
        if not path.is_absolute():
            found = shutil.which(setting, path=environ.get("PATH"))
            path = Path(found) if found else path.absolute()
        try:
            if path.is_dir():
                path = path / PROGRAM
            problem = "" if path.is_file() else "there is no such file"
        except OSError as error:  # the name is too long, or a folder may not be read
            problem = f"it cannot be read ({(error.strerror or 'unknown reason').lower()})"
        if problem:
            raise NoLlamaServerError(
                f"llama_server_path is {clean_line(setting, limit=300)}, but {problem}.",
                hint="Correct it, or remove it to use the installed one.",
            )
        return path
    installed = installed_path(data_dir)
    if installed.is_file():
        return installed
    on_path = shutil.which(PROGRAM, path=environ.get("PATH"))
    if on_path:
        return Path(on_path)
    raise NoLlamaServerError(
        "There is no llama-server on this machine.",
        hint="`cyber-inference-tui install-llama` gets one.",
    )


def probe(
    path: Path,
    *,
    data_dir: Path,
    environ: Mapping[str, str],
    now: Callable[[], float] = time.time,
) -> LlamaBinary:
    """Return the abilities of the build at ``path``. The result is kept in ``data_dir``.

    A new probe follows when the file changes, after a day, or after an hour if the build listed no
    GPU: drivers and GPUs come and go. If the list of GPUs failed (a driver is being installed, or
    not up yet after boot), the next probe follows after a minute, then two, then four, … up to an
    hour. ``now`` is the time of day.

    Raises ``NoLlamaServerError`` if the build does not run.
    """
    # Resolved, so that a later installation does not change the program of a running model.
    real = path.resolve()
    try:
        status = real.stat()
    except OSError as error:
        raise NoLlamaServerError(f"{path} cannot be read: {error.strerror}.") from error
    record_path = data_dir / "llama" / "probe.json"
    record = _read_record(record_path)
    if record is not None and not (
        record.format == _PROBE_FORMAT
        and record.binary.path == real
        and (record.size, record.mtime_ns) == (status.st_size, status.st_mtime_ns)
    ):
        record = None
    if record is not None and 0 <= now() - record.at < record.good_for:
        return record.binary
    binary = examine(real, environ)
    before = record.unanswered if record is not None else 0
    _write_record(
        record_path,
        _Probe(
            format=_PROBE_FORMAT,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            at=now(),
            binary=binary,
            unanswered=before + 1 if binary.devices is None else 0,
        ),
    )
    return binary


def ask_program(
    path: Path,
    *arguments: str,
    environ: Mapping[str, str],
    variables: Mapping[str, str] = {},
    timeout: float = _PROBE_TIMEOUT,
) -> str:
    """Run the program for its output (stdout and stderr, at most 1 MiB), with these ``variables``.

    Raises ``NoLlamaServerError`` with its last line when it fails or does not end within
    ``timeout`` seconds.
    """
    called = f"{path} {' '.join(arguments)}"
    try:
        code, output = read_output(
            [path, *arguments],
            environ=child_environment(environ, variables),
            time_limit=timeout,
        )
    except TimeoutError:
        raise NoLlamaServerError(
            f"{called} did not end within {timeout:g} s.", hint=_ANOTHER
        ) from None
    except OSError as error:
        raise NoLlamaServerError(
            f"{path} cannot be run: {_why_not_run(error)}.", hint=_ANOTHER
        ) from error
    if code != 0:
        reason = clean_line(last_line(output), limit=300) or f"exit code {code}"
        raise NoLlamaServerError(f"{called} failed: {reason.rstrip('.')}.", hint=_ANOTHER)
    return output


def _why_not_run(error: OSError) -> str:
    # ENOENT for an existing file means that its loader (the ELF interpreter) is missing.
    if error.errno == errno.ENOENT:
        return "it needs a loader that is not on this machine"
    if error.errno == errno.ENOEXEC:
        return "it is not a program for this machine"
    return error.strerror or type(error).__name__


def examine(
    path: Path, environ: Mapping[str, str], *, timeout: float = _PROBE_TIMEOUT
) -> LlamaBinary:
    """Probe the build at ``path`` now, with ``timeout`` seconds for each run of it.

    Nothing is written. Raises ``NoLlamaServerError`` if the build does not run.
    """
    version = ask_program(path, "--version", environ=environ, timeout=timeout)
    options = ask_program(path, "--help", environ=environ, timeout=timeout)
    found = _VERSION.search(version)
    trace = _TRACE_LEVEL.search(options)
    build = _BUILD.search(version) or re.search(r"version:\s*(\d{3,})", version)
    flags = frozenset({*option_names(options), *companion_flags(options)})
    gpus: tuple[str, ...] | None = ()
    problem = ""
    if "--list-devices" in flags:
        gpus, problem = _gpus(path, environ, min(timeout, _DEVICES_TIMEOUT))
    return LlamaBinary(
        path=path,
        version=clean_line(found[1], limit=80) if found else "unknown",
        build=int(build[1]) if build else None,
        flags=flags,
        devices=gpus,
        devices_problem=problem,
        trace_level=int(trace[1]) if trace else None,
        router_child=_speaks_protocol(path),
        libraries=_libraries(path, environ, timeout),
    )


def _libraries(path: Path, environ: Mapping[str, str], timeout: float) -> tuple[Path, ...] | None:
    """Return the folders of a program's libraries, as its own loader finds them (ld.so(8))."""
    try:
        if read_file(path, len(_ELF)) != _ELF:
            return None
        output = ask_program(
            path, "--version", environ=environ, variables=_TRACE_LIBRARIES, timeout=timeout
        )
    except (NoLlamaServerError, OSError):
        return None
    found = (Path(one).parent for one in _LIBRARY.findall(output))
    return tuple(sorted({*found, path.resolve().parent}))


def _gpus(
    path: Path, environ: Mapping[str, str], timeout: float
) -> tuple[tuple[str, ...] | None, str]:
    """Return the GPUs that the build uses, or ``None`` and the reason if it does not list them."""
    try:
        output = ask_program(path, "--list-devices", environ=environ, timeout=timeout)
    except NoLlamaServerError as error:
        # The build is usable all the same: the server may work without the list.
        return None, error.message
    found = (device.partition(":") for device in listed_devices(output))
    # BLAS and similar backends compute on the CPU, and so does llvmpipe.
    gpus = tuple(name for name, _, about in found if not is_host(name) and "llvmpipe" not in about)
    refused = _DRIVER_FAILED.search(output)
    if refused is not None and not gpus:
        reason = clean_line(refused[0].strip(), limit=300).rstrip(".")
        return None, f"{path} --list-devices: {reason}."
    return gpus, ""


def listed_devices(output: str) -> tuple[str, ...]:
    """Read the devices, a text each, from the output of ``llama-server --list-devices``."""
    _, found, listing = output.partition("Available devices:")
    if not found:
        return ()
    lines = (clean_line(line, limit=300) for line in listing.splitlines()[:64])
    return tuple(f"{m[1]}: {m[2]}" for line in lines if (m := _DEVICE.match(line)))


def option_names(help_text: str) -> Iterator[str]:
    """Yield the options in a ``--help``: the words with dashes at the start of a line."""
    for line in help_text.splitlines():
        if line.startswith("-"):
            yield from _FLAG.findall(re.split(r" {2,}(?![- ])", line, maxsplit=1)[0])


def _speaks_protocol(path: Path) -> bool:
    """Return whether the program or one of its own libraries holds the words of the protocol."""
    candidates = [path]
    prefix = path.parent.parent
    # Beside the program, or in the folder of Debian's llama.cpp-tools: lib/TRIPLET/llama/.
    for folder in (path.parent, prefix / "lib", *sorted(prefix.glob("lib/*-linux-gnu*/llama"))):
        candidates += sorted(folder.glob("libllama-server*.so*"))
        candidates += sorted(folder.glob("libllama-server*.dylib"))
    return any(_contains_all(candidate, _ROUTER_MARKS) for candidate in candidates)


def _contains_all(path: Path, marks: tuple[bytes, ...]) -> bool:
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return all(content.find(mark) >= 0 for mark in marks)
    return False


def _read_record(path: Path) -> _Probe | None:
    try:
        return msgspec.json.decode(
            read_file(path, _MAX_RECORD), type=thread_safe(_Probe), dec_hook=_decode_path
        )
    except (OSError, msgspec.MsgspecError):
        return None


def _decode_path(kind: type, value: object) -> object:
    return kind(value)


def _write_record(path: Path, record: _Probe) -> None:
    # The record only saves time: without it the next start probes again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(record, enc_hook=str))

"""What a real llama-server says it took for a model, and what was estimated for it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyber_inference_tui.gguf.arguments import read_options
from cyber_inference_tui.gguf.memory_estimate import MemoryEstimate, estimate
from cyber_inference_tui.gguf.metadata import read_metadata
from cyber_inference_tui.gguf.repacking import Processor, read_processor

MIB = 2**20
_LIMIT = 60.0
_LINE = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size = +(\d+\.\d+) MiB")
_IN_THE_FILES_LAYOUT = frozenset({"CPU", "CPU_Mapped"})
_PROJECTOR = re.compile(
    r"load_hparams: model size: +(\d+\.\d+) MiB|reserve_compute_meta: .* (\d+\.\d+) MiB"
)


@dataclass(frozen=True)
class Reported:
    """Bytes, to a hundredth of a MiB for each buffer."""

    weights: float
    repacked: float
    """How much of the weights is copies for the processor."""
    kv_cache: float
    compute: float
    projector: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.kv_cache + self.compute + self.projector


def reported_memory(llama_server: Path, model: Path, arguments: Sequence[str]) -> Reported:
    """What the server says that it takes for ``model``."""
    return read_report(server_log(llama_server, model, arguments))


def server_log(llama_server: Path, model: Path, arguments: Sequence[str]) -> list[str]:
    """Loads ``model`` once and ends the server, whatever happens, within a minute."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(llama_server), "--model", str(model), "--host", "127.0.0.1"]
    # Sizes are only told at this verbosity.
    command += ["--port", str(port), "--log-verbosity", "4", "--log-colors", "off"]
    command += ["--threads", "1", "--offline", "--cache-ram", "0", *arguments]
    if "--mmproj" not in arguments:
        # Only for a projector the warm-up tells more.
        command.append("--no-warmup")
    process = subprocess.Popen(
        command,
        # Its protocol as a router's child: it tells when it is ready, and ends with its input.
        env={**os.environ, "LLAMA_SERVER_ROUTER_PORT": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    watchdog = threading.Timer(_LIMIT, process.kill)
    watchdog.start()
    lines: list[str] = []
    ready = False
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            lines.append(line.decode("utf-8", "replace"))
            ready = ready or '"state":"ready"' in lines[-1]
            if ready and not process.stdin.closed:
                process.stdin.close()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    assert ready, "".join(lines[-20:])
    return lines


def read_report(lines: Sequence[str]) -> Reported:
    """The sizes that a server's log tells."""
    repacked = 0.0
    sizes = dict.fromkeys(("model", "KV", "RS", "compute", "output"), 0.0)
    projector: dict[str, float] = {}
    for line in lines:
        if found := _PROJECTOR.search(line):
            # Told more than once, for it is first looked at and then loaded.
            part = "weights" if found[1] else "compute"
            projector[part] = float(found[1] or found[2]) * MIB
        elif found := _LINE.search(line):
            sizes[found[2]] += float(found[3]) * MIB
            if found[2] == "model" and found[1] not in _IN_THE_FILES_LAYOUT:
                repacked += float(found[3]) * MIB
    return Reported(
        weights=sizes["model"],
        repacked=repacked,
        kv_cache=sizes["KV"] + sizes["RS"],
        compute=sizes["compute"] + sizes["output"],
        projector=sum(projector.values()),
    )


def estimated_memory(
    model: Path,
    arguments: Sequence[str],
    *,
    projector: Path | None = None,
    processor: Processor | None = None,
) -> MemoryEstimate:
    """The estimate for a file, or two, and llama-server's arguments.

    ``processor`` is this machine's unless it is given.
    """
    metadata = read_metadata(model)
    beside = read_metadata(projector) if projector else None
    settings = read_options(arguments)
    return estimate(
        metadata,
        weights_bytes=metadata.tensor_bytes,
        projector_bytes=beside.tensor_bytes if beside else 0,
        projector=beside.projector if beside else None,
        context_size=settings.context_size or 0,
        slots=settings.slots,
        unified=settings.unified,
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
        batch_size=settings.batch_size,
        ubatch_size=settings.ubatch_size,
        swa_full=settings.swa_full,
        flash_attention=settings.flash_attention,
        embedding=settings.embedding,
        pooling=settings.pooling,
        processor=(processor or read_processor()) if settings.repack else Processor.PLAIN,
    )

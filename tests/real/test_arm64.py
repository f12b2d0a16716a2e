"""Debian's build for 64-bit Arm: installed as a machine of that kind would, and run by qemu.

Each library of ggml's for a processor is built for more instructions than the one before. ggml
takes the best that the processor can run, by what the kernel tells it (``getauxval(3)``, from
which ``/proc/cpuinfo`` comes as well).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cyber_inference_tui.gguf.repacking import Processor, processor_of
from cyber_inference_tui.llama.install.apt_sources import find_mirrors
from tests.gguf import synthetic
from tests.real.reported_memory import MIB, estimated_memory, read_report, server_log
from tests.tools import run_alone

_BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_LIMIT = 280.0
_LOADED = re.compile(r"loaded CPU backend from \S+/libggml-cpu-(\S+)\.so")

# What qemu's processors tell in /proc/cpuinfo, as far as it decides, and the library for that.
_BASE = "fp asimd aes pmull sha1 sha2 crc32"
_PROCESSORS = {
    "cortex-a72": (_BASE, Processor.PLAIN, "armv8.0_1"),
    "cortex-a76": (f"{_BASE} atomics fphp asimdhp asimddp", Processor.DOTPROD, "armv8.2_2"),
    # SVE without dot products.
    "a64fx": (f"{_BASE} atomics fphp asimdhp sve", Processor.PLAIN, "armv8.0_1"),
    "max": (
        f"{_BASE} atomics fphp asimdhp asimddp sve sve2 i8mm bf16 sme",
        Processor.DOTPROD,
        "armv9.2_2",
    ),
}


def _runs_arm64() -> bool:
    try:
        return _BINFMT.read_text().startswith("enabled")
    except OSError:
        return False


@pytest.mark.skipif(
    not _runs_arm64(), reason="the kernel does not hand arm64 programs to qemu (qemu-user-static)"
)
@pytest.mark.skipif(
    shutil.which("apt-get") is None or not find_mirrors(Path("/")),
    reason="this machine's apt has no Debian mirror",
)
@pytest.mark.timeout(2 * _LIMIT)  # half a minute of work, most of it under qemu
def test_a_build_from_debian_suits_every_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_alone()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "apt-config"):
        options = "-o APT::Architecture=arm64 -o APT::Architectures=arm64"
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {shutil.which(name)} {options} "$@"\n')
        script.chmod(0o755)
    data = tmp_path / "data"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "cyber_inference_tui", "install-llama"),
            *("--from", "debian", "--data-dir", str(data)),
        ],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    assert "Devices: CPU" in installed.stdout + installed.stderr
    server = (data / "llama/current/bin/llama-server").resolve()
    assert (server.parent / "ld-linux-aarch64.so.1").is_file()

    small = synthetic.dense(layers=1, width=256, heads=4, feed_forward=256, vocabulary=512)
    model = synthetic.quantized(small, "Q6_K").write(tmp_path / "small.gguf")
    for name, (features, processor, library) in _PROCESSORS.items():
        assert processor_of(f"Features\t: {features}\n") is processor
        monkeypatch.setenv("QEMU_CPU", name)
        log = server_log(server, model, ["-c", "256", "-fit", "off"])
        assert _LOADED.findall("".join(log)) == [library], name
        real = read_report(log)
        expected = estimated_memory(model, ["-c", "256"], processor=processor)
        assert (expected.repacked > 0) == (processor is Processor.DOTPROD)
        assert expected.repacked == pytest.approx(real.repacked, abs=0.01 * MIB)
        assert expected.weights == pytest.approx(real.weights, abs=0.05 * MIB)

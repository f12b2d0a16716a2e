"""Finding and probing llama-server, with small programs in place of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cyber_inference_tui.errors import NoLlamaServerError
from cyber_inference_tui.llama.binary import (
    LlamaBinary,
    _gpus,
    ask_program,
    find_llama_server,
    installed_path,
    probe,
)
from tests.llama.children import wait_gone

VERSION = "version: 0.7.0 (build 11669, commit Debian)"
HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of threads, see --not-an-option
--cache-ram N                           MiB (default: 8192)
                                        --indented is text
-lv,   --verbosity N                    the threshold. Values:
                                         - 3: info
                                         - 4: trace (more info)
-fa,   --flash-attn [on|off|auto]       set it
--list-devices                          print list of available devices and exit
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_program(
        name: str = "llama-server", *, version: str = VERSION, rest: str = "", folder: str = "bin"
    ) -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "#!/bin/sh\n"
            f"echo run >> {tmp_path}/runs\n"
            f'[ "$1" = --version ] && echo "{version}"\n'
            f"[ \"$1\" = --help ] && cat <<'EOF'\n{HELP}EOF\n"
            f"{rest}\nexit 0\n"
        )
        path.chmod(0o755)
        return path

    return make_program


def runs(tmp_path: Path) -> int:
    path = tmp_path / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def environ(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", **more}


def test_reads_version_build_and_flags(make: Make, tmp_path: Path) -> None:
    found = probe(make(), data_dir=tmp_path / "data", environ=environ())
    assert (found.version, found.build) == ("0.7.0", 11669)
    assert {"--threads", "-t", "--cache-ram", "-fa", "--flash-attn"} <= found.flags
    assert not {"--not-an-option", "--indented"} & found.flags
    assert not found.router_child
    assert found.trace_level == 4


def test_reads_the_version_of_upstream_builds(make: Make, tmp_path: Path) -> None:
    path = make(version="version: 6543 (abc1234f)")
    found = probe(path, data_dir=tmp_path / "data", environ=environ())
    assert (found.version, found.build) == ("6543", 6543)


@pytest.mark.parametrize(
    "library",
    [
        "bin/libllama-server-impl.so",
        "lib/libllama-server-impl.so.0",
        "lib/aarch64-linux-gnu/llama/libllama-server-impl.so",
    ],
)
def test_finds_the_protocol_in_its_libraries(make: Make, tmp_path: Path, library: str) -> None:
    path = make()
    (tmp_path / library).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / library).write_bytes(b"..cmd_child_to_router:..cmd_router_to_child:exit..")
    assert probe(path, data_dir=tmp_path / "data", environ=environ()).router_child


def test_asks_once_per_file(make: Make, tmp_path: Path) -> None:
    path = make()
    first = probe(path, data_dir=tmp_path / "data", environ=environ())
    asked = runs(tmp_path)
    assert probe(path, data_dir=tmp_path / "data", environ=environ()) == first
    assert runs(tmp_path) == asked
    os.utime(path, ns=(1, 1))
    assert probe(path, data_dir=tmp_path / "data", environ=environ()) == first
    assert runs(tmp_path) > asked


ASKS = '[ "$1" = --list-devices ] && '


class Clock:
    """Probes the GPUs of a build at times that a test chooses."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self.folder = folder
        self.now = 1_000_000.0

    def devices(self, later: float = 0.0) -> tuple[tuple[str, ...] | None, bool]:
        """Return the devices ``later`` seconds after the last probe, and whether it probed
        again."""
        self.now += later
        before = runs(self.folder)
        found = probe(
            self.path, data_dir=self.folder / "data", environ=environ(), now=lambda: self.now
        )
        assert (found.devices is None) == bool(found.devices_problem)
        return found.devices, runs(self.folder) > before


def test_a_build_that_failed_to_list_its_gpus_is_probed_again_soon(
    make: Make, tmp_path: Path
) -> None:
    ready = tmp_path / "driver"
    answer = 'printf "Available devices:\\n  CUDA0: GPU (8 MiB, 8 MiB free)\\n"'
    clock = Clock(make(rest=f"{ASKS}[ ! -e {ready} ] && exit 1\n{ASKS}{answer}"), tmp_path)
    assert clock.devices() == (None, True)
    ready.touch()
    assert clock.devices(59) == (None, False)
    assert clock.devices(1) == (("CUDA0",), True)
    assert clock.devices(86_399) == (("CUDA0",), False)
    ready.unlink()
    assert clock.devices(1) == (None, True)
    assert clock.devices(60) == (None, True)


def test_a_build_that_never_lists_its_gpus_is_probed_less_and_less(
    make: Make, tmp_path: Path
) -> None:
    clock = Clock(make(rest=f"{ASKS}kill -SEGV $$"), tmp_path)
    assert clock.devices() == (None, True)
    for wait in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        assert clock.devices(wait - 1) == (None, False)
        assert clock.devices(1) == (None, True)
    # Another file starts from the beginning.
    os.utime(clock.path, ns=(1, 1))
    assert clock.devices() == (None, True)
    assert clock.devices(60) == (None, True)


def test_a_build_without_gpus_is_probed_again_after_an_hour(make: Make, tmp_path: Path) -> None:
    clock = Clock(make(rest=f'{ASKS}printf "Available devices:\\n  (none)\\n"'), tmp_path)
    assert clock.devices() == ((), True)
    assert clock.devices(3599) == ((), False)
    assert clock.devices(1) == ((), True)


def test_slow_is_not_none(make: Make, tmp_path: Path) -> None:
    path = make(rest=f"{ASKS}exec sleep 60")
    message = f"{path} --list-devices did not end within 0.2 s."
    assert _gpus(path, environ(), 0.2) == (None, message)


def test_a_day_later_it_is_asked_again(make: Make, tmp_path: Path) -> None:
    path, data = make(rest=f"{ASKS}cat <<'EOF'\n{LISTED}EOF"), tmp_path / "data"
    hour = 3600.0
    probe(path, data_dir=data, environ=environ(), now=lambda: 1000 * hour)
    asked = runs(tmp_path)
    probe(path, data_dir=data, environ=environ(), now=lambda: 1023 * hour)
    assert runs(tmp_path) == asked
    probe(path, data_dir=data, environ=environ(), now=lambda: 1024 * hour)
    assert runs(tmp_path) == 2 * asked
    # The clock was set back.
    probe(path, data_dir=data, environ=environ(), now=lambda: 1 * hour)
    assert runs(tmp_path) == 3 * asked


LISTED = """\
Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23000 MiB free)
  Vulkan1: llvmpipe (LLVM 17, 256 bits) (7900 MiB, 7900 MiB free)
  BLAS: OpenBLAS (0 MiB, 0 MiB free)
  RPC0: 10.0.0.2:50052 (8000 MiB, 8000 MiB free)
"""


def test_learns_the_gpus_that_a_build_would_use(make: Make, tmp_path: Path) -> None:
    def found(printed: str, name: str) -> LlamaBinary:
        path = make(rest=f"{ASKS}cat <<'EOF'\n{printed}EOF", folder=name)
        return probe(path, data_dir=tmp_path / "data", environ=environ())

    none = "Available devices:\n  (none)\n"
    failed = "ggml_cuda_init: failed to initialize CUDA: "
    assert found(LISTED, "many").devices == ("CUDA0", "RPC0")
    assert found(none, "none").devices == ()
    no_card = f"{failed}no CUDA-capable device is detected\n"
    assert found(no_card + none, "no card").devices == ()
    # Another driver may work.
    old = f"{failed}CUDA driver version is insufficient for CUDA runtime version\n"
    assert found(old + LISTED, "other").devices == ("CUDA0", "RPC0")
    refused = found(old + none, "refused")
    assert refused.devices is None
    assert refused.devices_problem.endswith(
        " --list-devices: failed to initialize CUDA: CUDA driver version is insufficient for CUDA"
        " runtime version."
    )


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_record_is_replaced(make: Make, tmp_path: Path, damage: bytes) -> None:
    path = make()
    (tmp_path / "data" / "llama").mkdir(parents=True)
    (tmp_path / "data" / "llama" / "probe.json").write_bytes(damage)
    assert probe(path, data_dir=tmp_path / "data", environ=environ()).version == "0.7.0"


def test_a_data_dir_that_cannot_be_written_is_no_hindrance(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert probe(make(), data_dir=tmp_path / "file", environ=environ()).version == "0.7.0"


def test_setting_before_installed_before_path(make: Make, tmp_path: Path) -> None:
    data = tmp_path / "data"
    on_path = make(folder="elsewhere")
    env = environ(PATH=f"{on_path.parent}:/usr/bin:/bin")
    assert find_llama_server(setting="", data_dir=data, environ=env).path == on_path
    installed = make(folder="data/llama/github-b1/lib")
    (data / "llama" / "github-b1" / "bin").mkdir()
    (data / "llama" / "github-b1" / "bin" / "llama-server").symlink_to("../lib/llama-server")
    (data / "llama" / "current").symlink_to("github-b1")
    assert installed_path(data).is_file()
    assert find_llama_server(setting="", data_dir=data, environ=env).path == installed
    own = make(folder="own")
    for setting in (str(own), str(own.parent)):
        assert find_llama_server(setting=setting, data_dir=data, environ=env).path == own


def test_nothing_found_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NoLlamaServerError, match="install-llama"):
        find_llama_server(setting="", data_dir=tmp_path, environ={"PATH": str(tmp_path)})


def test_a_wrong_setting_is_not_skipped(make: Make, tmp_path: Path) -> None:
    env = environ(PATH=f"{make().parent}:/usr/bin:/bin")
    with pytest.raises(NoLlamaServerError, match="llama_server_path"):
        find_llama_server(setting=str(tmp_path / "missing"), data_dir=tmp_path, environ=env)


def test_a_setting_that_no_file_can_have_is_refused_with_the_reason(tmp_path: Path) -> None:
    long = f"/tmp/{'x' * 300}"
    with pytest.raises(NoLlamaServerError, match="file name too long"):
        find_llama_server(setting=long, data_dir=tmp_path, environ=environ())


def test_a_program_that_fails_is_named_with_its_reason(make: Make, tmp_path: Path) -> None:
    path = make(rest="echo \"libc.so.6: version 'GLIBC_2.99' not found\" >&2; exit 1")
    with pytest.raises(NoLlamaServerError, match=r"GLIBC_2\.99.*install-llama"):
        probe(path, data_dir=tmp_path / "data", environ=environ())


def test_a_program_of_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "llama-server"
    path.write_bytes(b"\x7fELF" + bytes(60))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(NoLlamaServerError, match="not a program for this machine"):
        probe(path, data_dir=tmp_path / "data", environ=environ())


def test_a_program_without_its_loader(tmp_path: Path) -> None:
    path = tmp_path / "llama-server"
    path.write_text("#!/no/such/loader\n")
    path.chmod(0o755)
    with pytest.raises(NoLlamaServerError, match="loader"):
        probe(path, data_dir=tmp_path / "data", environ=environ())


def test_a_program_that_hangs_is_ended_with_its_children(make: Make, tmp_path: Path) -> None:
    path = make(rest=f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(NoLlamaServerError, match=r"did not end within 0\.3 s"):
        ask_program(path, "--version", environ=environ(), timeout=0.3)
    assert wait_gone(int((tmp_path / "child").read_text()))


def test_output_without_end_is_cut(make: Make) -> None:
    path = make(rest="head -c 5000000 /dev/zero | tr '\\0' x; echo")
    assert len(ask_program(path, "--other", environ=environ())) == 1 << 20


def test_secrets_are_not_passed_on(make: Make) -> None:
    path = make(rest="env")
    output = ask_program(path, "--other", environ=environ(HF_TOKEN="secret", LANG="C.UTF-8"))
    assert "LANG=C.UTF-8" in output
    assert "secret" not in output

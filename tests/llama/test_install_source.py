"""Compiling llama-server: with a stand-in for cmake, and with the real one if it is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.errors import BuildError, InstallError, UnusableBuildError
from cyber_inference_tui.llama.install.build_plan import BuildPlan
from cyber_inference_tui.llama.install.installer import Installer
from cyber_inference_tui.llama.install.layout import Layout
from cyber_inference_tui.llama.install.releases import Releases
from cyber_inference_tui.llama.install.source_build import SourceBuild
from tests.llama.install_stand_ins import Steps, installer
from tests.llama.release_server import SCRIPT, ReleaseServer, member, tar
from tests.llama.test_archive import HOSTILE
from tests.tools import tool
from tests.waiting import LIMIT, eventually

# It compiles four files: each runs the project's compile.sh, and only once.
CMAKE = r"""#!/bin/sh
[ "$1" = --version ] && echo "cmake version 3.25.1" && exit 0
if [ "$1" = -S ]; then
    echo "-- Configuring $*"
    mkdir -p "$4"
    echo "$2" > "$4/cache"
    exit 0
fi
build=$2
source=$(cat "$build/cache")
if [ "$4" = help ]; then
    printf '... llama-server\n... llama-fit-params\n... ggml-rpc-server\n'
    exit 0
fi
for n in 1 2 3 4; do
    if [ ! -f "$build/$n.o" ]; then
        sh "$source/compile.sh" $n || { echo "make: *** [all] Error 2"; exit 2; }
        touch "$build/$n.o"
    fi
    echo "[ $((n * 25))%] Built object $n"
done
mkdir -p "$build/bin"
cp "$source/llama-server" "$source/llama-fit-params" "$build/bin/"
case "$*" in *' ggml-rpc-server '*) echo worker > "$build/bin/ggml-rpc-server" ;; esac
echo lib > "$build/bin/libllama.so.0"
ln -sf libllama.so.0 "$build/bin/libllama.so"
echo other > "$build/bin/llama-bench"
"""


class Bench:
    """A stand-in for cmake, sources to serve, and the compiler's script: ``compile``."""

    def __init__(self, folder: Path, server: ReleaseServer) -> None:
        self.folder = folder
        self.server = server
        self.tools = folder / "bin"
        self.tools.mkdir()
        for name, text in {"cmake": CMAKE, "make": "#!/bin/sh\n", "c++": "#!/bin/sh\n"}.items():
            (self.tools / name).write_text(text)
            (self.tools / name).chmod(0o755)
        self.log = folder / "compiled"
        self.path = f"{self.tools}:/usr/bin:/bin"
        self.steps = Steps()
        self.compile = folder / "compile.sh"
        self.says("")

    def says(self, text: str) -> None:
        """Set the script that is run for each file (``$1``), after it was recorded."""
        self.compile.write_text(f"echo $1 >> {self.log}\n{text}\n")

    def serve(self, tag: str, script: bytes = SCRIPT) -> None:
        self.server.add_sources(
            tag,
            tar(
                member(f"llama.cpp-{tag}/CMakeLists.txt", b"x"),
                member(f"llama.cpp-{tag}/compile.sh", f". {self.compile}\n".encode()),
                member(f"llama.cpp-{tag}/llama-server", script, mode=0o755),
                member(f"llama.cpp-{tag}/llama-fit-params", script, mode=0o755),
            ),
        )

    def installer(
        self, *, backend: str = "", options: tuple[str, ...] = ("-DX=ON",), resume: bool = True
    ) -> Installer:
        layout = Layout(self.folder / "data")

        def source() -> SourceBuild:
            return SourceBuild(
                layout=layout,
                releases=Releases(
                    api=self.server.url,
                    download=self.server.url,
                    repository="ggml-org/llama.cpp",
                ),
                plan=lambda: BuildPlan(options=options, jobs=2, backend=backend, note="a note"),
                environ={"PATH": self.path, "HF_TOKEN": "secret"},
                resume=resume,
            )

        return installer(self.folder, source, progress=self.steps)

    def build(self, **options: object) -> object:
        return self.installer(**options).install(  # type: ignore[arg-type]
            version=None, force=False, keep_any=False
        )

    def compiled(self) -> list[str]:
        return self.log.read_text().split() if self.log.is_file() else []

    def kept(self) -> list[str]:
        return [path.name for path in (self.folder / "data" / "llama").glob(".build-*")]

    def fetched(self) -> list[str]:
        return [path for path in self.server.asked if path.endswith(".tar.gz")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ReleaseServer() as server:
        made = Bench(tmp_path, server)
        made.serve("b6543")
        yield made


def test_it_compiles_and_installs(bench: Bench) -> None:
    bench.says(f"env > {bench.folder}/environment; echo warning: odd")
    bench.build()
    folder = bench.folder / "data" / "llama" / "source-b6543"
    assert {path.name for path in (folder / "lib").iterdir()} == {
        *("llama-server", "llama-fit-params", "libllama.so", "libllama.so.0"),
        # The worker for models of other boxes.
        "ggml-rpc-server",
    }
    assert (folder / "lib" / "libllama.so").readlink() == Path("libllama.so.0")
    assert (folder.parent / "current").readlink() == Path("source-b6543")
    assert bench.kept() == []
    assert bench.compiled() == ["1", "2", "3", "4"]
    assert any("b6543 for the CPU (2 jobs)" in step for step in bench.steps.steps)
    assert bench.steps.last == (100, 100)
    assert "a note" in bench.steps.lines
    assert [line for line in bench.steps.lines if "is trusted over TLS" in line]
    assert "[ 25%] Built object 1" in bench.steps.lines
    [configured] = [line for line in bench.steps.lines if line.startswith("-- Configuring")]
    assert "-DX=ON -DLLAMA_BUILD_NUMBER=6543" in configured
    assert "secret" not in (bench.folder / "environment").read_text()
    record = bench.installer().in_use()
    assert record is not None
    assert (record.source, record.version) == ("source", "b6543")


def test_a_failure_gives_the_reason_and_the_next_try_continues(bench: Bench) -> None:
    bench.says(
        "[ $1 = 3 ] || exit 0\n"
        "echo 'common/x.cpp:12:3: error: no such thing'\n"
        "echo 'a consequence: error: of it'; exit 1"
    )
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert "common/x.cpp:12:3: error: no such thing" in caught.value.message
    assert caught.value.log_tail[-1] == "make: *** [all] Error 2"
    assert bench.kept() == [".build-b6543"]
    assert not (bench.folder / "data/llama/current").exists()
    bench.says("")
    bench.build()
    assert bench.compiled() == ["1", "2", "3", "3", "4"]
    assert len(bench.fetched()) == 1


def test_a_release_that_failed_is_left_for_a_newer_one(bench: Bench) -> None:
    bench.says("exit 1")
    with pytest.raises(BuildError):
        bench.build()
    bench.says("")
    bench.serve("b6600")
    bench.build()
    assert (bench.folder / "data/llama/current").readlink() == Path("source-b6600")
    assert bench.kept() == []


def test_cmakes_own_errors_are_quoted_with_their_reason(bench: Bench) -> None:
    bench.says("printf 'CMake Error at x:1 (message):\\n\\n  CUDA Toolkit not found\\n'; exit 1")
    with pytest.raises(BuildError, match=r"CMake Error at x:1 \(message\): CUDA Toolkit not found"):
        bench.build()


def test_memory_that_ran_out_is_said(bench: Bench) -> None:
    bench.says("echo 'c++: fatal error: Killed signal terminated program cc1plus'; exit 1")
    with pytest.raises(BuildError, match="Memory ran out"):
        bench.build()


def test_other_options_start_a_new_build(bench: Bench) -> None:
    bench.says("[ $1 = 1 ]")
    with pytest.raises(BuildError):
        bench.build()
    bench.says("")
    bench.build(options=("-DX=OFF",))
    assert bench.compiled() == ["1", "2", "1", "2", "3", "4"]


def test_a_silent_fall_to_the_cpu_is_a_failure(bench: Bench) -> None:
    with pytest.raises(UnusableBuildError, match="made for CUDA but lists no such device"):
        bench.build(backend="CUDA")
    assert not (bench.folder / "data/llama/current").exists()
    # Once the driver is repaired, the objects are useful.
    assert bench.kept() == [".build-b6543"]
    bench.serve("b6543", SCRIPT.replace(b"Vulkan0", b"CUDA0"))
    shutil.rmtree(bench.folder / "data/llama/.build-b6543")
    bench.build(backend="CUDA")
    assert (bench.folder / "data/llama/current").exists()


def test_metal_calls_its_devices_otherwise(bench: Bench) -> None:
    bench.serve("b6543", SCRIPT.replace(b"Vulkan0", b"MTL0"))
    bench.build(backend="Metal")
    assert (bench.folder / "data/llama/current").exists()


def test_a_driver_that_says_why_is_quoted(bench: Bench) -> None:
    why = b'echo "ggml_cuda_init: failed to initialize CUDA: no device"; printf'
    bench.serve("b6543", SCRIPT.replace(b"printf", why))
    with pytest.raises(UnusableBuildError, match="failed to initialize CUDA: no device"):
        bench.build(backend="CUDA")


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"link to nothing", "link to a folder"}))
def test_hostile_sources_are_not_built(bench: Bench, name: str) -> None:
    program = member("llama.cpp-b6543/CMakeLists.txt", b"x")
    bench.server.add_sources("b6543", tar(program, *HOSTILE[name]))
    with pytest.raises(InstallError):
        bench.build()
    assert bench.compiled() == []
    assert not {path for path in bench.folder.rglob("*escaped*") if ".build" not in str(path)}


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", tar(member("file", b"x"))],
    # Not their bytes: a tar.gz contains its time of creation.
    ids=["empty", "text", "no sources"],
)
def test_archives_without_sources(bench: Bench, content: bytes) -> None:
    bench.server.add_sources("b6543", content)
    with pytest.raises(InstallError):
        bench.build()
    # The next try does not take the broken sources for complete ones.
    bench.serve("b6543")
    bench.build()


def test_a_check_reports_the_newest_release_not_the_begun_one(bench: Bench) -> None:
    (bench.folder / "data/llama/.build-b6543/source").mkdir(parents=True)
    bench.serve("b6600")
    assert bench.installer(resume=False).check().newest.version == "b6600"


def running(folder: Path) -> list[psutil.Process]:
    """Return every process whose command line contains the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            here = str(folder) in " ".join(process.cmdline())
            if here and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def start(bench: Bench) -> subprocess.Popen[bytes]:
    """Run ``install-llama --from source`` as a command."""
    config = bench.folder / "config.toml"
    config.write_text(f'system_root = "{bench.folder}"\n')
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "cyber_inference_tui", "install-llama", "--from", "source"),
            *("--config", str(config), "--data-dir", str(bench.folder / "data")),
            *("--github-api", bench.server.url, "--github-url", bench.server.url),
        ],
        env={**os.environ, "PATH": bench.path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_process_and_continues(
    bench: Bench, number: signal.Signals
) -> None:
    # A compiler that ignores SIGTERM, with a child of its own.
    hold = bench.folder / "hold"
    hold.touch()
    bench.says(
        f"[ $1 = 2 ] && [ -f {hold} ] || return 0\n"
        f"trap '' TERM INT; sh -c 'sleep 60; : {bench.folder}' & sleep 60"
    )
    process = start(bench)
    try:
        eventually(lambda: bench.compiled() == ["1", "2"], what="the second file")
        eventually(lambda: len(running(bench.folder)) >= 3, what="the compiler's child")
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in errors
    eventually(lambda: not running(bench.folder), what="the end of every process")
    hold.unlink()
    # The first object is an old one; the second was being written.
    build = bench.folder / "data/llama/.build-b6543/build"
    os.utime(build / "1.o", (0, 0))
    (build / "2.o").write_text("half")
    # By now there is a newer release: the unfinished build comes first.
    bench.serve("b6600")
    again = start(bench)
    _, errors = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, errors
    assert bench.compiled() == ["1", "2", "2", "3", "4"]
    assert (bench.folder / "data/llama/current").readlink() == Path("source-b6543")
    assert b"[ 50%] Built object 2" in errors


def test_a_missing_release_is_quoted_as_typed(bench: Bench) -> None:
    for name in ("cmake", "make"):
        (bench.tools / name).unlink()
    bench.path = str(bench.tools)
    process = start(bench)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert b"sudo apt-get install -y cmake build-essential" in errors


MAIN = b"""
#include <stdio.h>
#include <string.h>
int answer(void);
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--version")) printf("version: %d (abc)\\n", NUMBER);
    if (argc > 1 && !strcmp(argv[1], "--help")) printf("-h, --help  print usage\\n");
    if (argc > 1 && !strcmp(argv[1], "--list-devices")) printf("Available devices:\\n");
    return answer() - 42;
}
"""
PROJECT = b"""
cmake_minimum_required(VERSION 3.14)
project(fake C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama SHARED answer.c)
set_target_properties(llama PROPERTIES VERSION 0.1 SOVERSION 0)
add_executable(llama-server main.c)
target_compile_definitions(llama-server PRIVATE NUMBER=${LLAMA_BUILD_NUMBER})
target_link_libraries(llama-server llama)
"""


def test_a_real_cmake(bench: Bench) -> None:
    for name in ("cmake", "make", "cc", "c++"):
        tool(name)
    bench.server.add_sources(
        "b6543",
        tar(
            member("llama.cpp-b6543/CMakeLists.txt", PROJECT),
            member("llama.cpp-b6543/main.c", MAIN),
            member("llama.cpp-b6543/answer.c", b"int answer(void) { return 42; }\n"),
        ),
    )
    bench.path = os.environ["PATH"]
    process = start(bench)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert b"Installed llama-server b6543 (source)" in output
    assert b"[100%]" in errors
    program = bench.folder / "data/llama/current/bin/llama-server"
    # Its library is found without the build's folder.
    assert bench.kept() == []
    version = subprocess.run([program, "--version"], capture_output=True, check=True)
    assert version.stdout == b"version: 6543 (abc)\n"

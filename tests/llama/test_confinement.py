"""What a confined server can do."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary, examine
from cyber_inference_tui.llama.confinement import Confinement, confinement
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.launch_plan import LaunchPlan
from cyber_inference_tui.llama.needs import NeedSource
from cyber_inference_tui.llama.server import ServerProcess
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from tests.llama.children import ENVIRONMENT, HOST, Child
from tests.llama.test_launcher import Room

BINARY = LlamaBinary(
    path=Path("/opt/llama/bin/llama-server"),
    version="1",
    flags=frozenset({"--list-devices"}),
    libraries=(Path("/opt/llama/lib"),),
)


def files_of(binary: LlamaBinary = BINARY, **own: Any) -> Confinement | None:
    model = LocalModel(
        id="m",
        path=Path("/models/m-1.gguf"),
        shards=(Path("/models/m-1.gguf"), Path("/models/m-2.gguf")),
        mmproj=Path("/models/p.gguf"),
        settings=ModelSettings(**own),
    )
    spec = resolve(model, Settings())
    return confinement(spec, binary, {"HOME": "/home/u"}, Path("/config"))


def test_a_server_may_read_its_model_and_what_arguments_name() -> None:
    arguments = ["--chat-template-file", "a.jinja", "--lora-scaled", "/l/a.gguf:0.5,/l/b.gguf:1"]
    arguments += ["--model-draft", "/d/x-00001-of-00002.gguf"]
    found = files_of(args=tuple(arguments), env={"LLAMA_ARG_GRAMMAR_FILE": "/g"})
    assert found is not None
    for path in ("m-1.gguf", "m-2.gguf", "p.gguf"):
        assert Path("/models", path) in found.read
    for path in ("/config/a.jinja", "/l/a.gguf", "/l/b.gguf", "/d", "/g", "/opt/llama/lib", "/usr"):
        assert Path(path) in found.read
    for path in ("/", "/home", "/home/u", "/config", "/models", "/etc", "/dev", "/tmp", "/root"):
        assert Path(path) not in found.read
    assert set(found.write) == {Path("/dev/null"), Path("/home/u/.cache/llama.cpp")}


def test_a_server_may_write_where_arguments_say() -> None:
    found = files_of(args=("--slot-save-path", "/s", "--log-file", "/l/x.log"))
    assert found is not None
    assert {Path("/s"), Path("/l")} <= set(found.write)


@pytest.mark.parametrize(
    "change",
    [{"devices": ("CUDA0",)}, {"devices": None}, {"libraries": None}, {"flags": frozenset()}],
    ids=str,
)
def test_a_server_with_a_gpu_or_of_an_unknown_kind_is_not_confined(
    change: dict[str, object],
) -> None:
    assert files_of(msgspec.structs.replace(BINARY, **change)) is None


def landlock_works() -> bool:
    try:
        Ruleset((), ()).close()
    except OSError:
        return False
    return True


needs_landlock = pytest.mark.skipif(not landlock_works(), reason="this kernel has no Landlock")


async def run(script: str, ruleset: Ruleset | None) -> tuple[int, list[str], ServerProcess]:
    child = Child()
    plan = LaunchPlan(
        name="m",
        argv=("/bin/sh", "-c", script),
        environment=ENVIRONMENT,
        address=ServerAddress(HOST, 1, "server-key"),
        speaks_protocol=False,
        ruleset=ruleset,
    )
    server = await ServerProcess.spawn(plan, log=child.log, progress=child.progress.append)
    return await server.exited, child.lines, server


SYSTEM = [Path(one) for one in ("/usr", "/bin", "/lib", "/lib64", "/proc", "/etc/ld.so.cache")]


@needs_landlock
def test_other_files_cannot_be_read_or_written(tmp_path: Path) -> None:
    model, secret, cache = tmp_path / "model", tmp_path / "secret", tmp_path / "cache"
    model.write_text("weights")
    secret.write_text("password")
    cache.mkdir()
    script = f"""
        cat {model}; echo; cat {secret}; echo x >{tmp_path}/new; echo y >{model}; rm {secret}
        kill -0 {os.getpid()} && echo signalled; echo z >{cache}/kept && cat {cache}/kept
        ls {tmp_path}; grep NoNewPrivs /proc/self/status
    """

    async def main() -> None:
        ruleset = Ruleset([*SYSTEM, model, tmp_path / "gone"], [Path("/dev/null"), cache])
        _, lines, _ = await run(script, ruleset)
        ruleset.close()
        assert lines[0] == "weights"
        assert "z" in lines
        assert ["NoNewPrivs:", "1"] in [line.split() for line in lines]
        assert not {"password", "signalled", "secret", "x"} & set(lines)

    asyncio.run(main())
    assert model.read_text() == "weights"
    assert secret.read_text() == "password"
    assert not (tmp_path / "new").exists()
    # This process itself stays free.
    (tmp_path / "new").write_text("ours")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_server_leaves_no_dump_and_its_files_are_private(tmp_path: Path) -> None:
    script = f"grep 'core file' /proc/self/limits; echo x >{tmp_path}/new; kill -SEGV $$"

    async def main() -> None:
        code, lines, _ = await run(script, None)
        assert code == -signal.SIGSEGV
        most = {word for line in lines for word in line.split() if word.isdigit()}
        assert most <= {"0", "1"}
        assert most

    asyncio.run(main())
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_the_libraries_of_a_program_are_found(tmp_path: Path) -> None:
    script = tmp_path / "llama-server"
    script.write_text("#!/bin/sh\necho version: 1\n")
    script.chmod(0o755)
    assert examine(script, ENVIRONMENT).libraries is None
    if sys.platform == "linux":
        program = Path(sys.executable).resolve()
        traced = subprocess.run(
            [program],
            env={"LD_TRACE_LOADED_OBJECTS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        folders = {Path(line.split()[2]).parent for line in traced.splitlines() if "=> /" in line}
        found = examine(program, {}).libraries
        assert folders
        assert found is not None
        assert {program.parent, *folders} <= set(found)


@needs_landlock
@pytest.mark.parametrize("confined", [True, False])
async def test_a_load_that_needs_another_file_names_the_way_out(
    tmp_path: Path, confined: bool
) -> None:
    secret, program = tmp_path / "secret", tmp_path / "lib/llama-server"
    secret.write_text("read")
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat {secret}\nexit 1\n")
    program.chmod(0o755)
    binary = msgspec.structs.replace(BINARY, path=program, libraries=(program.parent,))
    room = Room(tmp_path, lambda: binary)
    model = LocalModel(id="m", path=tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError) as error:
        await room.launch(model, confine_servers=confined)
    assert ("confine_servers = false" in error.value.hint) is confined
    assert ("read" in room.text().splitlines()) is not confined
    await room.launcher.close()


@needs_landlock
@pytest.mark.parametrize("confined", [True, False])
async def test_the_estimate_before_a_load_is_confined_as_the_server(
    tmp_path: Path, confined: bool
) -> None:
    secret, cache, program = (tmp_path / one for one in ("secret", "cache", "llama-fit-params"))
    secret.write_text("password")
    cache.mkdir()
    program.write_text(f"""#!/bin/sh
        [ "$1" = --help ] && {{ printf '%s\\n' --model --parallel --fit-print; exit 0; }}
        head -c 4 "$2" >{cache}/found; cat {secret} >>{cache}/found
        echo x >{tmp_path}/new
        grep 'core file' /proc/self/limits >{cache}/limits
        echo 'Host 5 0 1'
    """)
    program.chmod(0o755)
    write_demo(tmp_path / "m.gguf")
    binary = msgspec.structs.replace(BINARY, path=tmp_path / "llama-server", libraries=(program,))
    room = Room(tmp_path, lambda: binary)
    model = LocalModel(
        id="m",
        path=tmp_path / "m.gguf",
        shards=(tmp_path / "m.gguf",),
        size_bytes=1,
        settings=ModelSettings(env={"LLAMA_CACHE": str(cache)}),
    )
    need = await room.launcher.need(resolve(model, Settings(confine_servers=confined)))
    assert need.source is NeedSource.ENGINE
    assert (cache / "found").read_text() == ("GGUF" if confined else "GGUFpassword")
    assert (tmp_path / "new").exists() is not confined
    assert stat.S_IMODE((cache / "found").stat().st_mode) == 0o600
    limits = (cache / "limits").read_text().split()
    assert {word for word in limits if word.isdigit()} <= {"0", "1"}
    # This process, and the threads that it shares, stay free.
    assert await asyncio.gather(*(asyncio.to_thread(secret.read_text) for _ in range(64)))

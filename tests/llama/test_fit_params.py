"""Running llama-fit-params, with small programs that print the same as the real one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.fit_params import fitted_footprint, known_only, read_fit_print
from cyber_inference_tui.llama.needs import Footprint
from tests.llama.children import wait_gone

MIB = 1 << 20
HELP = """\
-m,    --model FNAME                    model path to load
-c,    --ctx-size N                     size of the prompt context
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers
-fitp, --fit-print [on|off]             print the estimated required memory
"""
OUTPUT = """\
0.00.100 I llama_fit_params: printing estimated memory in MiB to stdout (device, model, ...) ...
CUDA0 3616 192 183 
CUDA1 100 0 50 
Host 844 32 18 
"""  # noqa: W291 - the real one ends its rows so
WHOLE = Footprint(
    mapped=844 * MIB, host=(32 + 18) * MIB, device=(3616 + 192 + 183 + 100 + 50) * MIB
)

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_program(answer: str = OUTPUT, *, options: str = HELP, rest: str = "") -> Path:
        program = tmp_path / "llama-fit-params"
        program.write_text(
            f"#!/bin/sh\n[ \"$1\" = --help ] && {{ cat <<'EOF'\n{options}EOF\nexit 0; }}\n"
            f'echo "$@" > {tmp_path}/asked\n'
            f"{rest}\ncat <<'EOF'\n{answer}EOF\n"
        )
        program.chmod(0o755)
        return tmp_path / "llama-server"

    return make_program


async def ask(
    server: Path,
    *words: str,
    mapped: bool = True,
    needed: frozenset[str] = frozenset(),
    timeout: float = 60,
) -> Footprint | None:
    def arguments(known: frozenset[str]) -> Sequence[str]:
        assert "--ctx-size" in known
        return words

    return await fitted_footprint(
        server,
        arguments,
        environment={"PATH": os.defpath},
        mapped=mapped,
        needed=needed,
        timeout=timeout,
    )


async def test_devices_and_main_memory_are_read(make: Make, tmp_path: Path) -> None:
    words = ("--host", "x", "--model", "/m.gguf", "--ctx-size", "-1", "--jinja", "-np", "4")
    assert await ask(make(), *words) == WHOLE
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--model", "/m.gguf", "--ctx-size", "-1", "--fit-print", "on"]


async def test_weights_that_are_not_mapped_are_in_main_memory(make: Make) -> None:
    assert await ask(make(), mapped=False) == Footprint(
        host=(844 + 32 + 18) * MIB, device=WHOLE.device
    )


async def test_without_the_program_nothing_is_known(tmp_path: Path) -> None:
    assert await ask(tmp_path / "llama-server") is None


async def test_a_program_without_the_options_is_not_asked(make: Make, tmp_path: Path) -> None:
    assert await ask(make(options=HELP.replace("--fit-print", "--other"))) is None
    assert await ask(make(), needed=frozenset({"--parallel"})) is None
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    "rest",
    ["echo 'error: invalid argument: --x' >&2; exit 1", "kill -SEGV $$", "echo broken; exit 0"],
)
async def test_a_program_that_fails_gives_no_footprint(make: Make, rest: str) -> None:
    assert await ask(make(rest=rest)) is None


async def test_a_program_that_cannot_be_run_gives_no_footprint(tmp_path: Path) -> None:
    (tmp_path / "llama-fit-params").write_bytes(b"\x7fELF")
    assert await ask(tmp_path / "llama-server") is None


async def test_a_program_that_hangs_is_killed_with_its_children(make: Make, tmp_path: Path) -> None:
    server = make(rest=f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    assert await ask(server, timeout=3) is None
    assert wait_gone(int((tmp_path / "child").read_text()))


async def test_a_cancelled_question_leaves_nothing(make: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    task = asyncio.ensure_future(ask(make(rest=f"echo $$ > {tmp_path}/pid; exec sleep 1000")))
    pid = int(await asyncio.to_thread((tmp_path / "pid").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wait_gone(pid)


def test_an_answer_without_its_last_row_does_not_count() -> None:
    assert read_fit_print("CUDA0 3616 192 183 \n", mapped=True) is None
    assert read_fit_print("Host 0 0 0 \n", mapped=True) is None
    assert read_fit_print("", mapped=True) is None
    assert read_fit_print("Host 5 10 17 \n", mapped=True) == Footprint(
        mapped=5 * MIB, host=27 * MIB
    )


def test_unknown_options_are_left_out_with_their_values() -> None:
    words = ["stray", "-a", "1", "--b", "x", "y", "-c", "-5", "--d", "-a", "--b"]
    assert known_only(words, frozenset({"-a", "-c"})) == ["-a", "1", "-c", "-5", "-a"]


@given(st.text())
def test_any_output_is_read(output: str) -> None:
    read_fit_print(output, mapped=True)

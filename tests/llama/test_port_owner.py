"""The owner of a server's port: real processes and sockets."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cyber_inference_tui.llama.port_owner import find_own_socket, foreign_listener
from tests.llama.children import HOST
from tests.without_linux import run_without_linux

LISTENS = """
import socket, sys
both = ":" in sys.argv[1]
family = socket.AF_INET6 if both else socket.AF_INET
address = (sys.argv[1], int(sys.argv[2]))
listener = socket.create_server(address, family=family, dualstack_ipv6=both)
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""
PYTHON = (sys.executable, "-I", "-S", "-c", LISTENS)
SHELL = ("/bin/sh", "-c")


class Started:
    """A program in a session of its own that prints the port it listens on."""

    def __init__(self, *argv: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, start_new_session=True)
        self.pid = self.process.pid

    @property
    def port(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def one(*argv: str) -> Started:
        started.append(Started(*argv))
        return started[-1]

    yield one
    for each in started:
        each.end()


Start = Callable[..., Started]


@pytest.fixture(params=[False, True], ids=["llama-server", "command"])
def by_command(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("address", [HOST, "0.0.0.0", "::"])
def test_the_server_itself(start: Start, by_command: bool, address: str) -> None:
    server = start(*PYTHON, address, "0")
    port = server.port
    assert foreign_listener(port, [server.pid], by_command=by_command) is None
    # To any other server it is foreign, and reported by name.
    other = start(*SHELL, "read -r word")
    listener_name = foreign_listener(port, [other.pid], by_command=by_command)
    assert listener_name == f"{Path(sys.executable).name} (pid {server.pid})"


def test_a_servers_own_socket_is_known_until_it_is_closed(start: Start) -> None:
    other = start(*SHELL, "read -r word")
    with closing(socket.create_server((HOST, 0))) as listener:
        port = listener.getsockname()[1]
        assert find_own_socket(port, [other.pid]) is None
        own = find_own_socket(port, [other.pid, os.getpid()])
        assert own is not None
        assert own.is_open()
    assert not own.is_open()
    assert find_own_socket(port, [os.getpid()]) is None
    # Another socket on the same port is not taken for it, even as the same file.
    with closing(socket.create_server((HOST, port))):
        assert not own.is_open()


def test_the_socket_of_a_wrappers_child_is_the_servers_own(start: Start) -> None:
    wrapper = start(*SHELL, f"{shlex.join((*PYTHON, HOST, '0'))}; true")
    port = wrapper.port
    own = find_own_socket(port, [wrapper.pid])
    assert own is not None
    assert own.is_open()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_socket_for_all_addresses_says_nothing(start: Start, address: str) -> None:
    server = start(*PYTHON, address, "0")
    assert find_own_socket(server.port, [server.pid]) is None


def test_without_a_list_of_sockets_none_is_known(tmp_path: Path) -> None:
    with closing(socket.create_server((HOST, 0))) as listener:
        assert find_own_socket(listener.getsockname()[1], [os.getpid()], tmp_path) is None


@pytest.mark.parametrize(
    "script",
    [
        'cat | "$@"; true',
        # The stdin of a background process of a shell is /dev/null unless redirected.
        'sh -c \'"$@" <&3 & wait\' sh "$@" 3<&0',
        'setsid -w "$@"; true',
        # Its parent is gone; the session is the same.
        '(sh -c \'"$@" <&3 &\' sh "$@" 3<&0); read -r word',
    ],
)
def test_a_process_of_the_server(start: Start, by_command: bool, script: str) -> None:
    server = start(*SHELL, script, "sh", *PYTHON, HOST, "0")
    assert foreign_listener(server.port, [server.pid], by_command=by_command) is None


def test_a_process_that_left_and_is_known(start: Start, by_command: bool) -> None:
    wrapper, server = (
        start(*SHELL, "read -r word"),
        start(*SHELL, 'cat | "$@"', "sh", *PYTHON, HOST, "0"),
    )
    assert foreign_listener(server.port, [wrapper.pid, server.pid], by_command=by_command) is None


def test_nobody_and_no_linux(start: Start, by_command: bool, tmp_path: Path) -> None:
    with closing(socket.create_server((HOST, 0))) as listener:
        port = listener.getsockname()[1]
        listener_name = foreign_listener(
            port, [start(*SHELL, "read -r word").pid], by_command=by_command
        )
        assert listener_name is not None
        assert listener_name.endswith(f" (pid {os.getpid()})")
        assert foreign_listener(port, [1], by_command=by_command, proc=tmp_path) is None
    assert foreign_listener(port, [os.getpid()], by_command=by_command) is None


def test_without_linux_the_sockets_of_each_process_are_used(start: Start) -> None:
    """For systems where this user's processes may be inspected."""
    script = (
        "from cyber_inference_tui.llama.port_owner import foreign_listener\n"
        "port, *pids = map(int, sys.argv[1:])\n"
        "for pid in pids: print(foreign_listener(port, [pid], by_command=False))\n"
    )
    wrapper = start(*SHELL, 'cat | "$@"', "sh", *PYTHON, HOST, "0")
    idle = start(*SHELL, "read -r word")
    port = wrapper.port
    output = run_without_linux(script, str(port), str(wrapper.pid), str(idle.pid))
    own, other = output.splitlines()
    assert own == "None"
    assert re.fullmatch(r"python\S* \(pid \d+\)", other)
    with closing(socket.create_server((HOST, 0))) as listener:
        free = listener.getsockname()[1]
    assert run_without_linux(script, str(free), str(idle.pid)) == "None\n"


def test_a_listener_at_another_address_gets_none_of_its_connections(
    start: Start, by_command: bool
) -> None:
    with closing(socket.create_server(("127.0.0.2", 0))) as listener:
        port = listener.getsockname()[1]
        idle = start(*SHELL, "read -r word")
        assert foreign_listener(port, [idle.pid], by_command=by_command) is None
        server = start(*PYTHON, HOST, str(port))
        assert foreign_listener(server.port, [server.pid], by_command=by_command) is None


def test_a_server_that_has_ended_owns_nothing(by_command: bool) -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    with closing(socket.create_server((HOST, 0))) as listener:
        assert (
            foreign_listener(listener.getsockname()[1], [gone.pid], by_command=by_command)
            is not None
        )


def test_a_containers_port_is_held_by_a_proxy(start: Start, tmp_path: Path) -> None:
    proxy = tmp_path / "docker-proxy"
    proxy.symlink_to(Path(sys.executable).resolve())
    forwarder = start(str(proxy), *PYTHON[1:], HOST, "0")
    port = forwarder.port
    wrapper = start(*SHELL, "read -r word")
    assert foreign_listener(port, [wrapper.pid], by_command=True) is None
    listener_name = foreign_listener(port, [wrapper.pid], by_command=False)
    assert listener_name == f"docker-proxy (pid {forwarder.pid})"


def test_a_container_on_the_hosts_network_listens_itself(start: Start) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root makes a process namespace here")
    older = start("unshare", "--pid", "--fork", *PYTHON, HOST, "0")
    old_port = older.port
    wrapper = start(*SHELL, "read -r word")
    younger = start("unshare", "--pid", "--fork", *PYTHON, HOST, "0")
    assert foreign_listener(younger.port, [wrapper.pid], by_command=True) is None
    assert foreign_listener(old_port, [wrapper.pid], by_command=True) is not None

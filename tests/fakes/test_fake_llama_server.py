"""The stand-in itself: each switch does what the tests that use it rely on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.launcher import SCRIPT, write_fake_llama
from tests.waiting import eventually, is_alive


class Running:
    """A stand-in started by hand."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def line(self, part: str, stream: str = "stderr") -> str:
        """The next line with ``part`` in it; fails when the process ends first."""
        pipe = getattr(self.process, stream)
        for raw in pipe:
            if part.encode() in raw:
                return str(raw.decode("utf-8", "replace"))
        raise AssertionError(f"ended without {part!r}")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        with contextlib.closing(self.connect()) as connection:
            post(connection, body, path)
            response = connection.getresponse()
            return response.status, response.read()

    def report(self) -> dict[str, Any]:
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", "/fake/report")
            value: dict[str, Any] = json.loads(connection.getresponse().read())
            return value

    def last_state(self, state: str) -> dict[str, Any]:
        """The last request, once it has that state."""
        requests: list[dict[str, Any]] = []
        for _ in range(500):
            requests = self.report()["requests"]
            if requests and requests[-1]["state"] == state:
                return requests[-1]
            time.sleep(0.01)
        raise AssertionError(f"never {state}: {requests}")


def post(
    connection: http.client.HTTPConnection,
    body: dict[str, Any],
    path: str = "/v1/chat/completions",
) -> None:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []

    def begin(*, router: bool = False, ready: bool = True, **switches: Any) -> Running:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        environ = {"PATH": os.defpath, "FAKE_LLAMA": json.dumps(switches)}
        if router:
            environ["LLAMA_SERVER_ROUTER_PORT"] = "1"
        process = subprocess.Popen(
            [write_fake_llama(tmp_path / "llama-server"), "--port", str(port), "--alias", "a"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running.append(Running(process, port))
        if ready:
            running[-1].line("listening on")
        return running[-1]

    yield begin
    for one in running:
        with one.process:
            one.process.kill()


def test_tells_about_itself(tmp_path: Path) -> None:
    program = write_fake_llama(tmp_path / "llama-server")
    version = subprocess.run([program, "--version"], capture_output=True, check=True)
    assert b"version: 0.7.0 (build 11669" in version.stderr
    helped = subprocess.run([program, "--help"], capture_output=True, check=True)
    assert b"--cache-ram" in helped.stdout
    wrong = subprocess.run([program, "--badflag"], capture_output=True, check=False)
    assert (wrong.returncode, b"invalid argument: --badflag" in wrong.stderr) == (1, True)


def test_router_protocol_and_exit_command(start: Start) -> None:
    fake = start(router=True, ready=False, load_seconds=0.3)
    assert '"state": "loading"' in fake.line("cmd_child_to_router:state:", "stdout")
    status, body = fake.ask({})
    assert (status, json.loads(body)["error"]["message"]) == (503, "Loading model")
    assert fake.line('"state": "ready"', "stdout")
    assert fake.process.stdin is not None
    fake.process.stdin.write(b"cmd_router_to_child:exit\n")
    fake.process.stdin.flush()
    assert fake.process.wait(60) == 0


def test_router_child_ends_with_stdin_but_not_by_sigterm_alone(start: Start) -> None:
    fake = start(router=True)
    fake.process.send_signal(signal.SIGTERM)
    fake.line("received SIGTERM")
    assert fake.process.poll() is None
    assert fake.process.stdin is not None
    fake.process.stdin.close()
    assert fake.process.wait(60) == 1


def test_plain_mode_obeys_sigterm_unless_told_not_to(start: Start) -> None:
    fake = start()
    fake.process.send_signal(signal.SIGTERM)
    assert fake.process.wait(60) == 0
    stubborn = start(ignore_sigterm=True, ignore_stdin=True)
    stubborn.process.send_signal(signal.SIGTERM)
    assert stubborn.ask({})[0] == 200


def test_dies_in_load_so_many_times(start: Start, tmp_path: Path) -> None:
    switches: dict[str, Any] = {
        "die": {"stderr": ["E srv load_model: out of luck"], "exit": 7},
        "die_first": 1,
        "state": str(tmp_path / "state"),
    }
    assert start(ready=False, **switches).process.wait(60) == 7
    assert start(**switches).ask({})[0] == 200
    starts = [json.loads(line) for line in (tmp_path / "state").read_text().splitlines()]
    assert [entry["what"] for entry in starts] == ["start", "exit", "start"]
    aborted = start(ready=False, die={"signal": "SIGABRT"})
    assert aborted.process.wait(60) == -signal.SIGABRT


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_framings(start: Start, framing: str) -> None:
    fake = start()
    status, body = fake.ask({"fake": {"framing": framing, "size": 200_000}})
    assert (status, len(body)) == (200, 200_000)
    assert hashlib.sha256(body).digest() == hashlib.sha256(pattern(200_000)).digest()
    _, body = fake.ask({"stream": True, "fake": {"framing": framing, "tokens": 3}})
    assert body.count(b"data: ") == 5
    assert body.endswith(b"data: [DONE]\n\n")


def pattern(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def test_echo_tells_what_came(start: Start) -> None:
    fake = start()
    with contextlib.closing(fake.connect()) as connection:
        headers = {"X-Fake": '{"echo": true}', "Transfer-Encoding": "chunked"}
        connection.request(
            "PUT", "/any/path?a=%20b", iter([b"ab", b"c"]), headers, encode_chunked=True
        )
        said = json.loads(connection.getresponse().read())
    assert (said["method"], said["target"]) == ("PUT", "/any/path?a=%20b")
    assert said["body_sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert ["Transfer-Encoding", "chunked"] in said["headers"]


def test_answers_with_a_text_and_tells_its_tokens(start: Start) -> None:
    fake = start(slot_tokens=True, answer={"text": "one two\n\nthree"})
    _, body = fake.ask({})
    assert json.loads(body)["choices"][0]["message"]["content"] == "one two\n\nthree"
    assert json.loads(body)["usage"]["completion_tokens"] == 3
    connection = fake.connect()
    with contextlib.closing(connection):
        post(connection, {"stream": True, "fake": {"interval": 60}})
        connection.getresponse().read(10)
        with contextlib.closing(fake.connect()) as other:
            other.request("GET", "/slots")
            slots = json.loads(other.getresponse().read())
    assert [slot["next_token"] for slot in slots if slot["is_processing"]] == [[{"n_decoded": 1}]]


def test_sees_a_client_go_in_prefill_and_in_a_stream(start: Start) -> None:
    fake = start()
    connection = fake.connect()
    post(connection, {"fake": {"prefill": 60}})
    connection.close()
    assert fake.last_state("cancelled")["sent"] == 0
    connection = fake.connect()
    post(connection, {"stream": True, "fake": {"tokens": 10_000, "interval": 0.01}})
    response = connection.getresponse()
    response.read(10)
    response.close()
    connection.close()
    assert fake.last_state("cancelled")["sent"] > 0


def test_keep_alive_manners(start: Start) -> None:
    fake = start(keepalive_requests=2, drop_reused=1)
    with contextlib.closing(fake.connect()) as connection:
        post(connection, {})
        connection.getresponse().read()
        post(connection, {})
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
        connection.close()
        for closes in (False, True):
            post(connection, {})
            response = connection.getresponse()
            response.read()
            assert response.will_close is closes
    assert [entry["state"] for entry in fake.report()["requests"]][1] == "dropped"
    idle = start(keepalive_idle=0.05)
    with socket.create_connection(("127.0.0.1", idle.port), timeout=10) as quiet:
        assert quiet.recv(1) == b""


def test_crash_and_cut_in_mid_stream(start: Start) -> None:
    fake = start()
    cut = {"stream": True, "fake": {"close_after": 2}}
    with pytest.raises(http.client.IncompleteRead) as caught:
        fake.ask(cut)
    assert caught.value.partial.count(b"data: ") == 2
    with pytest.raises(http.client.IncompleteRead):
        fake.ask({"stream": True, "fake": {"crash_after": 2}})
    assert fake.process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["plain", "long", "binary", "escape"])
def test_floods_the_log(start: Start, kind: str) -> None:
    fake = start(ready=False, flood={"kind": kind, "lines": 3})
    fake.line("2 ")
    fake.process.kill()


def test_dies_with_its_parent(tmp_path: Path) -> None:
    state = tmp_path / "state"
    switches = {"ignore_sigterm": True, "ignore_stdin": True, "state": str(state)}
    parent = f"""
import os, subprocess, sys, time
os.environ["FAKE_LLAMA"] = {json.dumps(switches)!r}
child = subprocess.Popen([sys.executable, {str(SCRIPT)!r}, "--port", "0"], stderr=subprocess.PIPE)
for line in child.stderr:
    if b"listening" in line: break
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", parent], check=True, timeout=30)
    pid = json.loads(state.read_text().splitlines()[0])["pid"]
    eventually(lambda: not is_alive(pid), what="its end")

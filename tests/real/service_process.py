"""The service as its users run it: a process, a config file, HTTP. Nothing of it is imported."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import tomli_w

from tests.real.imported_service import ForkedService, ImportedService
from tests.waiting import LIMIT, eventually, is_alive

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TELLS_CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()
"""``proc_tid_children(5)``: not every kernel has it."""


class ServiceProcess:
    """One service; ``start`` it, talk to ``url``, ``stop`` or ``kill`` it.

    ``config`` is its config file's content. ``wrapper`` is a command that runs its command line,
    in a surrounding of its own. It remembers every process that it saw below it.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        arguments: tuple[str, ...] = (),
        environ: Mapping[str, str] = {},
        wrapper: tuple[str, ...] = (),
        imported: ImportedService | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.config_path = folder / "config.toml"
        self.errors_path = folder / "service.stderr"
        self.arguments = arguments
        self.environ = dict(environ)
        self.wrapper = wrapper
        """A program and its arguments that run the service's command."""
        self.imported = imported
        """What to fork it from, which is faster than a Python of its own; ``None`` = from none."""
        self.url = ""
        self.port = 0
        self.process: subprocess.Popen[str] | ForkedService | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader: threading.Thread | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(config)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the config file."""
        self.config_path.write_text(tomli_w.dumps(config))

    def spawn(self) -> subprocess.Popen[str] | ForkedService:
        """Start the process without waiting for anything."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        # Nothing of what other programs have on this machine is to be seen.
        own = {"HOME": str(home), "OLLAMA_MODELS": str(home / "ollama")}
        environ = {**plain_environ(), **own, **self.environ}
        arguments = ["--no-ui", "--port", "0", "--config", str(self.config_path)]
        arguments += ["--data-dir", str(self.data_dir), *self.arguments]
        with self.errors_path.open("ab") as errors:
            imported = self.imported
            if imported is not None and not self.wrapper and imported.suits(environ):
                self.process = imported.fork(arguments, environ, errors)
            else:
                self.process = subprocess.Popen(
                    [*self.wrapper, sys.executable, "-m", "cyber_inference_tui", *arguments],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
        self._lines = queue.Queue()
        self._reader = threading.Thread(
            target=self._read, args=(self.process, self._lines), daemon=True
        )
        self._reader.start()
        return self.process

    def start(self) -> ServiceProcess:
        """Start it and wait for its line ``listening on http://HOST:PORT``."""
        self.spawn()
        deadline = time.monotonic() + LIMIT
        try:
            while line := self._lines.get(timeout=max(0.0, deadline - time.monotonic())):
                if line.startswith(("listening on http://", "listening on https://")):
                    self.url = line.split()[-1]
                    self.port = int(self.url.rpartition(":")[2])
                    return self
        except queue.Empty:
            self.kill()
            raise AssertionError(f"not listening in time\n{self.errors()}") from None
        code = None if self.process is None else self.process.wait(LIMIT)
        raise AssertionError(f"ended at start with {code}\n{self.errors()}")

    @staticmethod
    def _read(
        process: subprocess.Popen[str] | ForkedService, lines: queue.Queue[str | None]
    ) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    def errors(self) -> str:
        """The end of what it wrote on stderr."""
        return self.errors_path.read_text(errors="replace")[-4000:]

    # Talking to it

    def client(self, **options: Any) -> httpx.Client:
        """A client with a long time limit; use it as a context manager."""
        # Without certificates: to load them takes longer than a request.
        return httpx.Client(
            base_url=self.url, timeout=LIMIT, trust_env=False, verify=_NO_TLS, **options
        )

    def owner(self) -> httpx.Client:
        """A client with the token that the service has left for its user's programs."""
        token = json.loads((self.data_dir / "service.json").read_text())["token"]
        return self.client(headers={"Authorization": f"Bearer {token}"})

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, **options)

    def chat(self, model: str, content: str = "hello", **more: Any) -> httpx.Response:
        """A chat request that is not streamed."""
        return self.post("/v1/chat/completions", json=chat_body(model, content, **more))

    @contextlib.contextmanager
    def stream(self, model: str, **more: Any) -> Iterator[httpx.Response]:
        """A streamed chat request; leaving the block closes its connection."""
        body = chat_body(model, stream=True, **more)
        with (
            self.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            yield response

    def raw(self) -> socket.socket:
        """A TCP connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)

    def models(self) -> dict[str, dict[str, Any]]:
        """``GET /admin/models`` by id."""
        self.note_children()
        records = read_json(self.port, "/admin/models", host=httpx.URL(self.url).host)
        return {record["id"]: record for record in records}

    def model(self, model_id: str) -> dict[str, Any]:
        return self.models()[model_id]

    def wait_status(self, model_id: str, *statuses: str, limit: float = LIMIT) -> dict[str, Any]:
        """The model's record once its status is one of these."""

        def look() -> dict[str, Any] | None:
            record = self.model(model_id)
            return record if record["status"] in statuses else None

        return eventually(look, limit=limit, what=f"{model_id} {'/'.join(statuses)}")

    def upstream(self, model_id: str, path: str) -> Any:
        """What the model's server itself says (JSON), asked past the service."""
        record = self.model(model_id)
        assert record["pid"] is not None, f"{model_id} is not loaded here"
        # Only this user can read the key.
        environ = psutil.Process(record["pid"]).environ()
        key = environ.get("LLAMA_API_KEY") or environ["CYBER_INFERENCE_UPSTREAM_KEY"]
        return read_json(record["port"], path, {"Authorization": f"Bearer {key}"})

    # Its end

    def note_children(self) -> list[psutil.Process]:
        """The processes below it now; they are remembered for ``assert_none_left``."""
        if self.process is None:
            return []
        below = descendants(self.process.pid)
        for process in below:
            self._seen.setdefault(process.pid, process)
        return below

    def servers(self) -> list[psutil.Process]:
        """The model servers below it now."""

        def is_server(process: psutil.Process) -> bool:
            try:
                return "--port" in process.cmdline()
            except psutil.Error:
                return False

        return [process for process in self.note_children() if is_server(process)]

    def terminate(self) -> None:
        self.note_children()
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM; it must end with 0 and leave no process behind."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.terminate()
        assert self.wait() == 0, self.errors()
        self.assert_none_left()

    def wait(self, limit: float = LIMIT) -> int:
        """Its exit code; killed and failed when it does not come."""
        assert self.process is not None
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {limit:g} s\n{self.errors()}") from None
        finally:
            if self._reader is not None:
                self._reader.join(LIMIT)

    def kill(self) -> None:
        """SIGKILL to the service alone."""
        self.note_children()
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT)
        if self._reader is not None:
            self._reader.join(LIMIT)

    def assert_none_left(self, limit: float = 10.0) -> None:
        """No process that was ever seen below it lives after ``limit`` seconds."""
        _, alive = psutil.wait_procs(list(self._seen.values()), timeout=limit)
        left = [process for process in alive if is_alive(process)]
        names = [describe(process) for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        assert not names, f"left behind: {names}"


def read_json(
    port: int, path: str, headers: Mapping[str, str] = {}, *, host: str = "127.0.0.1"
) -> Any:
    """What a server here answers; in a tenth of the time that a client of httpx takes."""
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=dict(headers))
        return json.loads(connection.getresponse().read())


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below it. psutil would look at all there are, which takes long in a poll."""
    if not _TELLS_CHILDREN:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).children(recursive=True)
        return []
    below = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (thread / "children").read_text().split()):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        below += [psutil.Process(child), *descendants(child)]
    return below


def plain_environ() -> dict[str, str]:
    """Our environment for a service, without what would be a setting of it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CYBER_", "XDG_", "LLAMA_", "HF_"))
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)


def chat_body(model: str | None, content: str = "hello", **more: Any) -> dict[str, Any]:
    """A chat request's JSON; ``fake`` in it reaches the stand-in as switches for its answer."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
    if model is not None:
        body["model"] = model
    return {**body, **more}


def sse_data(text: str) -> list[Any]:
    """The ``data:`` values of a whole event stream, decoded, ``[DONE]`` left as a string."""
    values = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [value if value == "[DONE]" else json.loads(value) for value in values]


def free_low_port(count: int = 4) -> int:
    """The first of ``count`` neighbouring free ports below the kernel's own range."""
    start = 20_000 + (os.getpid() * 37) % 9_000
    for base in range(start, 32_000 - count, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")

"""A stand-in for llama-server with switches for every fault; standard library only.

It takes llama-server's arguments and answers its most used routes. ``FAKE_LLAMA`` in its
environment holds a JSON object of switches (``SWITCHES`` lists them with their defaults); a request
may carry further ones for itself, in the header ``X-Fake`` or in the JSON field ``fake``
(``ANSWER_SWITCHES``). ``GET /fake/report`` tells what it has seen: every request with its state
(``running``, ``done``, ``cancelled`` = the client went away first), the bytes it could send, and
the connections.

It dies with its parent, and after ``max_life`` seconds whatever happens, so that no test leaves
one behind; ``outlive_parent`` delays that, to show that somebody else ends it.
"""

from __future__ import annotations

import binascii
import json
import math
import os
import re
import select
import signal
import socket
import sys
import threading
import time

TYPE_CHECKING = False  # "typing" takes longer than most of what is imported here
if TYPE_CHECKING:
    from typing import Any, NoReturn

SWITCHES: dict[str, Any] = {
    "load_seconds": 0.0,  # until ready
    "protocol": True,  # speak the router's stdout protocol when LLAMA_SERVER_ROUTER_PORT is set
    "die": None,  # in load: {"after": s, "stderr": [lines], "exit": 1, "signal": "SIGABRT"}
    "die_first": 0,  # only the first N starts die (needs "state"); 0 = all
    "read": None,  # in the load: {"path": file, "mib": N, "step_seconds": s}; 1 MiB a step
    "load_lines": [],  # lines of its log during the load
    "crash_first": 0,  # only the first N starts obey "crash_after" (needs "state"); 0 = all
    "hang_load": False,  # listens, is never ready
    "exit_when": None,  # when this file is there and it is ready: exit with code 1
    "ignore_sigterm": False,
    "ignore_stdin": False,  # neither the exit command nor the end of stdin
    "outlive_parent": 0.0,  # seconds it lives on when its parent is gone
    "clear_pdeathsig": False,  # undo the parent's PR_SET_PDEATHSIG, as a careless child would
    "max_life": 300.0,
    "flood": None,  # {"kind": plain|long|binary|escape, "rate": lines/s, 0 = as fast, "lines": N}
    "keepalive_requests": 100,  # a connection is closed after that many
    "keepalive_idle": 5.0,  # and after so many idle seconds
    "drop_reused": 0,  # so many times: a request on a reused connection gets no answer
    "drop_fresh": 0,  # so many times: the first request of a connection gets no answer
    "slot_tokens": False,  # /slots reports the tokens of answers under way
    "state": None,  # a file; one JSON line per start and per end is appended
    "memory_mib": 0,  # that much resident memory
    "speeds": None,  # of /completion: {"prompt": tokens/s, "generation": tokens/s}
    "factors": {},  # {"threads=4": ratio}: how much faster it is with this option
    "surprises": {},  # {"cache-type-k=q8_0": nats}: how much less likely its tokens are with it
    "heat": None,  # {"path": file, "each": share}: each answer of all servers slows the next ones
    "answer": {},  # defaults of ANSWER_SWITCHES for every request
}
ANSWER_SWITCHES: dict[str, Any] = {
    "tokens": 5,  # of an answer
    "text": None,  # an answer whose words are its tokens, in place of "tok0 tok1 …"
    "interval": 0.0,  # seconds between them
    "prefill": 0.0,  # seconds before the first one
    "slot_wait": 0.0,  # seconds before that, in which it works on something else
    "timings": None,  # {"cached": N, "new": N}: report and log times, with these prompt tokens
    "framing": "chunked",  # chunked | length | close
    "hang": False,  # read the request, never answer
    "crash_after": None,  # kill ourselves after N tokens (0 = before the status line)
    "close_after": None,  # close the connection after N tokens, without an end
    "status": 200,
    "size": None,  # a body of N bytes (cycling 0..255) instead of an answer
    "headers": [],  # further [name, value] pairs
    "echo": False,  # answer with what was received
}
_ROUTER_SAYS = "cmd_child_to_router:state:"
_EXIT_COMMAND = b"cmd_router_to_child:exit"
_BLOCK = 65_536

# Reentrant: a signal handler of the main thread prints, too.
_print_lock = threading.RLock()


class ClientGone(Exception):  # noqa: N818  (a fact about the client, not an error of ours)
    """The client closed its connection before the answer's end."""


class Request:
    """One request as it came, byte for byte."""

    def __init__(self, method: str, target: str, headers: list[tuple[str, str]]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = b""
        self.asked: dict[str, Any] = {}
        self.switches: dict[str, Any] = {}

    def header(self, name: str) -> str | None:
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


class Fake:
    """The whole server; ``run`` never returns."""

    def __init__(self, options: dict[str, str], switches: dict[str, Any]) -> None:
        self.options = options
        self.switches = switches
        self.answer_defaults = {**ANSWER_SWITCHES, **switches["answer"]}
        self.ready = threading.Event()
        self.is_locked_up = False
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.connections = {"opened": 0, "open": 0}
        self.drops = {"reused": switches["drop_reused"], "fresh": switches["drop_fresh"]}
        self.parent = os.getppid()
        self.starts = 0
        self.ballast = b""

    # Life and death

    def run(self) -> NoReturn:
        begun = time.time()
        starts = self.starts = self.note("start", argv=sys.argv[1:])
        if self.switches["ignore_sigterm"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.switches["clear_pdeathsig"]:
            import ctypes

            ctypes.CDLL(None).prctl(1, 0)
        threading.Thread(target=self.watch_parent, daemon=True).start()
        speaks = self.switches["protocol"] and "LLAMA_SERVER_ROUTER_PORT" in os.environ
        listener = self.bind()
        log(f"0.00.001.000 I srv          main: loading model {self.options.get('model')}")
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        if self.switches["flood"]:
            threading.Thread(target=self.flood, daemon=True).start()
        dying = self.switches["die"]
        if dying and (not self.switches["die_first"] or starts <= self.switches["die_first"]):
            self.die(dying, speaks)
        self.load(speaks, begun)
        if not self.switches["ignore_sigterm"]:
            signal.signal(signal.SIGTERM, self.on_sigterm if speaks else self.quit_now)
        signal.signal(signal.SIGUSR1, self.lock_up)
        self.ready.set()
        if speaks:
            say(_ROUTER_SAYS + json.dumps({"state": "ready", "payload": {"id": "fake"}}))
        where = f"http://{self.options['host']}:{self.options['port']}"
        log(f"0.00.002.000 I srv          main: server is listening on {where}")
        if speaks and not self.switches["ignore_stdin"]:
            threading.Thread(target=self.watch_stdin, daemon=True).start()
        if self.switches["exit_when"] is not None:
            while not os.path.exists(self.switches["exit_when"]):  # noqa: PTH110
                time.sleep(0.02)
            log("0.00.003.000 E srv          main: CUDA error: out of memory")
            self.exit(1)
        while True:
            # Short: a signal that comes just before the call is handled only after it.
            time.sleep(0.2)

    def load(self, speaks: bool, begun: float) -> None:
        for line in self.switches["load_lines"]:
            log(line)
        if reading := self.switches["read"]:
            with open(reading["path"], "rb", buffering=0) as file:  # noqa: PTH123
                for _ in range(reading["mib"]):
                    if not file.read(1 << 20):
                        file.seek(0)
                    time.sleep(reading.get("step_seconds", 0.0))
        if self.switches["memory_mib"]:
            self.ballast = b"\1" * (self.switches["memory_mib"] << 20)
        seconds = self.switches["load_seconds"]
        while (spent := time.time() - begun) < seconds or self.switches["hang_load"]:
            if speaks and not self.switches["hang_load"]:
                say_progress(spent / seconds)
            time.sleep(0.2 if self.switches["hang_load"] else min(0.2, seconds - spent))

    def die(self, how: dict[str, Any], speaks: bool) -> NoReturn:
        if speaks:
            say_progress(0.1)
        time.sleep(how.get("after", 0.0))
        for line in how.get("stderr", ["0.00.002.000 E srv    load_model: failed to load model"]):
            log(line)
        if "signal" in how:
            os.kill(os.getpid(), getattr(signal, how["signal"]))
            time.sleep(60)
        self.exit(how.get("exit", 1))

    def on_sigterm(self, *_: object) -> None:
        """As the real one: with the protocol on, SIGTERM takes effect when stdin closes."""
        log("0.00.003.000 I srv          main: received SIGTERM")

    def lock_up(self, *_: object) -> None:
        """A deadlock of the main thread, after SIGUSR1: only the health check gets answers."""
        self.is_locked_up = True
        threading.Event().wait()

    def quit_now(self, *_: object) -> None:
        self.exit(0)

    def watch_stdin(self) -> None:
        rest = b""
        while True:
            try:
                block = os.read(0, 4096)
            except OSError:
                block = b""
            if not block:
                self.exit(1)
            *lines, rest = (rest + block).split(b"\n")
            if _EXIT_COMMAND in lines:
                self.exit(0)

    def watch_parent(self) -> None:
        deadline = time.monotonic() + self.switches["max_life"]
        while os.getppid() == self.parent and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(min(self.switches["outlive_parent"], max(0.0, deadline - time.monotonic())))
        os._exit(3)

    def exit(self, code: int) -> NoReturn:
        self.note("exit", code=code)
        sys.stderr.flush()
        os._exit(code)

    def note(self, what: str, **more: object) -> int:
        """Append to the state file; returns the number of starts in it."""
        path = self.switches["state"]
        if not path:
            return 0
        line = json.dumps({"what": what, "pid": os.getpid(), "at": time.time(), **more})
        with open(path, "a+b") as file:  # noqa: PTH123  (pathlib would double the start-up time)
            file.write(line.encode() + b"\n")
            file.flush()
            file.seek(0)
            return sum(b'"what": "start"' in entry for entry in file)

    def flood(self) -> None:
        how = self.switches["flood"]
        line = {
            "plain": b"0.00.004.000 I srv flood: a plain line of about eighty characters, no end",
            "long": b"x" * 3_000_000,
            "binary": b"\xff\xfe\x00\x80 broken \xf0\x9f bytes \xc3",
            "escape": b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m \x9b1m\r\x08 done",
        }[how.get("kind", "plain")]
        count = how.get("lines") or 1 << 60
        for number in range(count):
            with _print_lock:
                os.write(2, b"%d " % number)
                for start in range(0, len(line), _BLOCK):
                    os.write(2, line[start : start + _BLOCK])
                os.write(2, b"\n")
            if how.get("rate"):
                time.sleep(1 / how["rate"])

    # Connections

    def bind(self) -> socket.socket:
        host = self.options["host"]
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(self.options["port"])))
        except OSError:
            log(f"E srv  start: couldn't bind HTTP server socket, port: {self.options['port']}")
            self.exit(1)
        listener.listen(512)
        return listener

    def accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with self.lock:
            self.connections["opened"] += 1
            self.connections["open"] += 1
            number = self.connections["opened"]
        try:
            with connection, connection.makefile("rb") as reader:
                connection.settimeout(self.switches["keepalive_idle"])
                for count in range(self.switches["keepalive_requests"]):
                    request = read_request(reader, connection)
                    if request is None:
                        return
                    which = "reused" if count else "fresh"
                    with self.lock:
                        drop = self.drops[which] > 0
                        self.drops[which] -= drop
                    self.take_switches(request)
                    entry = self.enter(request, number, reused=bool(count))
                    if drop:
                        entry["state"] = "dropped"
                        return
                    last = count + 1 == self.switches["keepalive_requests"]
                    last = last or request.header("connection") == "close"
                    if not self.answer(request, connection, entry, last=last):
                        return
                    connection.settimeout(self.switches["keepalive_idle"])
        except OSError:
            return
        finally:
            with self.lock:
                self.connections["open"] -= 1

    def take_switches(self, request: Request) -> None:
        if request.header("content-type") == "application/json":
            try:
                asked = json.loads(request.body)
            except ValueError:
                asked = None
            request.asked = asked if isinstance(asked, dict) else {}
        extra = {
            **request.asked.get("fake", {}),
            **json.loads(request.header("x-fake") or "{}"),
        }
        if unknown := extra.keys() - ANSWER_SWITCHES.keys():
            log(f"unknown answer switches: {sorted(unknown)}")
            self.exit(2)
        request.switches = {**self.answer_defaults, **extra}

    def enter(self, request: Request, connection: int, *, reused: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "method": request.method,
            "target": request.target,
            "body_bytes": len(request.body),
            "connection": connection,
            "reused": reused,
            "state": "running",
            "began": time.time(),
            "ended": None,
            "sent": 0,
            "decoded": 0,
        }
        if not request.target.startswith(("/fake/", "/health")):
            with self.lock:
                self.requests.append(entry)
                del self.requests[:-10_000]
        return entry

    def answer(
        self, request: Request, connection: socket.socket, entry: dict[str, Any], *, last: bool
    ) -> bool:
        """Answer one request; whether the connection can carry another one."""
        answer = Answer(self, request, connection, entry, last=last)
        connection.settimeout(None)
        try:
            keep = answer.send()
            entry["state"] = "done"
        except (ClientGone, OSError):
            entry["state"] = "cancelled"
            keep = False
        entry["ended"] = time.time()
        return keep and not last

    def speeds(self) -> dict[str, float]:
        """The speeds of an answer now; each makes the machine warmer, and is a little off."""
        import random  # not for the start

        warm = 0
        slower = 1.0
        if heat := self.switches["heat"]:
            with open(heat["path"], "ab") as file:  # noqa: PTH123
                warm = file.tell()
                file.write(b".")
            slower += heat["each"] * warm
        slower /= math.prod(self.by_options("factors"))
        off = random.Random(warm).uniform(0.998, 1.002)
        return {name: speed / slower * off for name, speed in self.switches["speeds"].items()}

    def by_options(self, switch: str) -> list[float]:
        """The numbers of a switch for the options that this server has."""
        return [
            number
            for option, number in self.switches[switch].items()
            if self.options.get(option.partition("=")[0]) == option.partition("=")[2]
        ]

    def report(self) -> dict[str, Any]:
        with self.lock:
            return {
                "pid": os.getpid(),
                "argv": sys.argv[1:],
                "environ": dict(os.environ),
                "connections": dict(self.connections),
                "requests": [dict(entry) for entry in self.requests],
            }


class Answer:
    """One answer on its way to the client."""

    def __init__(
        self,
        fake: Fake,
        request: Request,
        connection: socket.socket,
        entry: dict[str, Any],
        *,
        last: bool,
    ) -> None:
        self.fake = fake
        self.request = request
        self.connection = connection
        self.entry = entry
        self.last = last
        self.switches = request.switches
        self.framing = self.switches["framing"]
        self.model = request.asked.get("model") or fake.options.get("alias", "fake")

    def send(self) -> bool:
        path = self.request.target.partition("?")[0]
        if path == "/fake/report":
            return self.whole(self.fake.report())
        if not self.is_admitted(path):
            problem = {"message": "Invalid API Key", "type": "authentication_error", "code": 401}
            return self.whole({"error": problem}, 401)
        if not self.fake.ready.is_set():
            problem = {"message": "Loading model", "type": "unavailable_error", "code": 503}
            return self.whole({"error": problem}, 503)
        if self.switches["hang"] or (self.fake.is_locked_up and path != "/health"):
            self.pause(3600)
        if self.switches["echo"]:
            return self.echo()
        if self.switches["size"] is not None:
            return self.big(self.switches["size"])
        if path in {"/health", "/v1/health"}:
            return self.whole({"status": "ok"})
        if path in {"/models", "/v1/models"}:
            return self.whole({"object": "list", "data": [{"id": self.model, "object": "model"}]})
        if path == "/slots":
            return self.whole(self.slots())
        if path.endswith("/embeddings"):
            return self.embedding()
        if path == "/tokenize":
            return self.whole({"tokens": list(range(len(self.request.asked["content"].split())))})
        if path == "/completion":
            return self.native()
        if path.endswith("completions"):
            return self.stream() if self.request.asked.get("stream") else self.completion()
        problem = {"message": "File Not Found", "type": "not_found_error", "code": 404}
        return self.whole({"error": problem}, 404)

    def slots(self) -> list[dict[str, Any]]:
        busy = [e for e in self.fake.requests if e["state"] == "running" and e is not self.entry]
        slots = []
        for number in range(max(4, len(busy) + 1)):
            slot: dict[str, Any] = {"id": number, "is_processing": number < len(busy)}
            if number < len(busy) and self.fake.switches["slot_tokens"]:
                entry = busy[number]
                slot |= {"id": entry["connection"], "id_task": int(entry["began"] * 1000)}
                slot["next_token"] = [{"n_decoded": entry["decoded"]}]
            slots.append(slot)
        return slots

    def is_admitted(self, path: str) -> bool:
        """As the real one: every path but the health check needs the key, if there is one."""
        key = os.environ.get("LLAMA_API_KEY") or os.environ.get("CYBER_INFERENCE_UPSTREAM_KEY")
        sent = self.request.header("authorization")
        return not key or path in {"/health", "/v1/health"} or sent == f"Bearer {key}"

    # Parts of answers

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the client: raises ``ClientGone`` when it closes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self.connection], [], [], left)
            if readable:
                if not self.connection.recv(1, socket.MSG_PEEK):
                    raise ClientGone
                time.sleep(min(left, 0.01))  # a pipelined request: it has to wait

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            self.connection.sendall(block)
            self.entry["sent"] += len(block)

    def head(self, kind: str, length: int | None, status: int | None = None) -> None:
        if length is None and self.framing == "length":
            self.framing = "close"
        lines = [f"HTTP/1.1 {status or self.switches['status']} Fake", f"Content-Type: {kind}"]
        lines += [f"{name}: {value}" for name, value in self.switches["headers"]]
        if self.framing == "length":
            lines.append(f"Content-Length: {length}")
        elif self.framing == "close":
            lines.append("Connection: close")
        else:
            lines.append("Transfer-Encoding: chunked")
        if self.last and self.framing != "close":
            lines.append("Connection: close")
        self.connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def chunk(self, data: bytes) -> None:
        if self.framing == "chunked":
            self.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.write(data)

    def end(self) -> bool:
        if self.framing == "chunked":
            self.connection.sendall(b"0\r\n\r\n")
        return bool(self.framing != "close")

    def whole(self, value: Any, status: int | None = None) -> bool:
        data = json.dumps(value).encode()
        if self.framing == "chunked" and "framing" not in self.request.asked.get("fake", {}):
            self.framing = "length"  # llama-server's own way for small answers
        self.head("application/json; charset=utf-8", len(data), status)
        self.chunk(data)
        return self.end()

    def echo(self) -> bool:
        from hashlib import sha256  # as long to import as all of the rest

        body = self.request.body
        return self.whole(
            {
                "method": self.request.method,
                "target": self.request.target,
                "headers": self.request.headers,
                "body_bytes": len(body),
                "body_sha256": sha256(body).hexdigest(),
                "body_base64": binascii.b2a_base64(body[:_BLOCK], newline=False).decode(),
            }
        )

    def big(self, size: int) -> bool:
        self.head("application/octet-stream", size)
        pattern = bytes(range(256)) * (_BLOCK // 256)
        for start in range(0, size, _BLOCK):
            self.chunk(pattern[: min(_BLOCK, size - start)])
        return self.end()

    def trouble(self, token: int) -> None:
        first = self.fake.switches["crash_first"]
        if self.switches["crash_after"] == token and (not first or self.fake.starts <= first):
            log("ggml_abort: assertion failed: a crash that the test asked for")
            self.fake.note("crash")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.switches["close_after"] == token:
            raise ClientGone

    def token_texts(self) -> list[str]:
        if self.switches["text"] is None:
            return [f"tok{number} " for number in range(self.switches["tokens"])]
        return re.findall(r"\S+\s*", self.switches["text"])

    def usage(self) -> dict[str, int]:
        count = len(self.token_texts())
        prompt = sum((self.switches["timings"] or {"new": 7}).values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": count,
            "total_tokens": count + prompt,
        }

    def timings(self) -> dict[str, Any]:
        prompt = self.switches["timings"]
        if prompt is None:
            return {}
        count, interval = len(self.token_texts()), self.switches["interval"]
        times = {"cache_n": prompt["cached"], "prompt_n": prompt["new"]}
        times["prompt_ms"] = self.switches["prefill"] * 1000
        times |= {"predicted_n": count, "predicted_ms": count * interval * 1000}
        if interval:
            times["predicted_per_second"] = 1 / interval
        slot = f"I slot print_timing: id  0 | task {self.entry['connection']} | "
        for what, part in (("prompt eval", "prompt"), ("eval", "predicted")):
            spent, tokens = times[f"{part}_ms"], times[f"{part}_n"]
            log(f"0.00.003.000 {slot}{what + ' time':>16} = {spent:10.2f} ms / {tokens:5} tokens")
        return {"timings": times}

    def embedding(self) -> bool:
        self.pause(self.switches["prefill"])
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
        return self.whole({"object": "list", "data": data, "usage": self.usage()})

    def completion(self) -> bool:
        self.pause(self.switches["slot_wait"] + self.switches["prefill"])
        for number, _ in enumerate(self.token_texts()):
            self.trouble(number)
            self.pause(self.switches["interval"])
        message = {"role": "assistant", "content": "".join(self.token_texts())}
        return self.whole(
            {
                "id": "chatcmpl-fake",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self.model,
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": self.usage(),
                **self.timings(),
            }
        )

    def stream(self) -> bool:
        self.pause(self.switches["slot_wait"] + self.switches["prefill"])
        self.trouble(0)
        self.head("text/event-stream", None)
        for number, text in enumerate(self.token_texts()):
            if number:
                self.pause(self.switches["interval"])
                self.trouble(number)
            self.entry["decoded"] = number + 1
            self.event([{"index": 0, "finish_reason": None, "delta": {"content": text}}])
        self.event([{"index": 0, "finish_reason": "stop", "delta": {}}], **self.timings())
        if (self.request.asked.get("stream_options") or {}).get("include_usage"):
            self.event([], usage=self.usage())
        self.chunk(b"data: [DONE]\n\n")
        return self.end()

    def native(self) -> bool:
        """llama-server's own completion, streamed, with the speeds of the switches."""
        if self.request.asked.get("n_probs"):
            likely = {"id": 1, "logprob": -0.1 - sum(self.fake.by_options("surprises"))}
            return self.whole({"completion_probabilities": [{"top_logprobs": [likely]}]})
        count = self.request.asked["n_predict"]
        prompt = len(self.request.asked["prompt"])
        speeds = self.fake.speeds()
        self.head("text/event-stream", None)
        for number in range(count):
            if number:
                self.pause(self.switches["interval"])
            self.chunk(b'data: {"content":"tok ","tokens":[1]}\n\n')
        timings = {
            "prompt_n": prompt,
            "prompt_ms": prompt / speeds["prompt"] * 1000,
            "predicted_n": count,
            "predicted_ms": count / speeds["generation"] * 1000,
        }
        self.chunk(b"data: " + json.dumps({"timings": timings}).encode() + b"\n\n")
        return self.end()

    def event(self, choices: list[dict[str, Any]], **more: object) -> None:
        value = {
            "choices": choices,
            "created": int(time.time()),
            "id": "chatcmpl-fake",
            "model": self.model,
            "object": "chat.completion.chunk",
            **more,
        }
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")


def read_request(reader: Any, connection: socket.socket) -> Request | None:
    """The next request of a connection; ``None`` at its end. Raises ``OSError`` when idle."""
    line = reader.readline(_BLOCK)
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = []
    while (line := reader.readline(_BLOCK)) not in (b"\r\n", b"\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip(), value.strip()))
    request = Request(method, target, headers)
    if (request.header("expect") or "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in (request.header("transfer-encoding") or "").lower():
        blocks = []
        while size := int(reader.readline(_BLOCK).split(b";")[0], 16):
            blocks.append(reader.read(size))
            reader.readline(_BLOCK)
        while reader.readline(_BLOCK).strip():
            pass
        request.body = b"".join(blocks)
    else:
        request.body = reader.read(int(request.header("content-length") or 0))
    return request


def log(line: str) -> None:
    """One line on stderr, where llama-server's log goes."""
    with _print_lock:
        os.write(2, line.encode() + b"\n")


def say(line: str) -> None:
    """One line on stdout, where the router protocol goes."""
    with _print_lock:
        os.write(1, line.encode() + b"\n")


def say_progress(value: float) -> None:
    payload = {"stages": ["text_model"], "current": "text_model", "value": round(value, 3)}
    say(_ROUTER_SAYS + json.dumps({"state": "loading", "payload": payload}))


def main(options: dict[str, str]) -> NoReturn:
    given = json.loads(os.environ.get("FAKE_LLAMA") or "{}")
    if unknown := given.keys() - SWITCHES.keys():
        log(f"unknown switches in FAKE_LLAMA: {sorted(unknown)}")
        sys.exit(2)
    Fake(options, {**SWITCHES, **given}).run()

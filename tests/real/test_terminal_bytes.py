"""The bytes that the app writes to its terminal and reads from it."""

from __future__ import annotations

import base64
import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Self

import httpx

from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess
from tests.terminal.emulator import Emulator, halves, narrow
from tests.waiting import eventually

HOSTILE = (
    "\x1b]0;owned\x07",  # the window's title
    "\x1b]52;c;ZXZpbA==\x07",  # the clipboard
    "\x1b[6n",  # an answer typed into the program
    "\x9b31m",
    "\u202eback\u202c",
    "[/oops][red]",
    "\x1bP+q544e\x1b\\",
)
FORBIDDEN = (
    b"\x1b]0;owned",
    b"\x1b]52;",
    b"ZXZpbA==\x07",
    b"\x1b[6n",
    b"\xc2\x9b",
    b"\xe2\x80\xae",
    b"\x1bP+q",
    b"\x1b[2J\x1b[31mred",
)


class Pty:
    """The app, attached to a service, in a pseudo-terminal; everything it sends is kept."""

    def __init__(
        self, service: ServiceProcess, *, url: str = "", config: Path | None = None
    ) -> None:
        arguments = [
            *(sys.executable, "-m", "cyber_inference_tui", "--attach", url or service.url),
            *("--config", str(config or service.config_path)),
            *("--data-dir", str(service.folder / "app")),
        ]
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        for name in ("COLUMNS", "LINES"):  # a test runner's
            environ.pop(name, None)
        self._process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        )
        os.close(slave)
        self.sent = b""

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        self._process.send_signal(signal.SIGWINCH)  # the terminal is not its controlling one

    @property
    def cursor_column(self) -> int:
        """The column in which it left the terminal's cursor."""
        return int(re.findall(rb"\x1b\[\d+;(\d+)H", self.sent)[-1])

    def press(self, keys: str | bytes) -> None:
        os.write(self._master, keys.encode() if isinstance(keys, str) else keys)

    def stop(self) -> None:
        """Stop it as SIGSTOP does."""
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        eventually(lambda: ") T " in stat.read_text(), what="the stop")

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def read(self, seconds: float) -> None:
        """What it sends in so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._master], [], [], left)
            if not ready:
                return
            try:
                self.sent += os.read(self._master, 65536)
            except OSError:  # it has ended
                return

    def bytes_per_second(self) -> float:
        """Count what it sends in a few seconds; on a slow machine it sends less."""
        before, began = len(self.sent), time.monotonic()
        self.read(4.0)
        return (len(self.sent) - before) / (time.monotonic() - began)

    def wait_for(self, *texts: str, since: int | None = None) -> None:
        """Until these have been sent after so many bytes; from now on, if that is not given."""
        start = len(self.sent) if since is None else since

        def look() -> bool:
            self.read(0.1)
            return all(text.encode() in self.sent[start:] for text in texts)

        eventually(look, what=f"{texts}")

    def hang_up(self) -> int:
        """Close the terminal; the app's exit code."""
        os.close(self._master)
        try:
            return self._process.wait(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave with q, which ends it well."""

        def ended() -> bool:
            self.read(0.05)  # or it would wait for its terminal
            return self._process.poll() is not None

        try:
            if kind is None:
                self.press("q")
                eventually(ended, what="the end")
                assert self._process.returncode == 0
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._master)


def test_hostile_names_and_lines_reach_the_screen_as_text(starter: Starter) -> None:
    lines = [f"line {number}: {text}end" for number, text in enumerate(HOSTILE)]
    switches = {"load_lines": lines, "flood": {"kind": "escape", "lines": 20}}
    long = {"flood": {"kind": "long", "lines": 2}}
    service = starter.fake({"a": switches, "b": long}, start=False)
    models = service.data_dir / "models"
    for number, text in enumerate(HOSTILE):
        name = f"evil{number} {text.replace('/', '|')}.gguf"
        shutil.copyfile(starter.demo_gguf, models / name)
    service.start()
    with Pty(service) as app:
        app.wait_for("evil0", "evil6")
        for model in ("a", "b"):
            assert service.post(f"/admin/models/{model}/load", json={}).status_code == 200
        app.press("2")
        app.wait_for("evil3", "FITS")
        for key in "jjjj\r":
            app.press(key)
            app.read(0.3)
        app.press("4")
        app.wait_for("LOG")
        app.press("b")
        app.read(0.3)
        opened = len(app.sent)
        app.press("j\r")
        app.wait_for("red", "done", since=opened)
        # The flood may have pushed the first lines out of sight before they were seen.
        app.press("g")
        app.wait_for("line 5", since=opened)
        for key in "567123":
            app.press(key)
            app.read(0.5)
    for sequence in FORBIDDEN:
        assert sequence not in app.sent, sequence
    assert b"[/oops]" in app.sent


WIDE = (
    "plain",
    "flag-🇩🇪🇫🇷",
    "tone-👋🏽👍🏿",
    "key-1\ufe0f\u20e3",
    unicodedata.normalize("NFD", "한국어모델"),
    "हिन्दी-मॉडल",
    "llama-🦙",
)


def test_columns_align_in_terminals_that_disagree_on_widths(starter: Starter) -> None:
    lines = [f"{name} {'x' * 200}" for name in WIDE] + [f"short {name}" for name in WIDE]
    service = starter.fake({"a": {"load_lines": lines}}, start=False)
    for name in WIDE:
        shutil.copyfile(starter.demo_gguf, service.data_dir / "models" / f"{name}.gguf")
    service.start()
    assert service.post("/admin/models/a/load", json={}).status_code == 200
    with Pty(service) as app:
        for page in ("1", "2"):
            app.press(page)
            for width in (halves, narrow):
                wait_for_rows(app, width, names_are_in_line)
        app.press("4")
        app.wait_for("LOG")
        app.press("bj\r")
        for width in (halves, narrow):
            wait_for_rows(
                app,
                width,
                lambda rows: (
                    sum("xxx" in row for row in rows) >= len(WIDE)
                    and len({row[-2:] for row in rows if "xxx" in row}) == 1
                ),
            )


def rows_of(sent: bytes, width: Callable[[str], int] = narrow) -> list[str]:
    """The rows of a terminal with these widths that got such bytes."""
    screen = Emulator(120, 40, width)
    screen.feed(sent.decode(errors="ignore"))
    return screen.rows


def wait_for_rows(
    app: Pty, width: Callable[[str], int], shown: Callable[[list[str]], bool]
) -> None:
    """Until a terminal with these widths shows such rows."""
    rows: list[str] = []

    def look() -> bool:
        nonlocal rows
        app.read(0.1)
        rows = rows_of(app.sent, width)
        return shown(rows)

    try:
        eventually(look, what="rows")
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *rows])) from None


def leave(app: Pty, shown: str, key: str = "\x1b") -> None:
    """Press a key once the screen shows ``shown``, and wait until that is gone.

    The app would take Escape and the next key for Alt and the key if it read both at once, and
    texts of the page below a dialog may have been sent before the dialog opened.
    """
    wait_for_rows(app, narrow, lambda rows: any(shown in row for row in rows))
    app.press(key)
    wait_for_rows(app, narrow, lambda rows: not any(shown in row for row in rows))


def names_are_in_line(rows: list[str]) -> bool:
    columns = [row.index("○ unloaded") for row in rows if "○ unloaded" in row]
    return len(columns) == len(WIDE) and len(set(columns)) == 1


def test_no_byte_ends_the_app(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    with Pty(service) as app:
        app.wait_for("plum")
        for unreadable in (
            b"\xe9",  # a Latin-1 terminal
            b"\x1b[200~h\xe9llo\x1b[201~",
            b"\x1b[M \xe9\xe9",  # an old mouse report, right of column 95
            b"\x1b[97;1:3u",  # a key is released
            b"\x1b[1114112u",
            b"\x1b[?62;4c",
        ):
            app.press(unreadable)
            app.press("2")
            app.wait_for("FITS")
            app.press("1")
            app.wait_for("EVENTS")
    assert b"Traceback" not in app.sent


def test_eight_streams_and_rest_are_few_bytes_and_the_right_screen(starter: Starter) -> None:
    service = starter.fake({"plum": {}, "pear": {}, "fig": {}})
    long = {"tokens": 100_000, "interval": 0.025}
    with Pty(service) as app:
        with ExitStack() as streams:
            for model in ("plum", "pear", "fig", "plum", "pear", "fig", "plum", "pear"):
                streams.enter_context(service.stream(model, fake=long))
            app.wait_for("8 running")
            wait_for_rows(app, narrow, lambda rows: sum("/s" in row for row in rows) >= 8)
            assert app.bytes_per_second() < 5000
            app.press(" ")
            app.wait_for("FROZEN")
            sent = len(app.sent)
            app.press("\x0c")  # paints everything again

            def repainted() -> bool:
                app.read(0.1)
                parts, _, whole = app.sent.rpartition(b"\x1b[1;1H")
                return len(parts) >= sent and rows_of(parts) == rows_of(whole)

            eventually(repainted, what="the same screen")
        app.press(" ")
        wait_for_rows(app, narrow, lambda rows: not any("running" in row for row in rows))
        assert app.bytes_per_second() < 2000


def test_the_app_ends_with_its_terminal(starter: Starter) -> None:
    app = Pty(starter.fake({"plum": {}}))
    app.wait_for("plum", since=0)
    assert app.hang_up() == 128 + signal.SIGHUP


def test_the_password_line_takes_keys_after_the_terminal_lost_the_focus(starter: Starter) -> None:
    service = starter.fake({"plum": {}}, config={"admin_password": "opensesame"})
    with Pty(service) as app:
        app.wait_for("\x1b[?1004h")  # it wants to know about the focus
        app.press("\x1b[O")
        app.wait_for("Admin password")
        app.press("wrong\r")
        app.wait_for("is wrong", "•••••")
        app.press("\x1b[I")
        app.press("opensesame\r")
        app.wait_for("plum")


def test_an_app_without_a_service_says_what_to_do_and_goes_on_trying(starter: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = starter.fake({"plum": {}}, start=False)
    service.arguments = ("--port", str(port))
    tunnel = "cyber-inference-tui --attach ssh://user@host"
    with Pty(service, url=f"127.0.0.1:{port}") as app:
        app.wait_for("(connection refused)", "Trying again in", tunnel, f"serve --port {port}")
        for key in "765432":
            app.press(key)
            app.wait_for(tunnel)
        app.press("c")
        app.wait_for(f"\x1b]52;c;{base64.b64encode(tunnel.encode()).decode()}\x07")
        service.start()
        app.press("r")
        app.wait_for("plum", "FITS")


def copied(sent: bytes) -> str:
    """The text that was last put on the clipboard."""
    found: list[bytes] = re.findall(rb"\x1b\]52;c;([^\x07]*)\x07", sent)
    return base64.b64decode(found[-1]).decode() if found else ""


def test_a_client_connects_with_what_the_app_copies(starter: Starter) -> None:
    key = "a-key-that-nobody-sees"
    service = starter.fake({"plum": {}}, config={"api_keys": [key]})
    with Pty(service) as app:
        app.wait_for("plum")
        app.press("C")
        app.wait_for("Connect a client", f"{service.url}/v1", "••••", "None yet")
        app.press("j")  # the tunnel is first
        app.wait_for("Bearer ")
        app.press("c")
        app.wait_for("\x1b]52;")
        program, url, *options = shlex.split(copied(app.sent).replace("\\\n", ""))
        assert (program, url) == ("curl", f"{service.url}/v1/chat/completions")
        headers = dict(one.split(": ") for one in options[1:4:2])
        headers["User-Agent"] = "my-client/1.0"
        assert httpx.post(url, content=options[-1], headers=headers).status_code == 200
        app.wait_for("my-client", "(key 1)")
        assert key.encode() not in app.sent
        app.press("y")
        app.wait_for("Copied the key.")
        assert copied(app.sent) == key
        app.press("v")
        app.wait_for(key)
        app.press("q")  # the dialog


def background(sent: bytes) -> bytes:
    """The background colour that was set most often."""
    colours: list[bytes] = re.findall(rb"48;5;\d+|48;2;\d+;\d+;\d+", sent)
    return Counter(colours).most_common(1)[0][0]


def test_a_theme_is_kept_by_an_app_that_is_attached(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    written = service.config_path.read_text()
    own = service.folder / "own.toml"
    own.touch()
    with Pty(service, config=own) as app:
        app.wait_for("plum")
        before = background(app.sent)
        app.press("7")
        app.wait_for("SETTING")
        app.press("tlight")
        app.wait_for("cyber-light")
        app.press("\r")
        eventually(own.read_text, what="the theme in the file")
    assert own.read_text() == 'theme = "cyber-light"\n'
    assert service.config_path.read_text() == written
    with Pty(service, config=own) as app:
        app.wait_for("plum")
    assert background(app.sent) != before


def test_a_crash_is_a_notice_on_the_desktop_and_the_title_is_given_back(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    assert service.post("/admin/models/plum/load", json={}).status_code == 200
    off = service.folder / "off.toml"
    off.write_text("desktop_notices = false\n")
    with Pty(service) as app, Pty(service, config=off) as silent:
        app.wait_for("plum", "loaded", since=0)
        silent.wait_for("plum", "loaded", since=0)
        title = f"\x1b[22;2t\x1b]2;127.0.0.1:{service.port} - cyber-inference\x07"
        app.wait_for(title, since=0)
        app.press("\x1b[I")
        app.press("\x1b[O")  # the terminal loses the focus
        (server,) = service.servers()
        server.kill()
        app.wait_for("\x1b]777;notify;cyber-inference;plum ", since=0)
        silent.wait_for("failed", since=0)
    assert app.sent.count(b"\x1b]2;") == app.sent.count(b"\x1b[23;2t") == 1
    assert app.sent.index(b"\x1b[23;2t") < app.sent.index(b"\x1b[?1049l")
    for sequence in (b"\x1b]2;", b"\x1b]777;", b"\x1b[22;2t", b"\x1b[23;2t"):
        assert sequence not in silent.sent


def test_keys_of_one_packet_reach_what_the_first_of_them_opens(starter: Starter) -> None:
    service = starter.fake({"plum": {}, "pear": {}})
    with Pty(service) as app:
        app.wait_for("plum")
        for keys, shown in [
            ("2/plu", "1 of 2"),
            ("6ihello there", "Leave"),
            ("\x10redr", "redr"),
        ]:
            app.press(keys)
            leave(app, shown)
        # Each value is saved before the next key is for another row.
        app.press("7/log_k\r\r\x154\r/\x15max_s\r\r\x15100000\r")

        def saved() -> bool:
            app.read(0.1)
            settings = {one["key"]: one["value"] for one in service.get("/admin/config").json()}
            return (settings["log_keep"], settings["log_max_size"]) == (4, 100000)

        eventually(saved, what="both values")


def test_lines_say_why_they_refuse_a_text(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    saved = service.folder / "saved.log"
    with Pty(service) as app:
        app.wait_for("plum")
        app.press("2/")
        app.wait_for("architecture or quantization")
        for paste in ("x" * 300, "y" * 100_000):
            app.press(f"\x1b[200~{paste}\x1b[201~")
            app.wait_for("takes at most 256 characters")
            leave(app, "takes at most")
            app.press("/")
        leave(app, "Back to the list")
        app.press("4")
        app.wait_for("LOG")
        # A whole dialog in one packet, as tmux and macro keyboards send it.
        app.press("\x13\x15~nosuchuser/x.log\r")
        app.wait_for("there is no user 'nosuchuser'", "~nosuchuser/x.log")
        app.press(f"\x15{saved}\r")
        app.wait_for("Saved ")
        assert "starting" in saved.read_text()


def test_a_line_keeps_its_focus_and_the_cursor_is_on_its_caret(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    with Pty(service) as app:
        app.wait_for("plum")
        app.press("2/\u65e5\u672c")
        app.wait_for("No model matches")
        for size, shown in [
            ((40, 10), "too small"),
            ((80, 24), "No model"),
            ((120, 40), "No model"),
        ]:
            app.resize(*size)
            app.wait_for(shown)
        app.press("\u8a9eq")  # q would quit without the focus
        app.wait_for("\u65e5\u672c\u8a9eq")
        for key, column in [("\x01", 5), ("\x05", 12)]:  # three wide characters and one narrow
            app.press(key)
            app.wait_for(f";{column}H")
            app.read(0.1)
            assert app.cursor_column == column
        leave(app, "No model matches")


def test_a_value_that_another_app_changed_is_not_overwritten_unasked(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    url = "/admin/config/model_idle_timeout"
    with Pty(service) as app:
        app.wait_for("plum")
        app.press("7/idle_timeout\r")
        app.wait_for("model_idle_timeout")
        app.press("\r\x15500")
        app.wait_for("500")
        with service.client() as client:
            assert client.put(url, json={"value": 111}).status_code == 200
        app.wait_for("111")
        app.press("\r")
        leave(app, "It is 111 now", "k")
        settings = {one["key"]: one["value"] for one in service.get("/admin/config").json()}
        assert settings["model_idle_timeout"] == 111


def test_events_before_the_app_and_while_it_is_stopped_have_their_times(starter: Starter) -> None:
    service = starter.fake({"plum": {}, "pear": {}}, tables={"plum": {"args": ["--no-such"]}})

    def fail(times: int) -> str:
        for _ in range(times):
            assert service.post("/admin/models/plum/load", json={}).status_code == 503
        event = service.get("/admin/recent-events").json()[0]
        at = datetime.fromisoformat(event["at"]).astimezone()
        return f"{at:%H:%M:%S}"

    before = fail(3)
    with Pty(service) as app:
        app.wait_for(before, "✖ ×3 could")  # noqa: RUF001
        app.stop()
        during = fail(1)
        # The app has to wake in another second than that of the event.
        eventually(lambda: f"{datetime.now():%H:%M:%S}" > during, what="the next second")
        app.go_on()
        app.wait_for(during, "×4")  # noqa: RUF001


def test_the_demo_without_a_llama_server_first_offers_one(starter: Starter) -> None:
    service = starter.make({"llama_server_path": "/nonexistent/llama-server"}, ()).start()
    with Pty(service) as app:
        app.wait_for("Welcome.")
        app.press("d")
        leave(app, "Install llama-server first?", "c")


def test_the_same_question_before_a_busy_model_is_unloaded_on_every_page(starter: Starter) -> None:
    service = starter.fake({"plum": {"answer": {"hang": True}}})
    chat = {"model": "plum", "messages": [{"role": "user", "content": "hi"}]}
    with ThreadPoolExecutor(1) as others, Pty(service) as app:
        asked = others.submit(service.post, "/v1/chat/completions", json=chat)
        app.wait_for("Unload", since=0)
        for page in "12":
            app.press(page)
            app.press("u")
            app.wait_for("Unload plum?", "It is serving 1 request.", "Unload now")
            leave(app, "Unload plum?")
        assert service.get("/admin/models/plum").json()["in_flight"] == 1
        app.press("u")
        app.wait_for("Unload plum?")
        app.press("n")
        assert asked.result(timeout=60).status_code == 502


def test_an_unreadable_file_is_shown_and_says_why_on_every_page(starter: Starter) -> None:
    service = starter.fake({"plum": {}}, start=False)
    broken = starter.demo_gguf.read_bytes()[:2_000_000]
    (service.data_dir / "models" / "broken.gguf").write_bytes(broken)
    service.start()
    with Pty(service) as app:
        app.wait_for("plum", "unreadable", "8K / 32K")
        app.press("gl")
        wait_for_rows(app, narrow, lambda rows: any(" is unreadable:" in row for row in rows))
        app.press("2")
        app.wait_for("1.91 MiB")
        # The first message has to go, or the second changes no cell.
        wait_for_rows(app, narrow, lambda rows: not any("is unreadable:" in row for row in rows))
        app.press("gp")
        wait_for_rows(app, narrow, lambda rows: any(" is unreadable:" in row for row in rows))
        app.press("6m")
        app.wait_for("Chat with", "unreadable")
        leave(app, "Chat with")

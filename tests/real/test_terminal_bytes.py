"""The bytes that the app writes to its terminal and reads from it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tests.real.conftest import Starter
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
    """The app in a pseudo-terminal; everything it sends is kept."""

    def __init__(self, arguments: list[str]) -> None:
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

    def wait_for(self, *texts: str, since: int | None = None) -> None:
        """Until these have been sent after so many bytes; from now on, if that is not given."""
        start = len(self.sent) if since is None else since

        def look() -> bool:
            self.read(0.1)
            return all(text.encode() in self.sent[start:] for text in texts)

        eventually(look, what=f"{texts}")

    def close(self) -> int:
        """Leave with q; the exit code."""
        self.press("q")

        def ended() -> bool:
            self.read(0.05)  # or it would wait for its terminal
            return self._process.poll() is not None

        try:
            eventually(ended, what="the end")
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            os.close(self._master)
        return self._process.returncode


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
    app = Pty(
        [sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
         "--config", str(service.config_path), "--data-dir", str(service.folder / "app")]
    )  # fmt: skip
    try:
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
    finally:
        code = app.close()
    assert code == 0
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
    app = Pty(
        [sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
         "--config", str(service.config_path), "--data-dir", str(service.folder / "app")]
    )  # fmt: skip
    try:
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
    finally:
        assert app.close() == 0


def wait_for_rows(
    app: Pty, width: Callable[[str], int], shown: Callable[[list[str]], bool]
) -> None:
    """Until a terminal with these widths shows such rows."""
    rows: list[str] = []

    def look() -> bool:
        nonlocal rows
        app.read(0.1)
        screen = Emulator(120, 40, width)
        screen.feed(app.sent.decode(errors="ignore"))
        rows = screen.rows
        return shown(rows)

    try:
        eventually(look, what="rows")
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *rows])) from None


def names_are_in_line(rows: list[str]) -> bool:
    columns = [row.index("○ unloaded") for row in rows if "○ unloaded" in row]
    return len(columns) == len(WIDE) and len(set(columns)) == 1


def test_no_byte_ends_the_app(starter: Starter) -> None:
    service = starter.fake({"plum": {}})
    app = Pty(
        [sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
         "--config", str(service.config_path), "--data-dir", str(service.folder / "app")]
    )  # fmt: skip
    try:
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
    finally:
        code = app.close()
    assert code == 0
    assert b"Traceback" not in app.sent


def test_keys_of_one_packet_reach_what_the_first_of_them_opens(starter: Starter) -> None:
    service = starter.fake({"plum": {}, "pear": {}})
    app = Pty(
        [sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
         "--config", str(service.config_path), "--data-dir", str(service.folder / "app")]
    )  # fmt: skip
    try:
        app.wait_for("plum")
        for keys, shown, after in [
            ("2/plu", "1 of 2", "pear"),
            ("6ihello there", "hello there", "Quit"),
            ("\x10redr", "redr", "hello there"),
        ]:
            app.press(keys)
            app.wait_for(shown)
            app.press("\x1b")
            # An escape and a key in one read would be alt and the key.
            app.wait_for(after)
    finally:
        code = app.close()
    assert code == 0


def test_events_before_the_app_and_while_it_is_stopped_have_their_times(starter: Starter) -> None:
    service = starter.fake({"plum": {}, "pear": {}}, tables={"plum": {"args": ["--no-such"]}})

    def fail(times: int) -> str:
        for _ in range(times):
            assert service.post("/admin/models/plum/load", json={}).status_code == 503
        event = service.get("/admin/recent-events").json()[0]
        at = datetime.fromisoformat(event["at"]).astimezone()
        return f"{at:%H:%M:%S}"

    before = fail(3)
    app = Pty(
        [sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
         "--config", str(service.config_path), "--data-dir", str(service.folder / "app")]
    )  # fmt: skip
    try:
        app.wait_for(before, "✖ ×3 could")  # noqa: RUF001
        app.stop()
        during = fail(1)
        # The app has to wake in another second than that of the event.
        eventually(lambda: f"{datetime.now():%H:%M:%S}" > during, what="the next second")
        app.go_on()
        app.wait_for(during, "×4")  # noqa: RUF001
    finally:
        code = app.close()
    assert code == 0

"""``python -m tests.cli.examples LLAMA_SERVER`` regenerates the examples of docs/cli.md.

Each block under ``<!-- example -->`` is run against a real service with the built-in model and a
stand-in for the hub, in its own home, and gets the resulting output. Commands after ``after:`` in
the mark are run before it and not shown. Values that differ between runs or machines are replaced:
paths, ports, process ids and times.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cyber_inference_tui.cli.main import PROGRAM, run
from cyber_inference_tui.cli.output import CLEAR_LINE
from cyber_inference_tui.gguf.demo import demo_bytes
from tests.cli.test_service_command import FakeSystemctl
from tests.hub.stand_in_hub import StandInHub
from tests.real.service_process import ServiceProcess

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
_EXAMPLE = re.compile(
    r"(<!-- example(?: after: (?P<before>[^>]*?))? -->\n```console\n)(?P<lines>.*?)(?=^```)",
    re.MULTILINE | re.DOTALL,
)
_HOME = "/home/me"
_DATA = f"{_HOME}/.local/share/{PROGRAM}"
_ASK_THE_SERVICE = (
    "list-models",
    "load",
    "unload",
    "check",
    "download-model",
    "delete-model",
    "status",
)
_ACTIVE = (
    *("LoadState=loaded", "UnitFileState=enabled", "ActiveState=active", "SubState=running"),
    "MainPID=4242",
)


class _Terminal(io.StringIO):
    """Standard output and error as on a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Examples:
    """Runs commands in this process.

    ``masks`` are patterns and their replacements in the page; if a replacement begins with a space,
    the width of the match is kept.
    """

    def __init__(self, environ: Mapping[str, str], masks: Mapping[str, str], port: int) -> None:
        self._environ = environ
        self._masks = masks
        self._port = port

    def run(self, line: str) -> str:
        """Return the output of a command line on a terminal."""
        words = shlex.split(line)
        assert words[0] == PROGRAM, line
        if words[1] == "serve":  # it runs already
            return f"listening on http://127.0.0.1:{words[-1]}\n"
        if words[1] in _ASK_THE_SERVICE:
            words += ["--port", str(self._port)]
        terminal = _Terminal()
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
            run(words[1:], self._environ)
        text = re.sub(rf"^.*{re.escape(CLEAR_LINE)}", "", terminal.getvalue(), flags=re.MULTILINE)
        for pattern, instead in self._masks.items():

            def masked(match: re.Match[str], instead: str = instead) -> str:
                return instead.rjust(len(match[0])) if match[0].startswith(" ") else instead

            text = re.sub(pattern, masked, text, flags=re.MULTILINE)
        return text

    def made(self, page: str) -> str:
        """Return the page with the output that its examples have here."""

        def block(match: re.Match[str]) -> str:
            for line in filter(None, (match["before"] or "").split("; ")):
                self.run(f"{PROGRAM} {line}")
            lines = [line for line in match["lines"].splitlines() if line.startswith("$ ")]
            return match[1] + "".join(f"{line}\n{self.run(line[2:])}" for line in lines)

        return _EXAMPLE.sub(block, page)


@contextlib.contextmanager
def world(folder: Path, llama_server: Path) -> Iterator[Examples]:
    """A service, a hub and a systemd to run the examples with."""
    with StandInHub() as hub:
        hub.add("OWNER/NAME", {"Name-Q4_K_M.gguf": demo_bytes()})
        service = ServiceProcess(
            folder,
            {
                "llama_server_path": str(llama_server),
                "llama_server_base_port": 0,
                "hf_endpoint": hub.url,
                "hf_allowed_hosts": [hub.cdn],
            },
            arguments=("--demo",),
        ).start()
        try:
            systemctl = FakeSystemctl(folder / "bin")
            systemctl.answer(*_ACTIVE)
            environ = {
                "HOME": str(folder / "home"),
                "PATH": f"{systemctl.folder}:/usr/bin:/bin",
                "COLUMNS": "100",
                "NO_COLOR": "1",
            }
            masks = {
                re.escape(str(llama_server)): f"{_DATA}/llama/current/bin/llama-server",
                re.escape(str(folder / "data")): _DATA,
                re.escape(str(folder / "home")): _HOME,
                rf"\b{service.port}\b": "8337",
                r"(?<=version )[^,\s]+": "0.1.0",
                r"(?<=pid )\d+": "4242",
                r"(?<!server on port )(?<=port )\d+|  \d{4,5}(?=  )": "8338",
                r"(?<=up )\S+ \w+$": "2 h 5 min",
                r" +[\d.]+ \w+ ago$": "1.2 s ago",
            }
            yield Examples(environ, masks, service.port)
        finally:
            service.stop()


def structure(page: str) -> str:
    """Return the page without numbers, rules and column widths, which differ between machines."""
    return re.sub(r"[ \d.~]+|b\d+", " ", page)


def main(llama_server: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        world(Path(folder), llama_server.absolute()) as examples,
    ):
        PAGE.write_text(examples.made(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

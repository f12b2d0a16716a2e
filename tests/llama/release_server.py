"""A server like GitHub's API and downloads, with good and bad archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

SCRIPT = b"""#!/bin/sh
case $1 in
--version) echo "version: 6543 (abcdef12)" ;;
--help) echo "-h,    --help, --usage    print usage" ;;
--list-devices) printf "Available devices:\\n  Vulkan0: NVIDIA Thing (8000 MiB)\\n" ;;
esac
"""


def member(
    name: str,
    content: bytes = b"",
    *,
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    to: str = "",
) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a tar file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname = len(content), mode, kind, to
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    """Make a tar file."""
    buffer = io.BytesIO()
    # The type stubs accept the modes only as literals.
    with tarfile.open(fileobj=buffer, mode=cast("Literal['w:gz']", mode)) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def good_tar(script: bytes = SCRIPT, *, folder: str = "llama-b6543", mode: str = "w:gz") -> bytes:
    """Make a release like upstream: program, libraries and links in one folder."""
    return tar(
        member(f"{folder}/", kind=tarfile.DIRTYPE, mode=0o755),
        member(f"{folder}/llama-server", script, mode=0o755),
        member(f"{folder}/libllama.so", kind=tarfile.SYMTYPE, to="libllama.so.0"),
        member(f"{folder}/libllama.so.0", b"library", mode=0o755),
        mode=mode,
    )


def good_zip() -> bytes:
    """Make a release in the earlier layout."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        program = zipfile.ZipInfo("build/bin/llama-server")
        program.external_attr = 0o100755 << 16
        file.writestr(program, SCRIPT)
        link = zipfile.ZipInfo("build/bin/libllama.so")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "libllama.so.0")
        file.writestr("build/bin/libllama.so.0", b"library")
        file.writestr("build/README", b"text")
    return buffer.getvalue()


class ReleaseServer:
    """Serves releases; ``answers`` replaces the answer for a path: (status, headers, body)."""

    def __init__(self) -> None:
        self.releases: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.ranges = True
        """Whether parts of files are served."""
        self.parts: list[int] = []
        """The first bytes of the served parts."""
        self.cuts: dict[str, list[int]] = {}
        """By path: the bytes of its next answers after which the connection ends."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                status, headers, body = server.answer(self.path)
                asked = self.headers.get("Range", "")
                if server.ranges and status == 200 and asked.startswith("bytes="):
                    begin = int(asked[6:].rstrip("-"))
                    server.parts.append(begin)
                    headers = {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}
                    status, body = 206, body[begin:]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                cuts = server.cuts.get(self.path)
                self.wfile.write(body[: cuts.pop(0)] if cuts else body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ReleaseServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(
        self,
        tag: str,
        name: str,
        content: bytes,
        *,
        change: Callable[[dict[str, Any]], None] = lambda asset: None,
    ) -> None:
        """Add an asset to the release ``tag``; a new release is the newest."""
        release = next((r for r in self.releases if r["tag_name"] == tag), None)
        if release is None:
            release = {"tag_name": tag, "draft": False, "prerelease": False, "assets": []}
            self.releases.insert(0, release)
        asset = {
            "name": name,
            "size": len(content),
            "state": "uploaded",
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "browser_download_url": "http://127.0.0.1:1/not-to-be-used",
        }
        change(asset)
        release["assets"].append(asset)
        self.files[f"/ggml-org/llama.cpp/releases/download/{tag}/{name}"] = content

    def add_sources(self, tag: str, content: bytes) -> None:
        """Add the sources of the release ``tag``; a new release is the newest."""
        if not any(release["tag_name"] == tag for release in self.releases):
            self.releases.insert(0, {"tag_name": tag, "draft": False, "assets": []})
        self.files[f"/ggml-org/llama.cpp/archive/refs/tags/{tag}.tar.gz"] = content

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path."""
        releases = "/repos/ggml-org/llama.cpp/releases"
        bare = path.partition("?")[0]
        if bare in self.answers:
            return self.answers[bare]
        if bare == releases:
            return 200, {}, json.dumps(self.releases).encode()
        if bare.startswith(f"{releases}/tags/"):
            tag = bare.rpartition("/")[2]
            found = [r for r in self.releases if r["tag_name"] == tag]
            return (200, {}, json.dumps(found[0]).encode()) if found else (404, {}, b"{}")
        if bare in self.files:
            return 200, {}, self.files[bare]
        return 404, {}, b"{}"

"""A small hub: repositories, an API in the shapes its library expects, and a second host for files.

It runs on its own thread, so that blocking libraries and other processes can use it. Requests for
large files are redirected to the other host ("CDN"), which refuses a token, checks the signed link,
and can be made to fail at any byte.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import socket
import struct
import termios
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tests.waiting import LIMIT

_CHUNK = 16 * 1024
# Bytes in the kernel's buffers count as sent, so the buffers have to be small.
_SEND_BUFFER = 32 * 1024


class Fault:
    """A fault in one response with a file's bytes, after ``after`` of them were sent.

    ``cut`` ends the connection in order, ``reset`` hard; ``stall`` begins when the client's kernel
    has the bytes so far, and sends the rest when ``go`` is set; ``corrupt`` changes the byte;
    ``whole`` ignores the range; ``shift`` answers with another range; ``longer`` sends more bytes
    than the file has; ``status`` answers with ``status`` and ``headers`` instead, ``expired`` like
    an expired signed link. ``respond`` makes the answer from the request and the bytes.
    """

    def __init__(
        self,
        kind: str,
        after: int = 0,
        *,
        status: int = 503,
        headers: dict[str, str] | None = None,
        respond: Callable[[web.Request, bytes], web.Response] | None = None,
    ) -> None:
        self.respond = respond
        self.kind = kind
        self.after = after
        self.status = status
        self.headers = headers or {}
        self.reached = threading.Event()
        """The fault has begun."""
        self.go = threading.Event()

    def __repr__(self) -> str:
        return f"{self.kind}@{self.after}"


class Repo:
    """The files of one commit; names that end in .gguf are large (LFS)."""

    def __init__(self, name: str, files: dict[str, bytes], *, gated: bool = False) -> None:
        self.name = name
        self.files = files
        self.gated = gated
        self.private = False
        self.downloads = 1000
        self.likes = 10
        self.licence = "apache-2.0"
        self.gguf: dict[str, Any] = {"total": 1000, "architecture": "llama", "context_length": 4096}
        self.last_modified = "2026-01-31T12:00:00.000Z"
        digest = hashlib.sha1(name.encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + content)
        self.sha = digest.hexdigest()

    def is_large(self, path: str) -> bool:
        return path.endswith(".gguf")

    def git_sha1(self, path: str) -> str:
        content = self.files[path]
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()


class StandInHub:
    """Use it as ``with``; ``url`` is the endpoint, ``cdn`` the host:port of the other host."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = {"hf_good"}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        """For the bytes of a path: one is used up by each request."""
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        """Status and headers of the next answers of the endpoint for files."""
        self.redirect_to: str | None = None
        """Where to send clients instead of to the CDN."""
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """("hub" or "cdn", path, headers) of every request for a file."""
        self.sent: defaultdict[str, int] = defaultdict(int)
        """Bytes of each path that were sent."""
        self.streams = 0
        self.most_streams = 0
        """Requests for bytes that were answered at the same time."""
        self.page_size = 1000
        self.api: list[tuple[str, dict[str, str]]] = []
        """Path with query, and headers, of every request to the API."""
        self.api_refusals: deque[web.Response] = deque()
        """The next answers of the API."""
        self._links: dict[str, tuple[str, str]] = {}
        self._serial = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stand-in hub")
        self._ports: list[int] = []

    def add(self, name: str, files: dict[str, bytes], *, gated: bool = False) -> Repo:
        self.repos[name] = Repo(name, files, gated=gated)
        return self.repos[name]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def cdn(self) -> str:
        return f"127.0.0.1:{self._ports[1]}"

    def __enter__(self) -> StandInHub:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        for faults in self.faults.values():
            for fault in faults:
                fault.go.set()
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    async def _start(self) -> None:
        hub = web.Application(middlewares=[self._token])
        hub.router.add_get("/api/models", self._list)
        hub.router.add_get("/api/models/{owner}/{name}", self._info)
        hub.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        hub.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        hub.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        cdn = web.Application()
        cdn.router.add_get("/repos/{serial}/{path:.+}", self._signed)
        self._runners = []
        for app in (hub, cdn):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._ports.append(runner.addresses[0][1])
            self._runners.append(runner)

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    # The API

    @web.middleware
    async def _token(self, request: web.Request, handler: Any) -> web.StreamResponse:
        token = _token_of(request)
        if token and token not in self.tokens:
            return _refused(401, "", "Invalid credentials in Authorization header")
        if request.path.startswith("/api/"):
            self.api.append((request.path_qs, dict(request.headers)))
            if self.api_refusals:
                return self.api_refusals.popleft()
        response: web.StreamResponse = await handler(request)
        return response

    def _repo(self, request: web.Request) -> Repo | web.Response:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        repo = self.repos.get(name)
        if repo is None or (repo.private and not _token_of(request)):
            # As huggingface.co does: without a valid token, a 401 that asks for a login.
            if not _token_of(request):
                return _refused(401, "RepoNotFound", "Invalid username or password.")
            return _refused(404, "RepoNotFound", "Repository not found")
        revision = request.match_info.get("revision", "main")
        if revision not in {"main", repo.sha}:
            return _refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    async def _list(self, request: web.Request) -> web.Response:
        search = request.query.get("search", "").lower()
        author = request.query.get("author", "")
        found = [
            repo
            for name, repo in self.repos.items()
            if search in name.lower() and name.startswith(author)
        ]
        keys = {"likes": "likes", "lastModified": "last_modified"}
        key = keys.get(request.query.get("sort", ""), "downloads")
        found.sort(key=lambda repo: getattr(repo, key), reverse=True)
        size = min(int(request.query.get("limit", self.page_size)), self.page_size)
        begin = int(request.query.get("cursor", 0))
        headers = {}
        if begin + size < len(found):
            url = request.url.update_query(cursor=str(begin + size))
            headers["Link"] = f'<{self.url}{url.raw_path_qs}>; rel="next"'
        page = [self._describe(repo, blobs=False) for repo in found[begin : begin + size]]
        return web.json_response(page, headers=headers)

    async def _info(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        if isinstance(repo, web.Response):
            return repo
        return web.json_response(self._describe(repo, blobs=bool(request.query.get("blobs"))))

    def _describe(self, repo: Repo, *, blobs: bool) -> dict[str, Any]:
        siblings = []
        for path, content in repo.files.items():
            sibling: dict[str, Any] = {"rfilename": path}
            if blobs:
                sibling |= {"size": len(content), "blobId": repo.git_sha1(path)}
                if repo.is_large(path):
                    lfs = {"sha256": repo.sha256(path), "size": len(content), "pointerSize": 134}
                    sibling["lfs"] = lfs
            siblings.append(sibling)
        return {
            "_id": "65a0c0c0c0c0c0c0c0c0c0c0",
            "id": repo.name,
            "modelId": repo.name,
            "author": repo.name.partition("/")[0],
            "sha": repo.sha,
            "lastModified": repo.last_modified,
            "createdAt": repo.last_modified,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "downloads": repo.downloads,
            "likes": repo.likes,
            "tags": ["gguf", f"license:{repo.licence}", "region:us"],
            "library_name": "gguf",
            "gguf": repo.gguf,
            "siblings": siblings,
        }

    async def _tree(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        if isinstance(repo, web.Response):
            return repo
        folders = sorted({path.rpartition("/")[0] for path in repo.files} - {""})
        tree: list[dict[str, Any]] = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders
        ]
        for path, content in repo.files.items():
            entry: dict[str, Any] = {
                "type": "file",
                "oid": repo.git_sha1(path),
                "size": len(content),
                "path": path,
            }
            if repo.is_large(path):
                entry["lfs"] = {
                    "oid": repo.sha256(path),
                    "size": len(content),
                    "pointerSize": 134,
                }
            tree.append(entry)
        return web.json_response(tree)

    # Files

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked.append(("hub", path, dict(request.headers)))
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.Response(status=status, headers=headers)
        repo = self._repo(request)
        if isinstance(repo, web.Response):
            return repo
        token = _token_of(request)
        if repo.gated and not token:
            return _refused(401, "GatedRepo", f"Access to model {repo.name} is restricted.")
        if repo.gated and token != "hf_granted":
            return _refused(403, "GatedRepo", f"Access to model {repo.name} is restricted.")
        if path not in repo.files:
            return _refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": repo.sha}
        if not repo.is_large(path):
            headers["ETag"] = f'"{repo.git_sha1(path)}"'
            return await self._send(request, repo, path, headers)
        self._serial += 1
        self._links[str(self._serial)] = (repo.name, path)
        to = (
            self.redirect_to
            or f"http://{self.cdn}/repos/{self._serial}/{quote(path)}?signature=a%2Bb"
        )
        headers |= {
            "X-Linked-Size": str(len(repo.files[path])),
            "X-Linked-ETag": f'"{repo.sha256(path)}"',
            "Location": to,
        }
        return web.Response(status=302, headers=headers)

    async def _signed(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked.append(("cdn", path, dict(request.headers)))
        if "Authorization" in request.headers:
            return web.Response(status=400, text="Only one auth mechanism allowed")
        if request.query_string != "signature=a%2Bb" and "a%2Bb" not in request.raw_path:
            return web.Response(status=403, text="SignatureDoesNotMatch")
        link = self._links.get(request.match_info["serial"])
        if link is None:
            return web.Response(status=403, text="Request has expired")
        return await self._send(request, self.repos[link[0]], path, {})

    async def _send(
        self, request: web.Request, repo: Repo, path: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        content = repo.files[path]
        fault = self.faults[path].popleft() if self.faults[path] else Fault("none", 1 << 62)
        if fault.kind == "expired":
            self._links.pop(request.match_info.get("serial", ""), None)
            fault.reached.set()
            return web.Response(status=403, text="Request has expired")
        if fault.kind == "status":
            fault.reached.set()
            return web.Response(status=fault.status, headers=fault.headers)
        if fault.respond is not None:
            return fault.respond(request, content)
        begin, status = 0, 200
        wanted = request.headers.get("Range")
        if wanted and fault.kind != "whole":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, status = int(first), 206
            if begin >= len(content):
                beyond = {"Content-Range": f"bytes */{len(content)}"}
                return web.Response(status=416, headers=beyond)
            if fault.kind == "shift" and begin + 1 < len(content):
                begin += 1
            total = len(content)
            if last:
                content = content[: int(last) + 1]
            headers |= {"Content-Range": f"bytes {begin}-{len(content) - 1}/{total}"}
        response = web.StreamResponse(status=status, headers=headers)
        more = 5 if fault.kind == "longer" else 0
        response.content_length = len(content) - begin + more
        transport = request.transport
        assert transport is not None
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.streams += 1
        self.most_streams = max(self.most_streams, self.streams)
        try:
            await response.prepare(request)
            at, stop = begin, begin + fault.after
            while at < len(content):
                end = min(at + _CHUNK, len(content))
                if at < stop < end:
                    end = stop
                block = content[at:end]
                if at == stop and not fault.reached.is_set():
                    while fault.kind == "stall" and _is_sending(request):
                        await asyncio.sleep(0.002)
                    fault.reached.set()
                    if fault.kind in {"cut", "reset"}:
                        if fault.kind == "reset":
                            linger = struct.pack("ii", 1, 0)
                            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        transport.abort()
                        return response
                    if fault.kind == "corrupt":
                        block = bytes([block[0] ^ 1]) + block[1:]
                    while fault.kind == "stall" and not fault.go.is_set():
                        if request.transport is None:
                            return response
                        await asyncio.sleep(0.002)
                await response.write(block)
                while transport.get_write_buffer_size() > 0:
                    if request.transport is None:
                        return response
                    await asyncio.sleep(0.0005)
                self.sent[path] += len(block)
                at = end
            if more:
                await response.write(b"extra")
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away
        finally:
            self.streams -= 1
        return response


def _is_sending(request: web.Request) -> bool:
    """Return whether the kernel still has bytes for the client (``SIOCOUTQ``, tcp(7))."""
    if request.transport is None:
        return False
    wire = request.transport.get_extra_info("socket")
    (left,) = struct.unpack("i", fcntl.ioctl(wire.fileno(), termios.TIOCOUTQ, bytes(4)))
    return bool(left)


def _token_of(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _refused(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return web.json_response({"error": message}, status=status, headers=headers)

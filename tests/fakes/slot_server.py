"""A stand-in for a llama-server that saves and restores its slots, within the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cyber_inference_tui.llama.http_get import ServerAddress

HEAD = struct.Struct("<4sII")
METRICS = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total %d
llamacpp:prompt_tokens_cached_total 5000
llamacpp:tokens_predicted_total 4
"""
"""As llama-server's."""


def slot_file(tokens: list[int], *, packed: bool = True) -> bytes:
    """The content of a saved slot, without a cache."""
    words = [-1, 1, len(tokens), *tokens] if packed else tokens
    return HEAD.pack(b"qsgg", 4, len(words)) + struct.pack(f"<{len(words)}i", *words)


class SlotServer:
    """Slots with prompts; ``asked`` lists the actions, such as ``save 0`` and ``ask 0``."""

    def __init__(self, folder: Path, prompts: dict[int, list[int]] | None = None) -> None:
        self.folder = folder
        self.prompts = dict(prompts or {})
        self.used = set(self.prompts)
        """Slots that had a request since the start."""
        self.new_tokens: int | None = None
        """Tokens read and written since the start; ``None`` = it does not count them."""
        self.asked: list[str] = []
        self.forgets = False
        """It says that it restored a slot, and reads the prompt again."""
        self.hangs: set[str] = set()
        """Actions that get no answer."""
        self.refuses: dict[str, str] = {}
        """Actions that get an error with this message."""
        self.drops: set[str] = set()
        """Actions at which it closes the connection."""
        self.address = ServerAddress("127.0.0.1", 0, "key")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ServerAddress]:
        """Serve; yield the address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.address = ServerAddress("127.0.0.1", server.sockets[0].getsockname()[1], "key")
            yield self.address
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            _, _, rest = head.partition("content-length: ")
            length = int(rest.split("\r\n")[0]) if rest else 0
            fields = json.loads(await reader.readexactly(length) or b"{}")
            answer = self._answer(head.split(" ")[1], fields)
            if answer is None:
                await reader.read()  # until the client gives up
                return
            status, body = answer
            text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(text)))
            writer.write(text)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, target: str, fields: dict[str, Any]) -> tuple[int, Any] | None:
        path, _, query = target.partition("?action=")
        if path == "/slots":
            return 200, [self._slot(number) for number in range(4)]
        if path == "/metrics":
            return (501, {}) if self.new_tokens is None else (200, METRICS % self.new_tokens)
        slot = fields["id_slot"] if path == "/completion" else int(path.rpartition("/")[2])
        action = query or "ask"
        self.asked.append(f"{action} {slot}")
        if action in self.hangs:
            return None
        if action in self.drops:
            raise ConnectionError
        if action in self.refuses:
            return 400, {"error": {"code": 400, "message": self.refuses[action]}}
        return 200, getattr(self, f"_{action}")(slot, fields)

    def _slot(self, number: int) -> dict[str, Any]:
        slot = {"id": number, "is_processing": False}
        if number in self.used:
            slot |= {"id_task": 1, "n_prompt_tokens": len(self.prompts[number])}
        return slot

    def _save(self, slot: int, fields: dict[str, Any]) -> dict[str, Any]:
        (self.folder / fields["filename"]).write_bytes(slot_file(self.prompts[slot]))
        return {"n_saved": len(self.prompts[slot])}

    def _erase(self, slot: int, _: dict[str, Any]) -> dict[str, Any]:
        return {"n_erased": len(self.prompts.pop(slot, ()))}

    def _restore(self, slot: int, fields: dict[str, Any]) -> dict[str, Any]:
        data = (self.folder / fields["filename"]).read_bytes()
        count = HEAD.unpack_from(data)[2]
        self.prompts[slot] = list(struct.unpack_from(f"<{count}i", data, HEAD.size))[3:]
        return {"n_restored": len(self.prompts[slot])}

    def _ask(self, slot: int, fields: dict[str, Any]) -> dict[str, Any]:
        tokens = len(fields["prompt"])
        known = self.prompts.get(slot, [])[:tokens] == fields["prompt"] and not self.forgets
        cached = tokens - 1 if known else 0
        self.prompts[slot] = [*fields["prompt"], *range(fields["n_predict"])]
        return {"timings": {"cache_n": cached, "prompt_n": tokens - cached}}

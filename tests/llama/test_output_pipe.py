"""The output of a child is read whole, in few pieces where nobody waits for a line."""

from __future__ import annotations

import asyncio
import os

import pytest

from cyber_inference_tui.llama.output_pipe import OutputPipe
from tests.llama.children import LOOPS, runner_on
from tests.waiting import LIMIT


class Reader:
    """Keeps the pieces that a pipe passes on."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.came = asyncio.Event()
        self.ended = 0
        self.pipe = OutputPipe(self._take, self._end)
        # The child's end, which ``start`` closes in this process.
        self.child = os.dup(self.pipe.write_end)
        self.pipe.start()

    def _take(self, data: bytes) -> None:
        self.pieces.append(data)
        self.came.set()

    def _end(self) -> None:
        self.ended += 1
        self.came.set()

    async def next(self) -> None:
        """Wait for the next piece or the end."""
        async with asyncio.timeout(LIMIT):
            await self.came.wait()
        self.came.clear()


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_gathered_lines_come_in_one_piece(kind: str) -> None:
    async def main() -> None:
        reader = Reader()
        reader.pipe.gathers = True
        os.write(reader.child, b"first\n")
        await reader.next()
        # The pipe rests now.
        for number in range(1_000):
            os.write(reader.child, b"line %d\n" % number)
        await reader.next()
        assert reader.pieces[0] == b"first\n"
        assert reader.pieces[1].count(b"\n") == 1_000
        os.close(reader.child)
        await reader.next()
        assert (len(reader.pieces), reader.ended) == (2, 1)

    runner_on(kind)(main())


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_what_a_process_wrote_before_its_exit_is_read_at_once(kind: str) -> None:
    async def main() -> None:
        reader = Reader()
        reader.pipe.gathers = True
        os.write(reader.child, b"first\n")
        await reader.next()
        os.write(reader.child, b"x" * 30_000)
        os.write(reader.child, b"y" * 30_000)
        reader.pipe.finish()
        assert sum(map(len, reader.pieces)) == 60_006
        assert reader.ended == 0
        # A descendant has the pipe, too.
        reader.came.clear()
        os.write(reader.child, b"late\n")
        await reader.next()
        assert reader.pieces[-1] == b"late\n"
        reader.pipe.close()
        reader.pipe.close()
        reader.pipe.finish()
        assert reader.ended == 1
        os.close(reader.child)

    runner_on(kind)(main())


async def test_a_pipe_without_a_child_leaves_no_descriptor() -> None:
    pipe = OutputPipe(lambda _: None, lambda: None)
    pipe.abandon()
    pipe.finish()
    for descriptor in (pipe.write_end, pipe._fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

"""Keeps the prompts in a llama-server's slots on the disk, from its unload to its next load.

``PromptStore.open`` makes the ``ServerPrompts`` of one start: they restore what was kept once the
server is ready, and save what is new before it stops. Whether that helps depends on the model and
on the build, so it is proven first: at the first unload with a long prompt, the prompt is saved,
restored and asked for again. It is kept only if the server hardly has to read it again.

Nothing here fails a load or an unload. Every step has a limit, and what is late is given up.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.llama import prompt_files
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.need_estimate import memory_parts
from cyber_inference_tui.llama.prompt_files import KeptPrompt, Note
from cyber_inference_tui.llama.prompt_rules import identity, obstacle
from cyber_inference_tui.llama.slot_files import (
    SlotFileError,
    restore_slot,
    save_slot,
    saved_tokens,
    share_reused,
)
from cyber_inference_tui.llama.slots import SlotPrompt, ask_prompts, ask_tokens
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records import KeptPromptsRecord
from cyber_inference_tui.storage import LIMIT, Storages
from cyber_inference_tui.units import counted

LEAST_TOKENS: Final = 512
"""A shorter prompt is read again faster than it is worth."""
LEAST_NEW: Final = 64
"""Fewer new tokens are read again faster than a file is written."""
SAVE_LIMIT: Final = 5.0
"""Seconds that an unload takes longer at most; never more than half of ``stop_timeout``."""
RESTORE_LIMIT: Final = 5.0
"""Seconds that a load takes longer at most."""
MOST_WRITTEN: Final = 64 << 30
"""Bytes a day: memory cards wear out."""
_DIGEST_LIMIT: Final = 60.0
"""Seconds for reading a whole file, which happens beside something else."""
_LEAST_REUSED: Final = 0.9
_MOST_FAILURES: Final = 3
_DAY: Final = 86_400.0

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


class PromptStore:
    """The kept prompts of all models, below the folder ``root``. ``close`` it.

    ``enabled`` returns whether the settings want them, ``now`` the seconds since 1970.
    """

    def __init__(
        self, root: Path, *, enabled: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        self.root = root
        self.enabled = enabled
        self.now = now
        self._storages = Storages()
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        """By folder, the work on its files that nobody waits for."""
        self._written = (0.0, 0)
        """The day and the bytes that were written on it."""

    async def tidy(self) -> None:
        """Delete what is too old or too much; everything if the settings want no prompts kept."""
        work = partial(prompt_files.sweep, self.root, self.now())
        await self.on_disk(work if self.enabled() else partial(prompt_files.delete_all, self.root))

    async def open(
        self, spec: ServerSpec, binary: LlamaBinary, files: Iterable[Path]
    ) -> ServerPrompts | None:
        """Return the prompts for a server that is about to start; ``None`` = keep none.

        ``files`` are all files that decide what its prompts mean to it.
        """
        folder = self.folder(spec.model_id)
        if (task := self._tasks.get(folder)) is not None:
            await asyncio.wait({task})
        if not self.enabled() or obstacle(spec, binary):
            return None

        def prepare() -> Note:
            prompt_files.sweep(self.root, self.now())
            server = identity(spec, binary, files)
            return prompt_files.open_folder(folder, server, self.now())

        note = await self.on_disk(prepare)
        if note is None or note.works is False:
            return None
        per_token = memory_parts(spec).kv_cache / max(1, spec.context_size or 0)
        return ServerPrompts(self, spec.model_id, folder, note, bytes_per_token=per_token)

    async def record(
        self, spec: ServerSpec, binary: LlamaBinary, files: Iterable[Path]
    ) -> KeptPromptsRecord:
        """Return what is kept for a server that would be started now, or why nothing is."""
        if not self.enabled():
            return KeptPromptsRecord(works=False, reason="keep_prompts is off")
        if reason := obstacle(spec, binary):
            return KeptPromptsRecord(works=False, reason=reason)
        server = await self.on_disk(partial(identity, spec, binary, tuple(files))) or ""
        folder = self.folder(spec.model_id)
        note = await self.on_disk(partial(prompt_files.look, folder, server))
        if note is None:
            return KeptPromptsRecord(works=False, reason="their folder cannot be read")
        return KeptPromptsRecord(
            works=note.works,
            reason=note.reason,
            prompts=len(note.prompts),
            tokens=sum(one.tokens for one in note.prompts),
            size_bytes=sum(one.size_bytes for one in note.prompts),
        )

    async def forget(self, model_id: str) -> None:
        """Delete everything of a model."""
        await self.on_disk(partial(prompt_files.delete_all, self.folder(model_id)))

    def folder(self, model_id: str) -> Path:
        """Return the folder of a model."""
        return self.root / hashlib.sha256(model_id.encode()).hexdigest()[:16]

    async def room(self) -> int:
        """Return the bytes that may be written now."""
        free = await self.on_disk(partial(prompt_files.room, self.root)) or 0
        day, written = self._written
        if self.now() // _DAY != day:
            written = 0
        return min(free, MOST_WRITTEN - written)

    def note_written(self, size: int) -> None:
        """Count bytes that were written."""
        day, written = self._written
        today = self.now() // _DAY
        self._written = today, size + (written if day == today else 0)

    def run(self, folder: Path, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work on a folder's files; a start of its model's server waits for it."""
        task = self._tasks[folder] = asyncio.get_running_loop().create_task(work)

        def ended(task: asyncio.Task[None]) -> None:
            if self._tasks.get(folder) is task:
                del self._tasks[folder]

        task.add_done_callback(ended)
        return task

    async def on_disk(self, work: Callable[[], _T], limit: float = LIMIT) -> _T | None:
        """Run blocking work on the files; ``None`` if it failed, or took ``limit`` seconds."""
        try:
            return await self._storages.ask_async(self.root, work, limit)
        except (OSError, StorageError) as error:
            _logger.warning("the files of kept prompts: %s", error)
            return None

    async def close(self) -> None:
        """Wait for the work on the files, at most ``SAVE_LIMIT`` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=SAVE_LIMIT)


class ServerPrompts:
    """The kept prompts around one start of a server.

    ``bytes_per_token`` is what one token takes in a file, as far as that is known before.
    """

    def __init__(
        self,
        store: PromptStore,
        model_id: str,
        folder: Path,
        note: Note,
        *,
        bytes_per_token: float,
    ) -> None:
        self.folder = folder
        """The server's ``--slot-save-path``."""
        self._store = store
        self._model_id = model_id
        self._note = note
        self._bytes_per_token = bytes_per_token
        self._is_serving = False
        self._intact: tuple[KeptPrompt, ...] = ()
        self._has_restored = False
        self._check = store.run(folder, self._check_files())

    async def _check_files(self) -> None:
        """Find the prompts whose files are whole. It runs while the server loads its model."""
        before = self._note.prompts
        if not before:
            return
        work = partial(prompt_files.intact, self.folder, before)
        self._intact = await self._store.on_disk(work, _DIGEST_LIMIT) or ()
        if self._intact != before:
            lost = counted(len(before) - len(self._intact), "kept prompt")
            _logger.warning("%s: deleted %s with damaged files", self._model_id, lost)
            await self._write(msgspec.structs.replace(self._note, prompts=self._intact))

    async def restore(self, server: ServerAddress) -> None:
        """Restore the kept prompts of a server that is ready and has no request yet."""
        problem = ""
        try:
            async with asyncio.timeout(RESTORE_LIMIT):
                await asyncio.wait({self._check})
                for prompt in self._intact:
                    name = prompt_files.name_of(prompt.slot)
                    tokens = await restore_slot(server, prompt.slot, name)
                    if tokens != prompt.tokens:
                        problem = f"{tokens} of {prompt.tokens} tokens were restored"
        except TimeoutError:
            problem = f"restoring them took more than {RESTORE_LIMIT:g} s"
        except SlotFileError as error:
            problem = str(error)
        if problem:
            await self._write(_failed(self._note, problem))
            _logger.warning("%s: no kept prompt is used: %s", self._model_id, problem)
        self._has_restored = bool(self._intact) and not problem
        self._is_serving = True

    def drop(self) -> None:
        """Delete the prompts after a crash of the server: what it restored may be the reason."""
        if self._has_restored:
            note = _failed(self._note, "its server stopped after it had restored one")
            self._store.run(self.folder, self._write(note))

    async def save(self, server: ServerAddress, limit: float) -> None:
        """Save the prompts that are new, within ``limit`` seconds, before the server stops.

        Of the server nothing is needed after that: the files are examined while it stops.
        """
        if not self._is_serving or not self._store.enabled():
            return
        self._is_serving = False
        saved: dict[int, int] = {}
        note, limit, problem = self._note, min(limit, SAVE_LIMIT), ""
        if self._has_restored:
            note = msgspec.structs.replace(note, failures=0)
        try:
            async with asyncio.timeout(limit):
                # The longest first; but a short one proves it as well.
                new = await ask_tokens(server, limit)
                is_kept = new is not None and new < LEAST_NEW
                prompts = () if is_kept else await ask_prompts(server, limit)
                for prompt in sorted(prompts, key=_tokens, reverse=note.works is not None):
                    await self._save(server, prompt, saved)
                    if note.works is None and saved:
                        note = await self._prove(server, *saved)
                    if note.works is False:
                        break
        except TimeoutError:
            problem = f"saving and restoring one took more than {limit:g} s"
        except SlotFileError as error:
            problem = str(error)
        if problem:
            _logger.info("%s: its prompts are not kept: %s", self._model_id, problem)
            if note.works is None:
                note = _failed(note, problem)
        if saved or problem or note != self._note:
            self._store.run(self.folder, self._take_over(note, saved))

    async def _save(self, server: ServerAddress, prompt: SlotPrompt, saved: dict[int, int]) -> None:
        if prompt.tokens < LEAST_TOKENS:
            return
        if await self._store.room() < prompt.tokens * self._bytes_per_token:
            _logger.info("%s: there is no room on the disk for its prompts", self._model_id)
            return
        name = prompt_files.new_name_of(prompt.slot)
        saved[prompt.slot] = await save_slot(server, prompt.slot, name)

    async def _prove(self, server: ServerAddress, slot: int) -> Note:
        """Return the note with the result for the beginning of the prompt that was saved.

        A server that cannot do it reads that twice: the time for it must not depend on the prompt.
        """
        name = prompt_files.new_name_of(slot)
        tokens = await self._store.on_disk(partial(saved_tokens, self.folder / name))
        if tokens is None:
            raise SlotFileError("its file cannot be read")
        share = await share_reused(server, slot, prompt_files.PROOF, tokens[:LEAST_TOKENS])
        if share > _LEAST_REUSED:
            return msgspec.structs.replace(self._note, works=True, reason="")
        reason = f"it reads {100 * (1 - share):.0f} % of a restored prompt again"
        return msgspec.structs.replace(self._note, works=False, reason=reason)

    async def _take_over(self, note: Note, saved: Mapping[int, int]) -> None:
        """Keep the files that the server has written, if they are of use, and note them."""
        kept = {prompt.slot: prompt for prompt in note.prompts}
        for slot, tokens in saved.items():
            work = partial(prompt_files.take_over, self.folder, slot, tokens, self._store.now())
            prompt = await self._store.on_disk(work, _DIGEST_LIMIT) if note.works else None
            if prompt is not None:
                kept[slot] = prompt
                self._store.note_written(prompt.size_bytes)
        await self._write(msgspec.structs.replace(note, prompts=tuple(kept.values())))
        await self._store.tidy()

    async def _write(self, note: Note) -> None:
        if not note.works:
            note = msgspec.structs.replace(note, prompts=())
        self._note = note
        await self._store.on_disk(partial(prompt_files.write_note, self.folder, note))


def _tokens(prompt: SlotPrompt) -> int:
    return prompt.tokens


def _failed(note: Note, reason: str) -> Note:
    """Return the note after a try that failed: the next one has to prove it; the last gives up."""
    failures = note.failures + 1
    works = False if failures >= _MOST_FAILURES else None
    return msgspec.structs.replace(note, works=works, reason=reason, failures=failures)

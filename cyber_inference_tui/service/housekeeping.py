"""Frees the disk: plans what to delete, and carries out exactly that plan.

A plan is not stored. It is made again before it is carried out, and only if it has the same token
are its files deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import ConflictError, StorageError
from cyber_inference_tui.hub.staging import PathLock, Staged, abandoned
from cyber_inference_tui.library.catalog import Catalog
from cyber_inference_tui.library.disk import error_text
from cyber_inference_tui.library.gc.delete import Deleted, delete_entries
from cyber_inference_tui.library.gc.facts import Facts, HolderKind, Remaining, same_size_files
from cyber_inference_tui.library.gc.holders import Given
from cyber_inference_tui.library.gc.others import ABANDONED
from cyber_inference_tui.library.gc.plan import Item, Plan, Wish, make_plan, token_of
from cyber_inference_tui.library.gc.survey import survey
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.library.stores import Stores, find_stores
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records.gc import GcItem, GcOrder, GcPart, GcPlan, GcQuery, GcResult
from cyber_inference_tui.service.shared_files import SharedFiles
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.storage import Storages

_DAY: Final = 86400.0
_SURVEY_SECONDS: Final = 60.0
_DELETE_SECONDS: Final = 60.0
_NAMED: Final = "the settings name it"


class Housekeeping:
    """Plans what to delete, and deletes it.

    ``catalog`` returns the models now on the disk, ``in_use`` the reason why a model is in use
    (empty = it is not), ``files_in_use`` the files of running servers, ``last_uses`` the last use
    of each model, ``staged`` the files of downloads. ``on_deleted`` gets the names of what was
    deleted.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        environ: Mapping[str, str],
        catalog: Callable[[], Catalog],
        in_use: Callable[[str], str],
        files_in_use: Callable[[], Iterable[Path]],
        last_uses: Callable[[], Mapping[str, datetime]],
        staged: Callable[[], Staged],
        shared_files: SharedFiles,
        on_deleted: Callable[[list[str]], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._catalog = catalog
        self._in_use = in_use
        self._files_in_use = files_in_use
        self._last_uses = last_uses
        self._staged = staged
        self._shared_files = shared_files
        self._on_deleted = on_deleted
        self._now = now
        self._storages = Storages()
        self._deleting = asyncio.Lock()

    async def plan(self, query: GcQuery) -> GcPlan:
        """Say what can be deleted, and how many bytes that frees.

        The first call begins to hash files that may be duplicates; ``hashing`` counts those whose
        digest is not known yet.
        """
        facts, plan, hashing = await self._planned(query)
        return GcPlan(
            own=_part(facts, plan.own),
            others=_part(facts, plan.others),
            free_bytes=facts.free,
            missing_bytes=plan.missing,
            hashing=hashing,
        )

    async def delete(self, order: GcOrder) -> GcResult:
        """Delete the part of a plan that the token names.

        Raises ``ConflictError`` if the plan would be another one by now.
        """
        return await to_its_end(self._delete(order))

    async def _delete(self, order: GcOrder) -> GcResult:
        async with self._deleting:
            facts, plan, _ = await self._planned(order)
            items = next(
                (part for part in (plan.own, plan.others) if token_of(facts, part) == order.token),
                None,
            )
            if items is None:
                raise ConflictError(
                    "The disk or the models have changed since this plan was made.",
                    hint="Look at the new plan first.",
                )
            result = await self._carry_out(facts, items)
            await self._on_deleted([item.name for item in result.deleted])
            return result

    async def _carry_out(self, facts: Facts, items: Iterable[Item]) -> GcResult:
        remaining = Remaining(facts)
        freed, deleted, problems = 0, [], []
        for item in items:
            holder = item.holder
            used = (reason for model in holder.models if (reason := self._in_use(model)))
            if reason := next(used, ""):
                problems.append(f"{holder.name} stays: {reason}.")
                continue
            paths = remaining.remove(holder).paths
            work = partial(delete_entries, paths, facts.entries, holder.stop)
            if holder.kind is HolderKind.PARTIAL and not holder.other_program:
                work = partial(_delete_staged, paths, facts, holder.stop)
            try:
                done = await self._storages.ask_async(holder.stop, work, _DELETE_SECONDS)
            except StorageError as error:
                done = Deleted(0, error.message.rstrip("."))
            freed += done.freed
            if not done.problem:
                deleted.append(_item(item))
                continue
            problems.append(f"{done.problem}.")
            if holder.kind is not HolderKind.PARTIAL:
                # It may still need files that the rest of the plan deletes.
                break
        return GcResult(freed_bytes=freed, deleted=tuple(deleted), problems=tuple(problems))

    async def _planned(self, query: GcQuery) -> tuple[Facts, Plan, int]:
        """Return the facts, the plan, and how many files are still to be hashed.

        Raises ``StorageError`` if ``models_dir`` cannot be read.
        """
        settings, catalog, now = self._settings(), self._catalog(), self._now().timestamp()
        staged = self._staged()
        tables = settings.models
        words = {settings.default_model, *tables}
        words |= {text for table in tables.values() for text in texts_of(table)}
        keep = {
            model.id: self._in_use(model.id)
            or (_NAMED if words & {model.id, *model.aliases} else "")
            for model in catalog.models.values()
        }
        named = [*staged.targets, *self._files_in_use(), *files_in_settings(settings)]
        uses = {model_id: at.timestamp() for model_id, at in self._last_uses().items()}

        def look() -> Facts:
            given = Given(
                models_dir=settings.models_dir,
                model_dirs=settings.model_dirs,
                stores=find_stores(self._environ) if settings.discover else Stores(),
                partials=abandoned(settings.models_dir, staged.roots, before=now - ABANDONED),
                named_files=tuple(named),
                keep={model_id: reason for model_id, reason in keep.items() if reason},
                last_uses=uses,
                now=now,
            )
            return survey(catalog, given, lambda model: resolve(model, settings).files)

        folder = settings.models_dir
        try:
            facts = await self._storages.ask_async(folder, look, _SURVEY_SECONDS)
        except OSError as error:
            raise StorageError(
                f"{path_text(folder)} cannot be read: {error_text(error)}."
            ) from error
        alike = {
            path: (facts.entries[path].size, facts.entries[path].modified)
            for path in same_size_files(facts)
        }
        digests = await self._shared_files.digests(alike)
        facts = msgspec.structs.replace(facts, digests=digests)
        days = query.unused_days
        wish = Wish(
            unused_before=None if days is None else now - days * _DAY, room=query.room_bytes
        )
        plan = await asyncio.to_thread(make_plan, facts, wish)
        return facts, plan, len(alike) - len(digests)


def texts_of(value: Any) -> Iterator[str]:
    """Yield every text in the settings of a model, at any depth."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield str(key)
            yield from texts_of(one)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from texts_of(one)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from texts_of(getattr(value, name))


def files_in_settings(settings: Settings) -> list[Path]:
    """Return the absolute paths in the models' tables and the arguments for every server."""
    tables = [*settings.models.values(), settings.llama_args]
    words = [word for table in tables for text in texts_of(table) for word in text.split("=")]
    return [Path(word) for word in words if word.startswith("/") and "\0" not in word]


def _delete_staged(paths: Iterable[Path], facts: Facts, stop: Path) -> Deleted:
    """Delete the files of an abandoned download, unless another process has continued it."""
    paths = tuple(paths)
    lock = PathLock()
    root = next((one for one in paths[0].parents if one.parent.parent == stop), None)
    if root is None or not lock.acquire(root):
        return Deleted(0, f"{path_text(root or stop)} stays: another process downloads to it")
    try:
        return delete_entries(paths, facts.entries, stop)
    finally:
        lock.release()


def _part(facts: Facts, items: tuple[Item, ...]) -> GcPart:
    return GcPart(
        items=tuple(map(_item, items)),
        freed_bytes=sum(item.freed for item in items),
        token=token_of(facts, items) if items else "",
    )


def _item(item: Item) -> GcItem:
    holder = item.holder
    used = None if holder.used is None else datetime.fromtimestamp(holder.used, UTC)
    return GcItem(
        reason=item.reason.value,
        name=holder.name,
        origin=holder.origin,
        path=path_text(holder.owns[0] if holder.owns else ""),
        freed_bytes=item.freed,
        last_used_at=used,
        copy_of=item.copy_of or None,
    )

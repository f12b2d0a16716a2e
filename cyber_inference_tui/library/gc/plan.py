"""Chooses what to delete: pure functions of the facts.

Nothing is chosen that frees no byte. The bytes that a plan promises are those of the files (their
blocks on the disk) of which it removes the last name; a shared file counts with the last holder
that needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from cyber_inference_tui.library.gc.facts import Facts, Holder, HolderKind, Remaining


class Reason(StrEnum):
    """Why something is deleted."""

    PARTIAL = "partial download"
    OUTDATED = "outdated revision"
    DUPLICATE = "duplicate"
    UNUSED = "unused"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The deletions that are wanted besides those of what is always of no use."""

    unused_before: float | None = None
    """Delete models that nobody has used since; in seconds since 1970."""
    room: int | None = None
    """Delete until so many bytes are free on the disk of the models: first what is of no use, then
    the least recently used models (only those of ``unused_before``, if it is set)."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """Something to delete."""

    holder: Holder
    reason: Reason
    copy_of: str = ""
    """Another model with the same contents."""
    freed: int = 0
    """Bytes that are free after it and all items before it."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The deletions, in order; ``others`` come after ``own`` or not at all."""

    own: tuple[Item, ...] = ()
    others: tuple[Item, ...] = ()
    """Files of other programs."""
    missing: int = 0
    """Bytes that the wished room lacks even then."""


def make_plan(facts: Facts, wish: Wish) -> Plan:
    """Choose what to delete."""
    remaining = Remaining(facts)
    missing = None if wish.room is None else wish.room - facts.free
    groups: list[tuple[Item, ...]] = []
    for others in (False, True):
        chosen = list(_chosen(facts, wish, remaining, others=others, missing=missing))
        items, freed = _with_bytes(facts, groups[0] if groups else (), chosen)
        groups.append(items)
        if missing is not None:
            missing -= freed
        remaining = Remaining(facts)
        for item in items:
            remaining.remove(item.holder)
    return Plan(own=groups[0], others=groups[1], missing=max(0, missing or 0))


def token_of(facts: Facts, items: Sequence[Item]) -> str:
    """Return a text that is the same only for the same items, with the same files."""
    parts = [
        [
            item.holder.key,
            item.reason,
            item.freed,
            [[str(path), *facts.entries[path][1:]] for path in item.holder.owns],
        ]
        for item in items
    ]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:32]


def _chosen(
    facts: Facts, wish: Wish, remaining: Remaining, *, others: bool, missing: int | None
) -> Iterator[Item]:
    """Yield what to delete, until ``missing`` bytes are free; ``None`` = all of it."""
    for item in _candidates(facts, wish, remaining, others=others):
        if missing is not None:
            if missing <= 0:
                return
            if not _is_on(facts, item.holder):
                continue
        freed = remaining.remove(item.holder).inodes
        if missing is not None:
            missing -= remaining.bytes_of(one for one in freed if one[0] == facts.device)
        yield item


def _candidates(facts: Facts, wish: Wish, remaining: Remaining, *, others: bool) -> Iterator[Item]:
    holders = [
        holder for holder in facts.holders if not holder.keep and holder.other_program is others
    ]
    copies = _copies(facts)
    # A model is in use while a copy of it is.
    idle = {one.key: max(copy.idle_since for copy in copies.get(one.key, [one])) for one in holders}
    holders.sort(key=lambda holder: (idle[holder.key], holder.key))
    for kind, reason in (
        (HolderKind.PARTIAL, Reason.PARTIAL),
        (HolderKind.REVISION, Reason.OUTDATED),
    ):
        yield from (Item(holder=one, reason=reason) for one in holders if one.kind is kind)
    models = [holder for holder in holders if holder.kind is HolderKind.MODEL]
    for holder in models:
        better = [one for one in copies.get(holder.key, []) if one.key in remaining.holders]
        twin = max((one for one in better if _rank(one) > _rank(holder)), key=_rank, default=None)
        if twin is not None:
            yield Item(holder=holder, reason=Reason.DUPLICATE, copy_of=twin.name)
    if wish.room is None and wish.unused_before is None:
        return
    for holder in models:
        if holder.key in remaining.holders and (
            wish.unused_before is None or idle[holder.key] < wish.unused_before
        ):
            yield Item(holder=holder, reason=Reason.UNUSED)


def _copies(facts: Facts) -> dict[str, list[Holder]]:
    """Return by key the models that have everything that a model has, itself among them."""
    contents = {one.key: found for one in facts.holders if (found := _contents(facts, one))}
    having: dict[str, list[Holder]] = defaultdict(list)
    for holder in facts.holders:
        for digest in contents.get(holder.key, ()):
            having[digest].append(holder)
    return {
        key: [one for one in having[next(iter(mine))] if mine <= contents[one.key]]
        for key, mine in contents.items()
    }


def _contents(facts: Facts, holder: Holder) -> frozenset[str]:
    """Return the digests of a model's files; nothing if one is unknown."""
    if holder.kind is not HolderKind.MODEL:
        return frozenset()
    found = [facts.digests.get(path, "") for path in holder.data]
    return frozenset(found) if all(found) else frozenset()


def _rank(holder: Holder) -> tuple[bool, bool, float, str]:
    """Order copies: those that have to stay above all others, then ours, then the last used."""
    return bool(holder.keep), not holder.other_program, holder.idle_since, holder.key


def _is_on(facts: Facts, holder: Holder) -> bool:
    """Return whether a holder has contents on the disk of the models."""
    return any(device == facts.device for device, _ in _inodes(facts, holder))


def _inodes(facts: Facts, holder: Holder) -> frozenset[tuple[int, int]]:
    return frozenset(facts.entries[path].inode for path in holder.data)


def _with_bytes(
    facts: Facts, before: Sequence[Item], chosen: Sequence[Item]
) -> tuple[tuple[Item, ...], int]:
    """Drop what frees nothing; return the rest with the freed bytes, and those on the disk of the
    models."""
    everything = _after(facts, before)
    freed = frozenset().union(*(everything.remove(item.holder).inodes for item in chosen))
    remaining = _after(facts, before)
    items, on_device = [], 0
    for item in chosen:
        if not freed.isdisjoint(_inodes(facts, item.holder)):
            inodes = remaining.remove(item.holder).inodes
            items.append(msgspec.structs.replace(item, freed=remaining.bytes_of(inodes)))
            on_device += remaining.bytes_of(one for one in inodes if one[0] == facts.device)
    return tuple(items), on_device


def _after(facts: Facts, items: Sequence[Item]) -> Remaining:
    remaining = Remaining(facts)
    for item in items:
        remaining.remove(item.holder)
    return remaining

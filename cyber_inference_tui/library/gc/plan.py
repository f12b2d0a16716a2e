"""Chooses what to delete: pure functions of the facts.

Nothing is chosen that frees no byte. The bytes that a plan promises are those of the files (their
blocks on the disk) of which it removes the last name; a shared file counts with the last holder
that needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
    """What is asked for, besides what is always of no use."""

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
    """The model with the same contents that stays."""
    freed: int = 0
    """Bytes that are free after it and all items before it."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to delete, in order; ``others`` comes after ``own`` or not at all."""

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
    contents = {one.key: _contents(facts, one) for one in facts.holders}
    idle = {holder.key: _idle_since(facts, holder, contents) for holder in holders}
    holders.sort(key=lambda holder: (idle[holder.key], holder.key))
    for kind, reason in (
        (HolderKind.PARTIAL, Reason.PARTIAL),
        (HolderKind.REVISION, Reason.OUTDATED),
    ):
        yield from (Item(holder=one, reason=reason) for one in holders if one.kind is kind)
    models = [holder for holder in holders if holder.kind is HolderKind.MODEL]
    for holder in models:
        twin = _twin(facts, holder, remaining, contents)
        if twin is not None:
            yield Item(holder=holder, reason=Reason.DUPLICATE, copy_of=twin.name)
    if wish.room is None and wish.unused_before is None:
        return
    for holder in models:
        if holder.key in remaining.holders and (
            wish.unused_before is None or idle[holder.key] < wish.unused_before
        ):
            yield Item(holder=holder, reason=Reason.UNUSED)


def _idle_since(facts: Facts, holder: Holder, contents: Mapping[str, frozenset[str]]) -> float:
    """Return when a model or a copy of it was last used."""
    mine = contents[holder.key]
    copies = (one.idle_since for one in facts.holders if mine and mine <= contents[one.key])
    return max([holder.idle_since, *copies])


def _contents(facts: Facts, holder: Holder) -> frozenset[str]:
    """Return the digests of a model's files; nothing if one is unknown."""
    if holder.kind is not HolderKind.MODEL:
        return frozenset()
    found = [facts.digests.get(path, "") for path in holder.data]
    return frozenset(found) if all(found) else frozenset()


def _twin(
    facts: Facts, holder: Holder, remaining: Remaining, contents: Mapping[str, frozenset[str]]
) -> Holder | None:
    """Return a model with a copy of these contents that is rather kept: one that has to stay, else
    ours, else the one used last."""
    mine, files = contents[holder.key], _inodes(facts, holder)
    if not mine:
        return None
    better = (
        one
        for one in remaining.holders.values()
        if _rank(one) > _rank(holder)
        and mine <= contents[one.key]
        and files.isdisjoint(_inodes(facts, one))
    )
    return max(better, key=_rank, default=None)


def _rank(holder: Holder) -> tuple[bool, bool, float, str]:
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

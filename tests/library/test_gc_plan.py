"""What a plan deletes, checked on disks made up of holders, shared files and hard links."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cyber_inference_tui.library.gc.facts import (
    Entry,
    Facts,
    Holder,
    HolderKind,
    Remaining,
    same_size_files,
)
from cyber_inference_tui.library.gc.plan import Item, Plan, Reason, Wish, make_plan, token_of

GB = 1000


def entry(name: str, inode: int = 0, *, links: int = 1, size: int = GB, device: int = 1) -> Entry:
    return Entry(Path(name), (device, inode or hash(name)), links, size, size, 1)


def model(name: str, *paths: str, age: float = 0, **more: object) -> Holder:
    files = tuple(map(Path, paths or (name,)))
    fields = {
        "key": name,
        "kind": HolderKind.MODEL,
        "name": name,
        "models": (name,),
        "owns": files,
        "needs": frozenset(files),
        "data": files,
        "idle_since": 1000 - age,
    }
    return Holder(**{**fields, **more})  # type: ignore[arg-type]


def facts(holders: list[Holder], *more: Entry, **fields: object) -> Facts:
    paths = {path for holder in holders for path in holder.needs | set(holder.owns)}
    entries = {path: entry(str(path)) for path in paths} | {one.path: one for one in more}
    return Facts(holders=tuple(holders), entries=entries, device=1, **fields)  # type: ignore[arg-type]


def names(items: tuple[Item, ...]) -> list[str]:
    return [item.holder.name for item in items]


UNUSED = Wish(unused_before=900)


def test_only_what_was_not_used_since_goes() -> None:
    plan = make_plan(facts([model("old", age=200), model("new", age=50)]), UNUSED)
    assert (names(plan.own), plan.own[0].freed) == (["old"], GB)


def test_without_a_wish_models_stay() -> None:
    assert make_plan(facts([model("old", age=900)]), Wish()) == Plan()


def test_what_has_to_stay_stays() -> None:
    there = facts([model("old", age=200, keep="it is loaded")], free=0)
    assert make_plan(there, UNUSED) == Plan()
    assert make_plan(there, Wish(room=GB)) == Plan(missing=GB)


def test_a_shared_file_goes_with_the_last_that_needs_it() -> None:
    one = model("one", "one", "blob", age=300)
    two = model("two", "two", "blob", age=200)
    plan = make_plan(facts([one, two]), UNUSED)
    assert [item.freed for item in plan.own] == [GB, 2 * GB]
    user = model("user", "user", "blob")
    plan = make_plan(facts([model("one", "blob", age=300), user]), UNUSED)
    assert plan == Plan(), "deleting it would free nothing"


def test_a_hard_link_frees_nothing_until_the_last() -> None:
    linked = [model("a", age=300), model("b", age=200)]
    two = entry("a", 7, links=2), entry("b", 7, links=2)
    plan = make_plan(facts(linked, *two), UNUSED)
    assert [item.freed for item in plan.own] == [0, GB]
    three = entry("a", 7, links=3), entry("b", 7, links=3)
    assert make_plan(facts(linked, *three), UNUSED) == Plan(), "its third name is elsewhere"


def test_of_two_copies_the_one_used_last_stays() -> None:
    digests = {Path("a"): "x", Path("b"): "x"}
    there = facts([model("a", age=5), model("b", age=9)], digests=digests)
    (item,) = make_plan(there, Wish()).own
    assert (item.holder.name, item.reason, item.copy_of) == ("b", Reason.DUPLICATE, "a")
    theirs = [model("a", age=5), model("b", age=9, other_program=True)]
    plan = make_plan(facts(theirs, digests=digests), Wish())
    assert (names(plan.own), names(plan.others)) == ([], ["b"])
    theirs = [model("a", age=9), model("b", age=5, other_program=True)]
    plan = make_plan(facts(theirs, digests=digests), Wish())
    assert (names(plan.own), names(plan.others)) == ([], ["b"]), "ours stays"
    kept = [model("a", age=5), model("b", age=9, keep="it is loaded")]
    assert names(make_plan(facts(kept, digests=digests), Wish()).own) == ["a"]


def test_models_with_other_contents_are_no_duplicates() -> None:
    both = [model("a", "a", "a2"), model("b", "b", "b2")]
    digests = {Path("a"): "x", Path("b"): "x", Path("a2"): "y", Path("b2"): "z"}
    assert make_plan(facts(both, digests=digests), Wish()) == Plan()
    del digests[Path("b2")]
    assert make_plan(facts(both, digests=digests), Wish()) == Plan()
    linked = entry("a", 7, links=2), entry("b", 7, links=2)
    same = {Path("a"): "x", Path("b"): "x"}
    assert make_plan(facts([model("a"), model("b")], *linked, digests=same), Wish()) == Plan()


def test_a_model_is_in_use_while_a_copy_of_it_is() -> None:
    digests = {Path("ours"): "x", Path("theirs"): "x"}
    both = [model("ours", age=500), model("theirs", age=1, other_program=True)]
    plan = make_plan(facts(both, digests=digests), UNUSED)
    assert (names(plan.own), names(plan.others)) == ([], ["theirs"])


def test_a_copy_does_not_go_because_of_one_that_has_gone() -> None:
    """Both lack recent use, and the other program's copy is asked for separately."""
    digests = {Path("ours"): "x", Path("theirs"): "x"}
    theirs = model("theirs", age=500, other_program=True)
    plan = make_plan(facts([model("ours", age=400), theirs], digests=digests), UNUSED)
    assert names(plan.own) == ["ours"]
    assert [item.reason for item in plan.others] == [Reason.UNUSED]


def test_room_is_made_in_the_order_of_use_and_no_more() -> None:
    there = facts([model("c", age=1), model("a", age=9), model("b", age=5)], free=GB)
    plan = make_plan(there, Wish(room=3 * GB))
    assert (names(plan.own), plan.missing) == (["a", "b"], 0)
    assert make_plan(there, Wish(room=GB)) == Plan()
    assert make_plan(there, Wish(room=9 * GB)).missing == 5 * GB


def test_room_comes_first_from_what_nobody_needs_and_from_our_own() -> None:
    partial = model("partial", kind=HolderKind.PARTIAL, age=0)
    theirs = model("theirs", age=900, other_program=True)
    there = facts([model("ours", age=5), partial, theirs], free=0)
    assert names(make_plan(there, Wish(room=GB)).own) == ["partial"]
    plan = make_plan(there, Wish(room=3 * GB))
    assert (names(plan.own), names(plan.others)) == (["partial", "ours"], ["theirs"])


def test_another_disk_makes_no_room() -> None:
    there = facts([model("a")], entry("a", device=2), free=0)
    assert make_plan(there, Wish(room=GB)) == Plan(missing=GB)


def test_the_token_changes_with_the_files() -> None:
    there = facts([model("a", age=200)])
    token = token_of(there, make_plan(there, UNUSED).own)
    assert token == token_of(there, make_plan(there, UNUSED).own)
    grown = facts([model("a", age=200)], entry("a", size=2 * GB))
    assert token != token_of(grown, make_plan(grown, UNUSED).own)


def test_only_files_of_one_size_can_be_copies() -> None:
    there = facts(
        [model("a"), model("b"), model("c"), model("d")],
        entry("c", size=5),
        entry("d", hash("a"), links=2),
    )
    assert set(same_size_files(there)) == {Path("a"), Path("b")}


@st.composite
def disks(draw: st.DrawFn) -> Facts:
    """A disk on which holders share files, and files have several names."""
    inodes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=10))
    counts = {inode: inodes.count(inode) + draw(st.integers(0, 1)) for inode in inodes}
    sizes = {inode: draw(st.sampled_from([0, 1, GB, 5 * GB])) for inode in inodes}
    entries = [
        entry(f"f{at}", inode, links=counts[inode], size=sizes[inode])
        for at, inode in enumerate(inodes)
    ]
    paths = [one.path for one in entries]
    some = st.lists(st.sampled_from(paths), min_size=1, max_size=4, unique=True)
    holders = []
    for at in range(draw(st.integers(1, 6))):
        files = tuple(draw(some))
        kind = draw(st.sampled_from(HolderKind))
        kept = draw(st.booleans()) or kind is HolderKind.OTHER
        holders.append(
            model(
                f"h{at}",
                kind=kind,
                owns=files,
                needs=frozenset((*files, *draw(some))),
                data=files[: draw(st.integers(1, len(files)))],
                idle_since=draw(st.integers(0, 3)),
                other_program=draw(st.booleans()),
                keep="it is loaded" if kept else "",
            )
        )
    digests = {path: draw(st.sampled_from("xy")) for path in paths}
    return Facts(
        holders=tuple(holders),
        entries={one.path: one for one in entries},
        digests=digests,
        device=1,
        free=draw(st.integers(0, 3)) * GB,
    )


wishes = st.builds(
    Wish,
    unused_before=st.none() | st.integers(0, 4).map(float),
    room=st.none() | st.integers(0, 9).map(lambda number: number * GB),
)


@settings(max_examples=500, deadline=None)
@given(disks(), wishes)
def test_a_plan_frees_what_it_promises_and_nothing_that_is_needed(there: Facts, wish: Wish) -> None:
    plan = make_plan(there, wish)
    items = (*plan.own, *plan.others)
    assert not any(item.holder.keep for item in items)
    assert not any(item.holder.other_program for item in plan.own)
    remaining = Remaining(there)
    deleted: set[Path] = set()
    promised = 0
    for item in items:
        deleted |= set(remaining.remove(item.holder).paths)
        promised += item.freed
        assert _freed(there, deleted) == promised
        for other in remaining.holders.values():
            assert deleted.isdisjoint(other.needs), "something that stays needs it"
    if wish.room is not None:
        on_disk = there.free + sum(item.freed for item in items)
        assert plan.missing == max(0, wish.room - on_disk)
        if there.free >= wish.room:
            assert not items


def _freed(there: Facts, deleted: set[Path]) -> int:
    """Count the bytes as a file system does."""
    left = {one.inode: one.links for one in there.entries.values()}
    sizes = {one.inode: one.allocated for one in there.entries.values()}
    for path in deleted:
        left[there.entries[path].inode] -= 1
    return sum(sizes[inode] for inode, count in left.items() if count == 0)


@settings(max_examples=200, deadline=None)
@given(disks())
def test_the_last_copy_of_a_model_never_goes_as_a_duplicate(there: Facts) -> None:
    plan = make_plan(there, Wish())
    gone = {item.holder.key for item in (*plan.own, *plan.others)}
    for item in (*plan.own, *plan.others):
        if item.reason is Reason.DUPLICATE:
            mine = {there.digests[path] for path in item.holder.data}
            assert any(
                mine <= {there.digests[path] for path in one.data}
                for one in there.holders
                if one.key not in gone and one.kind is HolderKind.MODEL
            )

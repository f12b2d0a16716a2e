"""Damaged files: whatever happens to a file, nothing raises and no number is invented."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyber_inference_tui.monitor.kernel_files import integer
from cyber_inference_tui.monitor.memory_reader import MemoryReader
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.records import GpuRecord, ResourceSample, to_json
from tests.monitor import trees
from tests.monitor.clock import Clock
from tests.monitor.samples import sampler

TREES: list[Callable[[Path], None]] = [
    trees.orin_nano_jetpack5,
    trees.orin_nano_jetpack6,
    trees.agx_orin,
    trees.thor,
    trees.xavier_nx,
    trees.amd_card,
    trees.amd_apu,
    trees.raspberry_pi,
    trees.container,
    trees.workstation,
]

Leaf = tuple[str, ...]
Numbers = dict[Leaf, float]


def numbers(record: object) -> Numbers:
    """Return every number of a sample by its place. No tree has several GPUs or interfaces."""
    return dict(_leaves((), msgspec.to_builtins(record)))


def _leaves(place: Leaf, value: object) -> Iterator[tuple[Leaf, float]]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float):
        yield place, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves((*place, str(name)), part)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves((*place, str(number)), part)


def two_samples(root: Path, between: Callable[[], None] = lambda: None) -> list[ResourceSample]:
    clock = Clock()
    taker = sampler(root, clock=clock)
    first = taker.sample()
    clock.advance(1)
    trees.write(root, {"proc/stat": trees.STAT_LATER}) if (root / "proc/stat").is_file() else None
    between()
    second = taker.sample()
    clock.advance(40)  # the sensors look for all files again
    return [first, second, taker.sample()]


def check(record: ResourceSample) -> Numbers:
    """Check the invariants of every sample; return its numbers."""
    wire = to_json(record)
    assert msgspec.json.decode(wire, type=ResourceSample) == record
    return checked(wire)


@functools.cache
def checked(wire: bytes) -> Numbers:
    """Check a sample once and return its numbers: damage to most files makes the same samples."""
    record = msgspec.json.decode(wire, type=ResourceSample)
    found = numbers(record)
    for place, number in found.items():
        name = place[-1]
        if name == "percent" or name.endswith("_percent") or "per_core" in place:
            assert 0 <= number <= 100, place
        elif "temperatures" in place or name == "temperature_c":
            assert -100 < number < 250, place
        else:
            assert number >= 0, place
    memory = record.memory
    if memory.used is not None:
        assert memory.total is not None
        assert memory.available is not None
        assert memory.used == memory.total - memory.available
    for gpu in record.gpus:
        assert gpu.memory_used is None or (gpu.memory_total or 0) >= gpu.memory_used
    return found


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


class Machine(NamedTuple):
    """A machine's tree, whole, and those of its files that none before it in ``TREES`` has alike.

    The main memory is taken by each GPU in its own way and counts as each machine's own.
    """

    root: Path
    own: list[str]


Machines = dict[Callable[[Path], None], Machine]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    found = {}
    seen: set[tuple[str, bytes]] = set()
    for tree in TREES:
        root = tmp_path_factory.mktemp(tree.__name__)
        tree(root)
        contents = {(str(file.relative_to(root)), file.read_bytes()) for file in files(root)}
        own = sorted(name for name, _ in contents - seen)
        found[tree] = Machine(root, sorted({*own, "proc/meminfo"}))
        seen |= contents
    return found


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()


def nonsense(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00 nonsense \x1b[31m\n")


# Numbers that survive the loss of a file: without its limit, a container may use the machine's
# memory, and without the size of its cache, all its use counts.
ELSEWHERE: dict[tuple[str, Leaf], float] = {
    ("memory.max", ("memory", "total")): 7_802_880 * 1024,
    ("memory.max", ("memory", "available")): 4_268_000 * 1024,
    ("memory.max", ("memory", "used")): 3_534_880 * 1024,
    ("memory.max", ("memory", "percent")): 45.3,
    ("memory.stat", ("memory", "available")): 1 << 30,
    ("memory.stat", ("memory", "used")): 1 << 30,
    ("memory.stat", ("memory", "percent")): 50.0,
}


def test_numbers_too_large_for_the_wire(tmp_path: Path) -> None:
    huge = "9" * 19 + "\n"
    trees.amd_apu(tmp_path)
    for file in files(tmp_path):
        if integer(file.read_bytes()) is not None:
            file.write_text(huge)
    lines = "".join(f"/dev/sd{n} partition {'9' * 12} {'9' * 12} 1\n" for n in range(64))
    trees.write(tmp_path, {"proc/swaps": f"Filename\n{lines}"})
    for record in two_samples(tmp_path):
        check(record)
        assert record.gpus == (GpuRecord(name="AMD GPU 1586", shared_memory=True),)
        assert record.swap.percent == 100.0


# Files with only the name of another file's number, or its source.
NAMES = re.compile(r"name|type|.*_label")
DISK = 30.0
"""A temperature that is left out for its chip's name."""

DAMAGES = pytest.mark.parametrize("damage", [remove, empty, unreadable, nonsense])


def each_damaged(root: Path, names: list[str], damage: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the tree with one of these files damaged at a time; each is restored before the
    next."""
    for name in names:
        file = root / name
        content = file.read_bytes()
        damage(file)
        yield file
        if file.is_dir():
            file.rmdir()
        file.write_bytes(content)
        trees.write(root, {"proc/stat": trees.STAT})


@DAMAGES
@pytest.mark.parametrize("tree", TREES)
def test_a_file_without_values(
    tmp_path: Path,
    machines: Machines,
    tree: Callable[[Path], None],
    damage: Callable[[Path], None],
) -> None:
    tree(tmp_path)
    intact = [numbers(record) for record in two_samples(tmp_path)]
    trees.write(tmp_path, {"proc/stat": trees.STAT})
    changes = 0
    for file in each_damaged(tmp_path, machines[tree].own, damage):
        for record, before in zip(two_samples(tmp_path), intact, strict=True):
            after = check(record)
            for place, value in after.items():
                allowed = {before.get(place), ELSEWHERE.get((file.name, place))}
                if NAMES.fullmatch(file.name) and place != ("power", "total"):
                    allowed |= {*before.values(), DISK}
                assert value in allowed, (file, place)
            changes += after != before
    # Most files yield a number, so the damage does not go unnoticed.
    assert changes > len(machines[tree].own)


@DAMAGES
@pytest.mark.parametrize("tree", TREES)
def test_a_file_that_goes_away_between_samples(
    tmp_path: Path,
    machines: Machines,
    tree: Callable[[Path], None],
    damage: Callable[[Path], None],
) -> None:
    tree(tmp_path)
    for name in machines[tree].own:
        file = tmp_path / name
        content = file.read_bytes()
        for record in two_samples(tmp_path, functools.partial(damage, file)):
            check(record)
        if file.is_dir():
            file.rmdir()
        file.write_bytes(content)
        trees.write(tmp_path, {"proc/stat": trees.STAT})


BYTES = st.one_of(
    st.binary(max_size=60),
    st.from_regex(rb"\A-?[0-9]{1,25}\n\Z"),
    st.sampled_from(
        [b"nan\n", b"inf\n", b"1e9\n", b"0x10\n", b"1_000\n", b"\0" * 5000, b"9" * 9000]
    ),
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    cut = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(["truncate", "replace", "insert", "change"]))
    if kind == "truncate":
        return content[:cut]
    if kind == "replace":
        return draw(BYTES)
    return content[:cut] + draw(BYTES) + content[cut + (5 if kind == "change" else 0) :]


@settings(max_examples=settings().max_examples // 2)
@given(data=st.data())
@pytest.mark.parametrize("tree", TREES)
def test_any_damage(machines: Machines, tree: Callable[[Path], None], data: st.DataObject) -> None:
    root = machines[tree].root
    chosen = data.draw(
        st.lists(st.sampled_from(files(root)), min_size=1, max_size=4, unique=True), "files"
    )
    whole = {file: file.read_bytes() for file in chosen}
    try:
        for file, content in whole.items():
            file.write_bytes(data.draw(damaged(content), "content"))
        for record in two_samples(root):
            check(record)
        reading = MemoryReader(root, Nvml(load=lambda: None), container=root).read([100])
    finally:
        trees.write(root, {"proc/stat": trees.STAT})
        for file, content in whole.items():
            file.write_bytes(content)
    for memory in reading.processes.values():
        assert memory.private >= 0
        assert memory.mapped >= 0
    assert 0 <= reading.available <= reading.total
    for gpu in reading.gpus:
        assert 0 <= gpu.free <= gpu.total

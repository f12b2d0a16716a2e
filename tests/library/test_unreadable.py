""" "Cannot be read" is not "gone": scans keep models when the disk or the system fails."""

from __future__ import annotations

import errno
import os
import resource
import shutil

import pytest

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.library.catalog import Catalog
from cyber_inference_tui.library.disk import Disk
from cyber_inference_tui.library.headers import HeaderCache
from cyber_inference_tui.library.scan import find_files, stat_file
from cyber_inference_tui.library.stores import Stores, StoreScan
from cyber_inference_tui.settings.schema import ModelSettings
from tests.gguf.headers import write_gguf
from tests.library.conftest import PROJECTOR, Home
from tests.library.faulty_disk import PASSING, FaultyDisk
from tests.library.test_stores import HubCache, Ollama


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


def unread(catalog: Catalog) -> list[str]:
    """Return the places that cannot be read now."""
    return [problem.where for problem in catalog.problems if problem.passing]


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("where", ["", "owner", "owner/repo", "owner/repo/Big-Q4_0.gguf"])
def test_unreadable_models_are_kept_until_they_can_be_read(
    home: Home, disk: FaultyDisk, where: str, number: int
) -> None:
    path = home.model("owner/repo/Big-Q4_0.gguf")
    home.model("owner/repo/lora.gguf", {"general.type": "adapter"})
    library = home.library(disk=disk)
    good = library.scan()
    disk.faults[home.models_dir / where] = number
    for _ in range(3):
        kept = library.scan()
        assert kept.models == good.models
        assert unread(kept) == [str(home.models_dir / where)]
        (problem,) = (one for one in kept.problems if one.passing)
        assert os.strerror(number) in problem.reason
        assert "kept" in problem.reason
        assert {one.where for one in good.problems} <= {one.where for one in kept.problems}
    disk.faults.clear()
    assert library.scan() == good
    path.unlink()
    assert not library.scan().models


def test_a_process_without_descriptors_keeps_its_models(home: Home) -> None:
    home.shards("v/Big-VL", 2)
    home.projector("v/mmproj.gguf")
    cache = HubCache(home.root / "hub")
    cache.add("org/tiny", "1", "A-Q8_0.gguf")
    store = Ollama(home.root / "ollama")
    store.add("h/library/c/latest", model=store.blob("a"))
    stores = Stores((cache.root,), (home.root / "lm",), (store.root,))
    library = home.library(stores=stores)
    good = library.scan()
    assert list(good.models) == ["A-Q8_0", "Big-VL", "c"]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        kept = library.scan()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert kept.models == good.models
    assert str(home.models_dir) in unread(kept)
    assert library.scan() == good


def test_only_a_folder_that_was_read_and_does_not_list_it_says_that_it_is_gone(
    home: Home, disk: FaultyDisk
) -> None:
    home.model("a/x.gguf")
    home.model("b/y.gguf")
    library = home.library(disk=disk)
    assert list(library.scan().models) == ["x", "y"]
    disk.faults[home.models_dir / "b"] = errno.EIO
    shutil.rmtree(home.models_dir / "a")
    assert list(library.scan().models) == ["y"]
    shutil.rmtree(home.models_dir / "b")
    assert list(library.scan().models) == []


def test_a_root_that_is_missing_is_gone_when_the_folder_around_it_says_so(
    home: Home, disk: FaultyDisk
) -> None:
    more = home.root / "mount/disk/more"
    write_gguf(more / "x.gguf")
    library = home.library(model_dirs=[more], disk=disk)
    assert list(library.scan().models) == ["x"]
    shutil.rmtree(more)
    # Its parent folder cannot be listed: a missing mount looks like this.
    disk.faults[more.parent] = errno.EACCES
    assert list(library.scan().models) == ["x"]
    disk.faults.clear()
    catalog = library.scan()
    assert not catalog.models
    assert [problem.reason for problem in catalog.problems] == ["there is no such directory"]
    shutil.rmtree(home.root / "mount")
    assert not library.scan().models


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.ELOOP])
def test_a_path_that_leads_nowhere_is_gone(home: Home, disk: FaultyDisk, number: int) -> None:
    path = home.model("a/x.gguf")
    library = home.library(disk=disk)
    library.scan()
    disk.faults[path.parent] = number
    assert not library.scan().models


def test_a_first_scan_that_fails_says_so(home: Home, disk: FaultyDisk) -> None:
    home.model("x.gguf")
    disk.faults[home.models_dir] = errno.EIO
    library = home.library(disk=disk)
    catalog = library.scan()
    assert not catalog.models
    assert unread(catalog) == [str(home.models_dir)]
    with pytest.raises(ModelNotFoundError, match="cannot be read: Input/output error"):
        catalog.resolve("x")
    disk.faults.clear()
    assert list(library.scan().models) == ["x"]


def test_other_settings_meanwhile_lose_only_what_they_leave_out(
    home: Home, disk: FaultyDisk
) -> None:
    more = home.root / "more"
    home.model("x.gguf")
    write_gguf(more / "y.gguf")
    library = home.library(model_dirs=[more], disk=disk)
    good = library.scan()
    disk.faults = {home.models_dir: errno.EMFILE, more: errno.EMFILE}
    tables = {"x": ModelSettings(pinned=True)}
    library.reconfigure(
        models_dir=home.models_dir, model_dirs=[more], model_settings=tables, extra={}
    )
    models = library.scan().models
    assert models["y"] == good.models["y"]
    assert models["x"].settings.pinned
    library.reconfigure(models_dir=home.models_dir)
    assert list(library.scan().models) == ["x"]
    # It is a folder in another directory of the settings now.
    library.reconfigure(models_dir=home.root)
    disk.faults = {home.models_dir: errno.EMFILE}
    assert list(library.scan().models) == ["x", "y"]


def test_deleted_models_are_gone_whatever_the_next_scan_reads(home: Home, disk: FaultyDisk) -> None:
    home.model("x.gguf")
    path = home.model("y.gguf")
    library = home.library(disk=disk, model_settings={"nick": ModelSettings(path=path)})
    library.delete(library.scan(), "x")
    disk.faults[home.models_dir] = errno.EIO
    assert list(library.scan().models) == ["nick", "y"]


@pytest.mark.parametrize("where", ["big-00002-of-00002.gguf", "mmproj.gguf", "part"])
def test_a_model_stays_whole_when_one_of_its_files_cannot_be_read(
    home: Home, disk: FaultyDisk, where: str
) -> None:
    home.shards("v/big", 2)
    home.projector("v/mmproj.gguf")
    home.projector("v/part/mmproj.gguf")
    library = home.library(disk=disk)
    good = library.scan()
    assert good.models["big"].mmproj == home.models_dir / "v/mmproj.gguf"
    disk.faults[home.models_dir / "v" / where] = errno.EIO
    assert library.scan().models == good.models


def test_files_that_tables_name_are_kept_too(home: Home, disk: FaultyDisk) -> None:
    far = home.root / "far"
    tables = {
        "m": ModelSettings(path=write_gguf(far / "m.gguf"), mmproj=far / "eye.gguf"),
        "weights": ModelSettings(path=far / "weights", command=("serve", "{path}")),
    }
    (far / "weights").mkdir()
    write_gguf(far / "eye.gguf", PROJECTOR)
    library = home.library(disk=disk, model_settings=tables)
    good = library.scan()
    disk.faults[far] = errno.EACCES
    kept = library.scan()
    assert kept.models == good.models
    assert set(unread(kept)) == {str(far / name) for name in ("m.gguf", "eye.gguf", "weights")}
    first = home.scan(disk=disk, model_settings=tables).models
    assert "cannot be read: Permission denied" in (first["m"].problem or "")
    assert first["weights"].problem is None
    disk.faults.clear()
    shutil.rmtree(far)
    gone = library.scan().models
    assert "is missing" in (gone["m"].problem or "")


def test_a_projector_of_a_table_that_cannot_be_read_is_not_missing(
    home: Home, disk: FaultyDisk
) -> None:
    home.model("m.gguf")
    eye = write_gguf(home.root / "eye.gguf", PROJECTOR)
    disk.faults[eye] = errno.EIO
    tables = {"m": ModelSettings(mmproj=eye)}
    problem = home.scan(disk=disk, model_settings=tables).models["m"].problem
    assert problem is not None
    assert "cannot be read: Input/output error" in problem
    disk.faults.clear()
    library = home.library(disk=disk, model_settings=tables)
    assert library.scan().models["m"].problem is None
    eye.unlink()
    assert "is missing" in (library.scan().models["m"].problem or "")


def test_a_header_that_cannot_be_read_is_the_one_of_before(home: Home) -> None:
    path = home.projector("v/mmproj.gguf")
    file = stat_file(path, home.models_dir)
    assert file is not None
    cache = HeaderCache(None, lambda: file.modified)
    cache.take(cache.fetch([file], Disk()))
    read = cache.read(file)
    cache.settle()
    path.unlink()
    changed = file._replace(modified=file.modified + 1)
    for _ in range(2):
        cache.take(cache.fetch([changed], Disk()))
        assert cache.read(changed) == read
        assert not cache.settle()


def test_models_that_were_not_looked_at_are_kept(home: Home, disk: FaultyDisk) -> None:
    home.model("a/x.gguf")
    home.model("b/y.gguf")
    all_of_it = find_files([home.models_dir])
    part = find_files([home.models_dir], most=2)
    assert len(part.files) < 2
    assert part.keeping(all_of_it).files == all_of_it.files


# Other programs' models


class Elsewhere:
    """Make a model in each store; return the places whose faults hide them."""

    def __init__(self, home: Home) -> None:
        cache = HubCache(home.root / "hub")
        link = cache.add("org/vl", "1", "Big-Q8_0.gguf")
        blob = cache.root / "models--org--vl/blobs/eye"
        write_gguf(blob, PROJECTOR)
        (link.parent / "mmproj-F16.gguf").symlink_to(blob)
        write_gguf(home.root / "lm/maker/repo/Lm-Q4_0.gguf")
        ollama = Ollama(home.root / "ollama")
        model, eye = ollama.blob("a"), ollama.blob("p", metadata=PROJECTOR)
        manifest = ollama.add("h/library/see/latest", model=model, projector=eye)
        self.stores = Stores((cache.root,), (home.root / "lm",), (ollama.root,))
        repo = cache.root / "models--org--vl"
        self.places = {
            "cache": cache.root,
            "repo": repo,
            "snapshots": repo / "snapshots",
            "ref": repo / "refs/main",
            "snapshot": link.parent,
            "link": link,
            "projector link": link.parent / "mmproj-F16.gguf",
            "lm": home.root / "lm",
            "lm repo": home.root / "lm/maker/repo",
            "ollama": ollama.root,
            "manifests": ollama.root / "manifests/h/library",
            "manifest": manifest,
            "blobs": ollama.root / "blobs",
            "projector blob": ollama.root / "blobs" / eye.replace(":", "-"),
        }


PLACES = (
    "cache",
    "repo",
    "snapshots",
    "ref",
    "snapshot",
    "link",
    "projector link",
    "lm",
    "lm repo",
    "ollama",
    "manifests",
    "manifest",
    "blobs",
    "projector blob",
)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("where", PLACES)
def test_other_programs_models_are_kept(
    home: Home, disk: FaultyDisk, where: str, number: int
) -> None:
    there = Elsewhere(home)
    assert set(there.places) == set(PLACES)
    # Another commit is newer than the current one: without the ref it would be chosen.
    HubCache(home.root / "hub").add("org/vl", "2", "Other-Q8_0.gguf", ref=False)
    library = home.library(stores=there.stores, disk=disk)
    good = library.scan()
    assert list(good.models) == ["Big-Q8_0", "Lm-Q4_0", "see"]
    assert good.models["Big-Q8_0"].mmproj is not None
    assert good.models["see"].mmproj is not None
    disk.faults[there.places[where]] = number
    for _ in range(2):
        kept = library.scan()
        assert kept.models == good.models
        assert unread(kept)
    disk.faults.clear()
    assert library.scan() == good


def test_places_that_may_never_be_read_are_not_reported(home: Home, disk: FaultyDisk) -> None:
    there = Elsewhere(home)
    disk.faults = dict.fromkeys((home.root / "ollama", home.root / "hub"), errno.EACCES)
    catalog = home.scan(stores=there.stores, disk=disk)
    assert list(catalog.models) == ["Lm-Q4_0"]
    assert not catalog.problems


def test_a_store_that_is_slow_for_once_keeps_its_models(home: Home) -> None:
    there = Elsewhere(home)
    now = [0.0]
    step = [0.0]

    def timer() -> float:
        now[0] += step[0]
        return now[0]

    looks = StoreScan(there.stores, clock=lambda: 2**62, timer=timer)
    good = looks.look()
    now[0], step[0] = 100.0, 10.0
    slow = looks.look()
    assert slow.files == good.files
    assert slow.ollama == good.ollama
    assert slow.places == good.places
    assert all("slow" in problem.reason for problem in slow.problems)
    now[0], step[0] = 1000.0, 0.0
    assert looks.look() == good


def test_rights_that_come_back_are_seen_at_once(home: Home, disk: FaultyDisk) -> None:
    there = Elsewhere(home)
    looks = StoreScan(there.stores, clock=lambda: 2**62, timer=lambda: 0.0)
    root = home.root / "lm"
    disk.faults[root] = errno.EACCES
    first = looks.look(disk)
    assert [file.path.name for file in first.files] == ["Big-Q8_0.gguf", "mmproj-F16.gguf"]
    disk.faults.clear()
    assert len(looks.look(disk).files) == 3

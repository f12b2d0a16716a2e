"""Storages that hang or are slow affect only their own folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyber_inference_tui.library import folder_reader
from cyber_inference_tui.library.disk import Disk
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.library.scan import SLOW
from cyber_inference_tui.library.stores import Stores
from cyber_inference_tui.settings.schema import ModelSettings
from cyber_inference_tui.storage import SILENT
from tests.gguf.headers import write_gguf
from tests.library.conftest import Home
from tests.waiting import eventually


class HangingDisk(Disk):
    """A disk whose calls at or below ``hanging`` block until ``answer`` is called."""

    def __init__(self) -> None:
        self.hanging: set[Path] = set()
        self.waiting = 0
        self._changed = threading.Condition()

    def reach(self, path: Path) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(
                lambda: self.hanging.isdisjoint((path, *path.parents)), timeout=30
            )
            self.waiting -= 1

    def answer(self) -> None:
        with self._changed:
            self.hanging.clear()
            self._changed.notify_all()

    def entries(self, directory: Path, most: int) -> list[os.DirEntry[str]]:
        self.reach(directory)
        return super().entries(directory, most)

    def stat(self, path: Path) -> os.stat_result:
        self.reach(path)
        return super().stat(path)

    def beginning(self, path: Path, most: int) -> bytes:
        self.reach(path)
        return super().beginning(path, most)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingDisk]:
    monkeypatch.setattr(folder_reader, "SILENCE", 0.2)
    one = HangingDisk()
    yield one
    one.answer()


@pytest.fixture
def nas(home: Home) -> Path:
    """Return another folder, with the model ``far``."""
    folder = home.root / "nas"
    write_gguf(folder / "far.gguf")
    home.model("own.gguf")
    return folder


def scanned_until(library: Library, wanted: list[str]) -> None:
    """Scan until the models are these: the hanging attempt may be about to end."""
    eventually(
        lambda: list(library.scan().models) == wanted and not library.scan().problems,
        what=f"{wanted} without a problem",
    )


def test_a_folder_that_hangs_from_the_start(home: Home, nas: Path, disk: HangingDisk) -> None:
    library = home.library(model_dirs=[nas], disk=disk)
    disk.hanging.add(nas)
    for _ in range(5):
        catalog = library.scan()
        assert list(catalog.models) == ["own"]
        assert [(one.where, one.reason) for one in catalog.problems] == [(str(nas), SILENT)]
        assert disk.waiting == 1
    disk.answer()
    scanned_until(library, ["far", "own"])


@pytest.mark.parametrize("hanging", ["models", "nas"])
def test_a_folder_that_begins_to_hang_keeps_its_models(
    home: Home, nas: Path, disk: HangingDisk, hanging: str
) -> None:
    library = home.library(model_dirs=[nas], disk=disk)
    good = library.scan()
    disk.hanging.add(home.root / hanging)
    for _ in range(5):
        kept = library.scan()
        assert kept.models == good.models
        assert [one.where for one in kept.problems] == [str(home.root / hanging)]
        assert "are kept" in kept.problems[0].reason
    # The other folder's models are found as usual.
    other = home.models_dir if hanging == "nas" else nas
    write_gguf(other / "new.gguf")
    assert list(library.scan().models) == ["far", "new", "own"]
    disk.answer()
    scanned_until(library, ["far", "new", "own"])


def test_a_place_below_a_folder_that_hangs_hides_only_itself(home: Home, disk: HangingDisk) -> None:
    for name in ("a/a", "b/b", "c/c"):
        home.model(f"{name}.gguf")
    disk.hanging.add(home.models_dir / "b")
    library = home.library(disk=disk)
    assert list(library.scan().models) == ["a", "c"]
    assert [one.where for one in library.scan().problems] == [str(home.models_dir / "b")]
    disk.answer()
    scanned_until(library, ["a", "b", "c"])


def test_a_whole_disk_that_dies_below_a_folder_holds_few_threads(
    home: Home, disk: HangingDisk
) -> None:
    for number in range(10):
        home.model(f"{number}/m{number}.gguf")
    disk.hanging |= {home.models_dir / str(number) for number in range(10)}
    library = home.library(disk=disk)
    for _ in range(5):
        assert not library.scan().models
    assert disk.waiting == 3
    disk.answer()
    scanned_until(library, [f"m{number}" for number in range(10)])


def test_a_slow_folder_is_no_silent_one_and_comes_when_it_is_read(
    home: Home, nas: Path, disk: HangingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_reader, "SILENCE", 30.0)
    library = home.library(model_dirs=[nas], disk=disk)
    disk.hanging.add(nas)
    catalog = library.scan(0.1)
    assert list(catalog.models) == ["own"]
    assert [one.reason for one in catalog.problems] == [SLOW]
    disk.answer()
    assert list(library.scan().models) == ["far", "own"]
    # It is slow again, but known: there is no message, and no model is lost.
    disk.hanging.add(nas)
    again = library.scan(0.1)
    assert list(again.models) == ["far", "own"]
    assert not again.problems


def test_a_header_that_cannot_be_read_in_time_is_the_folders_matter(
    home: Home, nas: Path, disk: HangingDisk
) -> None:
    cache = home.root / "headers.json"
    old = home.library(model_dirs=[nas], cache_file=cache, clock=lambda: 1 << 62)
    old.scan()
    known = cache.read_bytes()
    library = home.library(model_dirs=[nas], cache_file=cache, clock=lambda: 1 << 62, disk=disk)
    disk.hanging.add(nas)
    assert list(library.scan().models) == ["own"]
    # A start while a folder hangs keeps its cached headers.
    assert cache.read_bytes() == known
    disk.answer()
    new = write_gguf(nas / "new.gguf")
    disk.hanging.add(new)
    scans = [list(library.scan().models) for _ in range(3)]
    assert "new" not in scans[-1]
    disk.answer()
    scanned_until(library, ["far", "new", "own"])


def test_files_that_tables_name(home: Home, nas: Path, disk: HangingDisk) -> None:
    mmproj = home.root / "far/mmproj.gguf"
    write_gguf(mmproj)
    tables = {
        "there": ModelSettings(path=nas / "far.gguf"),
        "seeing": ModelSettings(path=Path("own.gguf"), mmproj=mmproj),
    }
    library = home.library(model_settings=tables, disk=disk)
    good = library.scan()
    disk.hanging |= {nas, mmproj}
    kept = library.scan()
    assert kept.models == good.models
    assert {one.where for one in kept.problems} >= {str(nas / "far.gguf"), str(mmproj)}
    fresh = home.library(model_settings=tables, disk=disk).scan()
    assert SILENT in (fresh.models["there"].problem or "")
    assert SILENT in (fresh.models["seeing"].problem or "")


def test_another_programs_store(home: Home, nas: Path, disk: HangingDisk) -> None:
    library = home.library(stores=Stores(lm_studio=(nas,)), disk=disk)
    disk.hanging.add(nas)
    catalog = library.scan()
    assert list(catalog.models) == ["own"]
    assert [one.reason for one in catalog.problems] == [SILENT]
    disk.answer()
    scanned_until(library, ["far", "own"])
    disk.hanging.add(nas)
    assert list(library.scan().models) == ["far", "own"]


def test_settings_change_while_a_folder_hangs(home: Home, nas: Path, disk: HangingDisk) -> None:
    library = home.library(model_dirs=[nas], disk=disk)
    disk.hanging.add(nas)
    library.scan()
    library.reconfigure(models_dir=home.models_dir)
    assert not library.scan().problems
    library.reconfigure(models_dir=nas, model_dirs=[home.models_dir])
    assert list(library.scan().models) == ["own"]

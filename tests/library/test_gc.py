"""Freeing the disk, with the folders of this program and of others: only what nothing needs goes,
and as many bytes are free as promised."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.library.gc.delete import Deleted, delete_entries
from cyber_inference_tui.library.gc.facts import Facts, HolderKind, Remaining
from cyber_inference_tui.library.gc.holders import Given
from cyber_inference_tui.library.gc.plan import Item, Plan, Wish, make_plan
from cyber_inference_tui.library.gc.survey import survey
from cyber_inference_tui.library.stores import Stores
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from tests.library.conftest import Home
from tests.library.test_companions import QWEN, heads, large
from tests.library.test_stores import HubCache, Ollama

DAY = 86400.0
EVERYTHING = Wish(unused_before=1e12)


class Disk:
    """Our models and those of other programs, as a survey in ten days finds them."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.cache = HubCache(home.root / "hub")
        self.ollama = Ollama(home.root / "ollama")
        self.settings: dict[str, ModelSettings] = {}
        self.given = Given(
            models_dir=home.models_dir,
            stores=Stores(
                hub_caches=(self.cache.root,),
                lm_studio=(home.root / "lm",),
                ollama=(self.ollama.root,),
            ),
            now=home.models_dir.stat().st_mtime + 10 * DAY,
        )

    def catalog(self) -> Catalog:
        return self.home.scan(stores=self.given.stores, model_settings=self.settings)

    def facts(self, **given: object) -> Facts:
        told = msgspec.structs.replace(self.given, **given)
        return survey(self.catalog(), told, _files)

    def plan(self, wish: Wish = EVERYTHING, **given: object) -> Plan:
        return make_plan(self.facts(**given), wish)

    def delete(self, wish: Wish = EVERYTHING, **given: object) -> list[str]:
        """Carry out a plan: return the names of what is gone. It frees exactly what it promised."""
        facts = self.facts(**given)
        plan = make_plan(facts, wish)
        items = (*plan.own, *plan.others)
        before = self.used()
        freed = carry_out(facts, items)
        assert freed == before - self.used() == sum(item.freed for item in items)
        return [item.holder.name for item in items]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.home.models_dir.iterdir() if path.is_file())

    def used(self) -> int:
        """Count the bytes of all files on the disk, each once."""
        found = {}
        for folder, _, names in os.walk(self.home.root):
            for name in names:
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118
                found[status.st_ino] = status.st_blocks * 512
        return sum(found.values())


def carry_out(facts: Facts, items: Iterable[Item]) -> int:
    remaining = Remaining(facts)
    freed = 0
    for item in items:
        paths = remaining.remove(item.holder).paths
        done = delete_entries(paths, facts.entries, item.holder.stop)
        assert done.problem == ""
        freed += done.freed
    return freed


def _files(model: LocalModel) -> tuple[Path, ...]:
    return resolve(model, Settings()).files


@pytest.fixture
def disk(home: Home) -> Disk:
    return Disk(home)


def test_our_models_go_with_all_their_files_and_empty_folders(disk: Disk) -> None:
    disk.home.shards("org/big/big", 3)
    disk.home.projector("org/big/mmproj-big.gguf")
    disk.home.model("stays.gguf")
    assert disk.delete(keep={"stays": "it is loaded"}) == ["big"]
    assert [path.name for path in disk.home.models_dir.iterdir()] == ["stays.gguf"]


def test_a_projector_and_a_head_go_with_the_last_model_that_has_them(disk: Disk) -> None:
    for name in ("Qwen-Q4_K_M.gguf", "Qwen-Q8_0.gguf"):
        large(disk.home, name, QWEN)
    heads(disk.home)
    disk.home.projector("mmproj-Qwen.gguf")
    assert all(one.draft and one.mmproj for one in disk.catalog().models.values())
    assert disk.delete(keep={"Qwen-Q8_0": "it is loaded"}) == ["Qwen-Q4_K_M"]
    assert disk.names() == [
        "Qwen-Q8_0.gguf",
        "eagle3-Qwen-Q8_0.gguf",
        "mmproj-Qwen.gguf",
        "mtp-Qwen-Q8_0.gguf",
    ]
    assert disk.delete() == ["Qwen-Q8_0"]
    assert disk.names() == ["eagle3-Qwen-Q8_0.gguf"], "no model has it"


def test_a_head_stays_for_a_model_that_names_it(disk: Disk) -> None:
    large(disk.home, "Qwen-Q4_K_M.gguf", QWEN)
    large(disk.home, "elsewhere/Other-Q8_0.gguf", QWEN)
    heads(disk.home)
    disk.settings = {"Other-Q8_0": ModelSettings(draft="mtp-Qwen-Q8_0")}
    assert disk.delete(keep={"Other-Q8_0": "the settings name it"}) == ["Qwen-Q4_K_M"]
    assert (disk.home.models_dir / "mtp-Qwen-Q8_0.gguf").exists()


def test_a_model_that_stays_keeps_its_projector(disk: Disk) -> None:
    path = disk.home.model("big/big.gguf")
    disk.home.projector("big/mmproj-big.gguf")
    (disk.home.models_dir / "notes").symlink_to(path)
    assert disk.plan() == Plan()


def test_the_latest_use_counts_and_a_new_file_is_no_old_one(disk: Disk) -> None:
    disk.home.model("used.gguf")
    disk.home.model("unused.gguf")
    now = disk.given.now
    wish = Wish(unused_before=now - 5 * DAY)
    assert disk.plan(wish, last_uses={"used": now - DAY}).own[0].holder.name == "unused"
    assert disk.plan(Wish(unused_before=now - 20 * DAY)) == Plan()


def test_a_model_of_the_cache_goes_with_its_blob(disk: Disk) -> None:
    link = disk.cache.add("org/a", "c0ffee", "a.gguf")
    readme = link.with_name("README.md")
    readme.write_text("a card")
    blob = link.resolve()
    assert disk.delete() == ["a"]
    assert not blob.exists()
    assert readme.exists(), "the rest of the snapshot stays, as the cache's tools expect"


def test_an_outdated_revision_goes_without_what_the_current_one_shares(disk: Disk) -> None:
    old = disk.cache.add("org/a", "old", "only-old.gguf", ref=False)
    disk.cache.add("org/a", "old", "both.gguf", ref=False)
    disk.cache.add("org/a", "new", "both.gguf")
    (old.parents[1] / "old").touch()
    _age(old.parent)
    gone = old.resolve()
    assert disk.delete(Wish()) == ["org/a@old"]
    assert not gone.exists()
    assert not old.parent.exists()
    assert list(disk.catalog().models) == ["both"]


def test_a_revision_that_a_tag_names_or_that_is_new_stays(disk: Disk) -> None:
    old = disk.cache.add("org/a", "old", "old.gguf", ref=False)
    disk.cache.add("org/a", "new", "new.gguf")
    assert disk.plan(Wish(), now=disk.given.now - 10 * DAY) == Plan(), "it was just made"
    _age(old.parent)
    assert [item.holder.kind for item in disk.plan(Wish()).others] == [HolderKind.REVISION]
    tags = old.parents[2] / "refs/tags"
    tags.mkdir()
    (tags / "v1").write_text("old")
    assert disk.plan(Wish()) == Plan()


def test_a_blob_of_ollama_goes_with_the_last_model_that_names_it(disk: Disk) -> None:
    shared, licence = disk.ollama.blob("shared"), disk.ollama.blob("licence", b"free")
    disk.ollama.add("registry.ollama.ai/library/one/latest", model=shared, license=licence)
    disk.ollama.add("registry.ollama.ai/library/two/latest", model=shared, license=licence)
    own = disk.ollama.blob("own", metadata={"general.name": "own"})
    disk.ollama.add("registry.ollama.ai/library/three/latest", model=own, license=licence)
    ids = {model_id for model_id in disk.catalog().models if "three" not in model_id}
    assert disk.delete(keep=dict.fromkeys(ids, "it is loaded")) == ["three"]
    blobs = {path.name for path in (disk.ollama.root / "blobs").iterdir()}
    assert blobs == {shared.replace(":", "-"), licence.replace(":", "-")}
    disk.delete()
    assert not list((disk.ollama.root / "blobs").iterdir())
    assert not list((disk.ollama.root / "manifests").iterdir())


def test_a_store_with_two_paths_counts_once(disk: Disk) -> None:
    disk.ollama.add("registry.ollama.ai/library/one/latest", model=disk.ollama.blob("one"))
    (disk.ollama.root / "blobs/sha256-12-partial").write_bytes(b"x" * 9000)
    alias = disk.home.root / "alias"
    alias.symlink_to(disk.ollama.root)
    stores = Stores(ollama=(disk.ollama.root, alias))
    facts = disk.facts(stores=stores)
    plan = make_plan(facts, EVERYTHING)
    assert [item.holder.kind for item in plan.others] == [HolderKind.PARTIAL, HolderKind.MODEL]
    carry_out(facts, plan.others)


def test_an_unreadable_manifest_may_need_any_blob(disk: Disk) -> None:
    manifest = disk.ollama.add(
        "registry.ollama.ai/library/one/latest", model=disk.ollama.blob("one")
    )
    manifest.with_name("odd").write_text("{")
    assert disk.plan() == Plan()


def test_a_link_in_our_folder_keeps_the_blob_that_it_leads_to(disk: Disk) -> None:
    link = disk.cache.add("org/a", "c0ffee", "a.gguf")
    other = disk.home.models_dir / "mine" / "other-name.gguf"
    other.parent.mkdir()
    other.symlink_to(link)
    assert disk.plan() == Plan(), "either one alone frees nothing"
    (disk.home.models_dir / "notes").symlink_to(link)
    other.unlink()
    assert disk.plan() == Plan(), "also a link that is no model"


def test_a_file_in_the_settings_stays(disk: Disk) -> None:
    blob = disk.cache.add("org/a", "c0ffee", "a.gguf").resolve()
    assert disk.plan(named_files=(blob,)) == Plan()
    disk.settings = {"given": ModelSettings(path=blob)}
    assert disk.plan() == Plan()


def test_models_of_folders_that_are_only_read_stay(disk: Disk, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.gguf").write_bytes(disk.home.model("x2.gguf").read_bytes())
    catalog = disk.home.scan(model_dirs=(other,))
    facts = survey(catalog, msgspec.structs.replace(disk.given, model_dirs=(other,)), _files)
    assert [item.holder.name for item in make_plan(facts, EVERYTHING).own] == ["x2"]


def test_an_lm_studio_model_goes_as_files(disk: Disk) -> None:
    path = disk.home.root / "lm/pub/repo/m.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(disk.home.model("other.gguf").read_bytes())
    assert disk.delete(keep={"other": "it is loaded"}) == ["m"]
    assert not list((disk.home.root / "lm").iterdir())


def test_unfinished_files_of_other_programs_go_after_a_day(disk: Disk) -> None:
    link = disk.cache.add("org/a", "c0ffee", "a.gguf")
    unfinished = link.resolve().with_name("1234.incomplete")
    unfinished.write_bytes(b"x" * 5000)
    assert disk.plan(Wish(), now=disk.given.now - 10 * DAY) == Plan()
    assert disk.delete(Wish()) == [str(unfinished)]


def test_a_folder_that_cannot_be_written_to_keeps_its_files(disk: Disk) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = disk.home.model("org/a.gguf").parent
    folder.chmod(0o555)
    try:
        assert disk.plan() == Plan()
    finally:
        folder.chmod(0o755)


def test_a_file_that_has_changed_is_not_deleted(disk: Disk) -> None:
    path = disk.home.model("a.gguf")
    facts = disk.facts()
    path.write_bytes(b"another")
    done = delete_entries([path], facts.entries, disk.home.models_dir)
    assert done == Deleted(0, f"{path} cannot be deleted: it has changed")
    assert path.exists()


def test_a_folder_that_has_become_a_link_is_not_followed(disk: Disk) -> None:
    path = disk.home.model("org/a.gguf")
    facts = disk.facts()
    path.parent.rename(disk.home.root / "elsewhere")
    path.parent.symlink_to(disk.home.root / "elsewhere")
    done = delete_entries([path], facts.entries, disk.home.models_dir)
    assert "its folder has become a link" in done.problem
    assert path.exists()


def _age(folder: Path) -> None:
    status = folder.stat()
    os.utime(folder, (status.st_atime, status.st_mtime - 2 * DAY))

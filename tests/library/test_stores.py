"""Models of other programs: found in place, named, and left alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConflictError, ModelNotFoundError
from cyber_inference_tui.library.catalog import Catalog, Origin
from cyber_inference_tui.library.stores import Stores, StoreScan, find_stores
from cyber_inference_tui.settings.schema import ModelSettings
from tests.gguf.headers import write_gguf
from tests.library.conftest import PROJECTOR, Home


class HubCache:
    """A cache like that of the Hugging Face tools."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, repo: str, commit: str, name: str, *, ref: bool = True) -> Path:
        folder = self.root / f"models--{repo.replace('/', '--')}"
        blob = write_gguf(folder / "blobs" / hashlib.sha256((repo + name).encode()).hexdigest())
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        if ref:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs/main").write_text(commit)
        return link


class Ollama:
    """A directory of models like Ollama's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(
        self, name: str, content: bytes | None = None, metadata: Mapping[str, object] | None = None
    ) -> str:
        digest = hashlib.sha256(name.encode()).hexdigest()
        path = self.root / "blobs" / f"sha256-{digest}"
        if content is None:
            write_gguf(path, metadata)
        else:
            path.write_bytes(content)
        return f"sha256:{digest}"

    def add(self, manifest: str, **layers: str) -> Path:
        path = self.root / "manifests" / manifest
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 1}
            for kind, digest in layers.items()
        ]
        path.write_text(json.dumps({"schemaVersion": 2, "layers": found}))
        return path


def scan(
    home: Home, *, hub: Path | None = None, lm: Path | None = None, ol: Path | None = None
) -> Catalog:
    stores = Stores(
        hub_caches=(hub,) if hub else (),
        lm_studio=(lm,) if lm else (),
        ollama=(ol,) if ol else (),
    )
    return home.scan(stores=stores)


def test_the_hub_cache_is_read_in_place(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    link = cache.add("org/Tiny-GGUF", "c0ffee", "Tiny-Q4_K_M.gguf")
    catalog = scan(home, hub=cache.root)
    model = catalog.models["Tiny-Q4_K_M"]
    assert (model.path, model.origin, model.removable) == (link, Origin.HUB_CACHE, False)
    assert catalog.problems == ()


def test_only_the_current_commit_counts(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    cache.add("org/tiny", "old", "Old-Q8_0.gguf", ref=False)
    cache.add("org/tiny", "new", "New-Q8_0.gguf")
    assert list(scan(home, hub=cache.root).models) == ["New-Q8_0"]
    (cache.root / "models--org--tiny/refs/main").unlink()
    os.utime(cache.root / "models--org--tiny/snapshots/old", (2e9, 2e9))
    assert list(scan(home, hub=cache.root).models) == ["Old-Q8_0"]


def test_missing_files_and_other_files_are_problems(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    cache.add("org/a", "1", "Gone-Q8_0.gguf").resolve().unlink()
    cache.add("org/b", "1", "Text-Q8_0.gguf").resolve().write_bytes(b"words, words")
    cache.add("org/c", "1", "Part-00001-of-00002.gguf")
    catalog = scan(home, hub=cache.root)
    assert not catalog.models
    reasons = {Path(one.where).name: one.reason for one in catalog.problems}
    assert "gone" in reasons["Gone-Q8_0.gguf"]
    assert "not a GGUF file" in reasons["Text-Q8_0.gguf"]
    assert "missing" in reasons["Part-00001-of-00002.gguf"]


def test_lm_studio(home: Home) -> None:
    root = home.root / "lm"
    write_gguf(root / "maker/Tiny-GGUF/Tiny-Q4_K_M.gguf")
    write_gguf(root / "maker/Tiny-GGUF/mmproj-F16.gguf", PROJECTOR)
    model = scan(home, lm=root).models["Tiny-Q4_K_M"]
    assert model.origin is Origin.LM_STUDIO
    assert model.mmproj == root / "maker/Tiny-GGUF/mmproj-F16.gguf"


def test_ollama_models_have_the_names_that_ollama_gives_them(home: Home) -> None:
    store = Ollama(home.root / "ollama")
    blob = store.blob("a")
    store.add("hub.example/library/llama3.2/3b", model=blob, template=blob)
    store.add("hub.example/library/gemma/latest", model=store.blob("b"))
    store.add("hub.example/somebody/own/7b", model=store.blob("c"))
    catalog = scan(home, ol=store.root)
    assert list(catalog.models) == ["gemma", "llama3.2:3b", "somebody/own:7b"]
    model = catalog.models["llama3.2:3b"]
    assert model.path == store.root / "blobs" / blob.replace(":", "-")
    assert model.origin is Origin.OLLAMA
    assert model.metadata is not None
    assert model.metadata.architecture == "llama"


def test_an_ollama_model_has_its_projector(home: Home) -> None:
    store = Ollama(home.root / "ollama")
    projector = store.blob("p", metadata=PROJECTOR)
    store.add("h/library/see/latest", model=store.blob("a"), projector=projector)
    store.add("h/library/blind/latest", model=store.blob("b"), projector=store.blob("x", b"no"))
    catalog = scan(home, ol=store.root)
    assert catalog.models["see"].mmproj == store.root / "blobs" / projector.replace(":", "-")
    assert catalog.models["blind"].mmproj is None
    assert len(catalog.problems) == 1


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"layers": 5}', b"\xff" * 100, b"[" * 9000]
)
def test_damaged_manifests_are_problems(home: Home, content: bytes) -> None:
    store = Ollama(home.root / "ollama")
    store.add("h/library/good/latest", model=store.blob("a"))
    store.add("h/library/bad/latest", model=store.blob("b")).write_bytes(content)
    catalog = scan(home, ol=store.root)
    assert list(catalog.models) == ["good"]
    assert len(catalog.problems) == 1


def test_manifests_cannot_lead_elsewhere(home: Home) -> None:
    store = Ollama(home.root / "ollama")
    write_gguf(home.root / "secret.gguf")
    store.add("h/library/bad/latest", model="sha256:../../secret.gguf")
    store.add("h/library/remote/latest", license="sha256:" + "a" * 64)
    catalog = scan(home, ol=store.root)
    assert not catalog.models
    assert [Path(one.where).parent.name for one in catalog.problems] == ["bad"]
    with pytest.raises(ModelNotFoundError, match="its weights is gone"):
        catalog.resolve("bad")


def test_our_own_model_keeps_the_plain_id(home: Home) -> None:
    home.model("Tiny-Q8_0.gguf")
    cache = HubCache(home.root / "hub")
    cache.add("org/tiny", "1", "Tiny-Q8_0.gguf")
    write_gguf(home.root / "lm/maker/tiny/Tiny-Q8_0.gguf")
    catalog = scan(home, hub=cache.root, lm=home.root / "lm")
    assert {name: model.origin for name, model in catalog.models.items()} == {
        "Tiny-Q8_0": Origin.MODELS_DIR,
        "org/tiny/Tiny-Q8_0": Origin.HUB_CACHE,
        "maker/tiny/Tiny-Q8_0": Origin.LM_STUDIO,
    }


def test_a_file_that_is_here_anyway_is_one_model(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    link = cache.add("org/tiny", "1", "Tiny-Q8_0.gguf")
    (home.models_dir / "mine.gguf").symlink_to(link)
    assert list(scan(home, hub=cache.root).models) == ["mine"]


def test_settings_hold_for_them(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    cache.add("org/tiny", "1", "Tiny-Q8_0.gguf")
    table = {"tiny-q8_0": ModelSettings(aliases=("t",), context_size=5)}
    catalog = home.scan(stores=Stores(hub_caches=(cache.root,)), model_settings=table)
    assert catalog.resolve("t").settings.context_size == 5
    assert catalog.problems == ()


@pytest.mark.parametrize("where", ["hub", "lm", "ollama"])
def test_nothing_of_theirs_is_deleted(home: Home, where: str) -> None:
    cache = HubCache(home.root / "hub")
    cache.add("org/tiny", "1", "A-Q8_0.gguf")
    write_gguf(home.root / "lm/maker/tiny/B-Q8_0.gguf")
    store = Ollama(home.root / "ollama")
    store.add("h/library/c/latest", model=store.blob("a"))
    library = home.library(
        stores=Stores((cache.root,), (home.root / "lm",), (store.root,)),
    )
    catalog = library.scan()
    names = {"hub": "A-Q8_0", "lm": "B-Q8_0", "ollama": "c"}
    words = {"hub": "Hugging Face", "lm": "LM Studio", "ollama": "ollama rm"}
    before = sorted(home.root.rglob("*"))
    with pytest.raises(ConflictError, match=words[where]):
        library.delete(catalog, names[where])
    assert sorted(home.root.rglob("*")) == before


def test_changes_are_seen_and_rest_costs_a_look_at_the_directories(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    store = Ollama(home.root / "ollama")
    first = cache.add("org/a", "1", "A-Q8_0.gguf")
    store.add("h/library/b/latest", model=store.blob("b"))
    later = first.lstat().st_mtime_ns + 10**12
    looks = StoreScan(Stores((cache.root,), (), (store.root,)), clock=lambda: later)
    found = looks.look()
    assert looks.look() is found
    cache.add("org/a", "1", "B-Q8_0.gguf")
    changed = looks.look()
    assert len(changed.files) == 2
    cache.add("org/new", "1", "C-Q8_0.gguf")
    assert len(looks.look().files) == 3
    cache.add("org/new", "2", "D-Q8_0.gguf")
    assert {file.path.name for file in looks.look().files} >= {"D-Q8_0.gguf"}
    store.add("h/library/b/7b", model=store.blob("c"))
    assert len(looks.look().ollama) == 2


def test_changes_that_directories_do_not_show_are_found_after_a_minute(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    blob = cache.add("org/a", "1", "A-Q8_0.gguf").resolve()
    now = [0.0]
    looks = StoreScan(Stores((cache.root,)), clock=lambda: 2**62, timer=lambda: now[0])
    assert len(looks.look().files) == 1
    blob.unlink()
    now[0] = 61.0
    assert looks.look().files == ()


def test_a_store_that_is_too_slow_is_reported(home: Home) -> None:
    cache = HubCache(home.root / "hub")
    cache.add("org/a", "1", "A-Q8_0.gguf")
    ticks = iter(range(0, 10**6, 4))
    looks = StoreScan(Stores((cache.root,), (home.root / "lm",)), timer=lambda: float(next(ticks)))
    assert "slow" in looks.look().problems[0].reason


def test_the_places_by_default() -> None:
    stores = find_stores({"HOME": "/h"}, system=Path("/s"))
    assert stores.hub_caches == (Path("/h/.cache/huggingface/hub"),)
    assert stores.lm_studio == (Path("/h/.lmstudio/models"), Path("/h/.cache/lm-studio/models"))
    assert stores.ollama == (
        Path("/h/.ollama/models"),
        Path("/s/usr/share/ollama/.ollama/models"),
    )


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HUB_CACHE": " ", "HF_HOME": "", "XDG_CACHE_HOME": '"/c"'}, "/c/huggingface/hub"),
    ],
)
def test_their_own_variables_count(environ: dict[str, str], cache: str) -> None:
    assert find_stores({"HOME": "/h", **environ}).hub_caches == (Path(cache),)
    assert find_stores({"OLLAMA_MODELS": "/o", "HOME": "/h"}).ollama == (Path("/o"),)


def test_without_a_home_there_is_nothing() -> None:
    for environ in ({}, {"HOME": ""}, {"HOME": "relative"}, {"HOME": "", "HF_HOME": " "}):
        assert find_stores(environ) == Stores()


def test_stores_that_do_not_exist_are_no_problem(home: Home) -> None:
    nowhere = home.root / "nowhere"
    catalog = scan(home, hub=nowhere, lm=nowhere, ol=nowhere)
    assert (dict(catalog.models), catalog.problems) == ({}, ())


def test_a_deletion_tidies_the_folder_that_it_empties(home: Home) -> None:
    home.model("org/a/A-Q8_0.gguf")
    home.model("org/b/B-Q8_0.gguf")
    (home.models_dir / "org/b/notes.txt").write_text("mine")
    library = home.library()
    library.delete(library.scan(), "A-Q8_0")
    library.delete(library.scan(), "B-Q8_0")
    assert sorted(path.name for path in home.models_dir.rglob("*")) == ["b", "notes.txt", "org"]
    (home.models_dir / "org/b/notes.txt").unlink()
    home.model("org/b/B-Q8_0.gguf")
    library.delete(library.scan(), "B-Q8_0")
    assert list(home.models_dir.iterdir()) == []

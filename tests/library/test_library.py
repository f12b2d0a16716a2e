"""Ids, shards, projectors, tables, deletion: the rules of the contract on real files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConflictError, ModelNotFoundError
from cyber_inference_tui.library import headers
from cyber_inference_tui.settings.schema import ModelSettings
from tests.gguf.headers import tensors, write_gguf
from tests.library.conftest import PROJECTOR, Home

# Ids


def test_two_files_of_one_name_get_their_directory(home: Home) -> None:
    home.model("Name.gguf")
    home.model("sub/Name.gguf")
    home.model("x/y/Name.gguf")
    home.model("x/Other.gguf")
    assert home.ids() == ["Name", "Other", "sub/Name", "x/y/Name"]


def test_one_name_in_two_model_directories(home: Home, tmp_path: Path) -> None:
    home.model("Name.gguf")
    write_gguf(tmp_path / "more" / "Name.gguf")
    write_gguf(tmp_path / "again" / "more" / "Name.gguf")
    catalog = home.scan(model_dirs=[tmp_path / "more", tmp_path / "again" / "more"])
    assert list(catalog.models) == ["Name", "more/Name"]
    assert not catalog.models["more/Name"].removable
    (problem,) = catalog.problems
    assert problem.where == str(tmp_path / "again" / "more" / "Name.gguf")


def test_no_model_has_the_id_of_a_log_of_the_services_own(home: Home) -> None:
    home.model("service.gguf")
    home.model("sub/install.gguf")
    home.model("other.gguf")
    assert home.ids() == ["models/service", "other", "sub/install"]
    tables = {
        "install": ModelSettings(command=("serve", "{port}")),
        "models/service": ModelSettings(aliases=("s",)),
        "service": ModelSettings(path=home.models_dir / "other.gguf"),
    }
    catalog = home.scan(model_settings=tables)
    assert catalog.models["models/service"].aliases == ("s",)
    for model_id in ("install", "service"):
        problem = catalog.models[model_id].problem
        assert problem is not None
        assert "another name" in problem


def test_when_a_model_was_written_is_known(home: Home) -> None:
    path, projector = home.model("a.gguf"), home.projector("mmproj-a.gguf")
    os.utime(path, ns=(1, 5_000))
    os.utime(projector, ns=(1, 4_000))
    assert home.scan().models["a"].modified == 5_000
    os.utime(projector, ns=(1, 6_000))
    assert home.scan().models["a"].modified == 6_000
    other = home.root / "other.gguf"
    other.touch()
    os.utime(other, ns=(1, 7_000))
    tables = {"a": ModelSettings(mmproj=other)}
    assert home.scan(model_settings=tables).models["a"].modified == 7_000


# Shards


def test_shards_are_one_model(home: Home) -> None:
    paths = home.shards("big-Q4_K_M", 3)
    model = home.scan().models["big-Q4_K_M"]
    assert model.problem is None
    assert model.path == paths[0]
    assert model.shards == tuple(paths)
    assert model.size_bytes == sum(path.stat().st_size for path in paths)
    assert model.metadata is not None
    assert model.metadata.parameters == 3 * 256


@pytest.mark.parametrize(("gone", "named"), [(0, "number 1"), (2, "number 3")])
def test_a_missing_shard_is_named(home: Home, gone: int, named: str) -> None:
    home.shards("big", 3)[gone].unlink()
    model = home.scan().models["big"]
    assert model.problem is not None
    assert "1 of its 3 files are missing" in model.problem
    assert named in model.problem
    assert (model.metadata is None) is (gone == 0)


def test_many_missing_shards(home: Home) -> None:
    home.model("big-00001-of-99999.gguf", {"split.no": 0, "split.count": 99999})
    problem = home.scan().models["big"].problem
    assert problem is not None
    assert "2, 3, 4, 5, 6, 7, 8, 9 and 99990 more" in problem


def test_a_damaged_shard_is_named(home: Home) -> None:
    paths = home.shards("big", 2)
    paths[1].write_bytes(paths[1].read_bytes()[:-50])
    problem = home.scan().models["big"].problem
    assert problem is not None
    assert problem.startswith("big-00002-of-00002.gguf: it is cut short")


def test_shards_whose_headers_disagree(home: Home) -> None:
    home.model("mixed-00001-of-00002.gguf", {"split.no": 0, "split.count": 2})
    home.model("mixed-00002-of-00002.gguf", {"split.no": 0, "split.count": 2})
    home.model("renamed.gguf", {"split.no": 1, "split.count": 2})
    models = home.scan().models
    assert models["mixed"].problem is not None
    assert models["renamed"].problem is not None
    assert "NAME-00002-of-00002.gguf" in models["renamed"].problem


def test_numbers_that_are_no_shards(home: Home) -> None:
    home.model("odd-00003-of-00002.gguf")
    assert home.ids() == ["odd-00003-of-00002"]


# Projectors


def test_a_projector_goes_with_its_neighbour(home: Home) -> None:
    home.model("v/Vision-Q4_K_M.gguf")
    projector = home.projector("v/mmproj-F16.gguf")
    home.model("t/Text.gguf")
    catalog = home.scan()
    assert list(catalog.models) == ["Text", "Vision-Q4_K_M"]
    vision = catalog.models["Vision-Q4_K_M"]
    assert vision.mmproj == projector
    assert vision.path is not None
    assert vision.size_bytes == vision.path.stat().st_size + projector.stat().st_size
    assert catalog.models["Text"].mmproj is None
    assert not catalog.problems


def test_a_file_named_as_a_projector_is_no_model(home: Home) -> None:
    home.model("v/Vision-Q4_K_M.gguf")
    home.model("v/mmproj-F16.gguf")
    catalog = home.scan()
    assert list(catalog.models) == ["Vision-Q4_K_M"]
    assert catalog.models["Vision-Q4_K_M"].mmproj is None
    (problem,) = catalog.problems
    assert "named as a projector" in problem.reason


def test_one_projector_for_all_quantizations_the_best_of_several(home: Home) -> None:
    home.model("v/Vision-Q4_K_M.gguf")
    home.model("v/Vision-Q8_0.gguf")
    for number, name in ((0, "F32"), (1, "F16"), (32, "BF16")):
        home.projector(f"v/mmproj-{name}.gguf", {"general.file_type": number})
    chosen = {model.mmproj for model in home.scan().models.values()}
    assert chosen == {home.models_dir / "v" / "mmproj-F16.gguf"}


def test_among_different_models_only_names_and_headers_decide(home: Home) -> None:
    home.model("Gemma-4b-it-Q4_K_M.gguf")
    home.model("Qwen-VL-7B-Q4_K_M.gguf")
    home.model("Plain.gguf", {"general.name": "Plain"})
    home.projector("mmproj-Qwen-VL-7B-f16.gguf")
    home.projector("Gemma-4b-it-mmproj.gguf")
    home.projector("mmproj-f16.gguf")
    chosen = {
        model_id: model.mmproj.name if model.mmproj else None
        for model_id, model in home.scan().models.items()
    }
    assert chosen == {
        "Gemma-4b-it-Q4_K_M": "Gemma-4b-it-mmproj.gguf",
        "Qwen-VL-7B-Q4_K_M": "mmproj-Qwen-VL-7B-f16.gguf",
        "Plain": None,
    }


def test_a_projector_that_does_not_fit_is_nobodys(home: Home) -> None:
    home.model("Small.gguf")
    home.projector("mmproj.gguf", {"clip.vision.projection_dim": 9999})
    catalog = home.scan()
    assert catalog.models["Small"].mmproj is None
    assert "without a certain model" in catalog.problems[0].reason


def test_a_broken_projector_is_no_model(home: Home) -> None:
    home.model("Small.gguf")
    (home.models_dir / "mmproj-x.gguf").write_bytes(b"GGUF")
    catalog = home.scan()
    assert list(catalog.models) == ["Small"]
    assert "projector" in catalog.problems[0].reason


# Tables


def test_a_table_belongs_to_its_id_but_for_the_case(home: Home) -> None:
    home.model("Name.gguf")
    catalog = home.scan(model_settings={"name": ModelSettings(pinned=True, aliases=("gpt-4",))})
    assert list(catalog.models) == ["Name"]
    assert catalog.models["Name"].settings.pinned
    assert catalog.resolve("GPT-4").id == "Name"


def test_tables_with_a_path_or_a_command(home: Home, tmp_path: Path) -> None:
    outside = write_gguf(tmp_path / "outside" / "m.gguf")
    weights = tmp_path / "weights"
    weights.mkdir()
    catalog = home.scan(
        model_settings={
            "far": ModelSettings(path=outside),
            "org/other": ModelSettings(command=("vllm", "{port}")),
            "folder": ModelSettings(path=weights, command=("vllm", "{path}")),
            "gone": ModelSettings(path=tmp_path / "gone.gguf"),
            "wrong": ModelSettings(path=weights),
            "typo": ModelSettings(pinned=True),
        }
    )
    models = catalog.models
    assert set(models) == {"far", "folder", "gone", "org/other", "wrong"}
    assert models["far"].path == outside
    assert models["far"].metadata is not None
    assert not models["far"].removable
    assert models["org/other"].path is None
    assert models["org/other"].problem is None
    assert models["folder"].path == weights
    assert models["folder"].problem is None
    assert "is missing" in (models["gone"].problem or "")
    assert "is a directory" in (models["wrong"].problem or "")
    (problem,) = catalog.problems
    assert problem.where == '[models."typo"]'


def test_a_path_to_one_shard_means_them_all(home: Home, tmp_path: Path) -> None:
    paths = home.shards("big", 2)
    far = tmp_path / "far"
    far.mkdir()
    moved = [path.rename(far / path.name) for path in paths]
    model = home.scan(model_settings={"b": ModelSettings(path=moved[1])}).models["b"]
    assert model.shards == tuple(moved)
    assert model.problem is None


def test_a_path_to_a_file_that_has_this_id_anyway_is_one_model(home: Home) -> None:
    path = home.model("Name.gguf")
    settings = {"Name": ModelSettings(path=path), "nick": ModelSettings(path=Path("Name.gguf"))}
    catalog = home.scan(model_settings=settings)
    assert list(catalog.models) == ["Name", "nick"]
    assert catalog.models["nick"].path == path


def test_the_table_of_auto_has_only_aliases(home: Home, tmp_path: Path) -> None:
    home.model("auto.gguf")
    names = ModelSettings(aliases=("default",))
    catalog = home.scan(model_settings={"auto": names})
    assert list(catalog.models) == ["models/auto"]
    assert (catalog.auto_aliases, catalog.problems) == (("default",), ())
    more = ModelSettings(aliases=("default",), pinned=True)
    catalog = home.scan(model_settings={"auto": more})
    assert catalog.auto_aliases == ("default",)
    assert not catalog.models["models/auto"].settings.pinned
    (problem,) = catalog.problems
    assert problem.where == '[models."auto"]'
    (home.models_dir / "auto.gguf").rename(home.models_dir / "Auto.gguf")
    catalog = home.scan(model_settings={"auto": names})
    assert list(catalog.models) == ["Auto"]
    assert catalog.is_auto("default")
    assert not catalog.models["Auto"].aliases
    outside = write_gguf(tmp_path / "outside" / "m.gguf")
    catalog = home.scan(model_settings={"auto": ModelSettings(path=outside)})
    assert "another name" in str(catalog.models["auto"].problem)


def test_a_projector_from_the_table(home: Home, tmp_path: Path) -> None:
    home.model("Name.gguf")
    projector = write_gguf(tmp_path / "p.gguf", PROJECTOR)
    found = home.scan(model_settings={"Name": ModelSettings(mmproj=projector)}).models["Name"]
    assert found.mmproj == projector
    projector.unlink()
    lost = home.scan(model_settings={"Name": ModelSettings(mmproj=projector)}).models["Name"]
    assert lost.problem is not None
    assert "projector" in lost.problem


def test_models_that_the_program_brings(home: Home, tmp_path: Path) -> None:
    demo = write_gguf(tmp_path / "data" / "demo.gguf")
    home.model("demo.gguf")
    catalog = home.scan(extra={"demo": demo}, model_settings={"demo": ModelSettings(pinned=True)})
    assert catalog.models["demo"].path == demo
    assert catalog.models["demo"].settings.pinned
    assert list(catalog.models) == ["demo", "models/demo"]
    assert not catalog.models["demo"].removable


# Changes


def test_new_removed_and_changed_files_are_noticed(home: Home) -> None:
    library = home.library()
    assert not library.scan().models
    path = home.model("a.gguf")
    assert list(library.scan().models) == ["a"]
    write_gguf(path, {"llama.context_length": 1})
    metadata = library.scan().models["a"].metadata
    assert metadata is not None
    assert metadata.context_length == 1
    path.unlink()
    assert not library.scan().models


def test_unchanged_files_give_the_same_catalog_and_are_not_read_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        home.model(f"d{number % 3}/m{number}.gguf")
    (home.models_dir / "bad.gguf").write_bytes(b"bad")
    cache = home.root / "headers.json"
    later = time.time_ns() + 60 * 10**9
    library = home.library(cache_file=cache, clock=lambda: later)
    first = library.scan()
    read: list[Path] = []
    monkeypatch.setattr(headers, "read_metadata", read.append)
    assert library.scan() is first
    assert home.scan(cache_file=cache, clock=lambda: later) == first
    assert not read


def test_a_file_that_changed_just_now_is_read_again(home: Home) -> None:
    path = home.model("a.gguf")
    changed = path.stat().st_mtime_ns
    cache = home.root / "headers.json"
    library = home.library(cache_file=cache, clock=lambda: changed + 1000)
    assert library.scan().models["a"].problem is None
    # The same size and, by a coarse clock, the same time.
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(changed, changed))
    assert library.scan().models["a"].problem is not None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"version":99,"entries":{}}', b"\xff"])
def test_a_damaged_cache_file_is_replaced(home: Home, content: bytes) -> None:
    home.model("a.gguf")
    cache = home.root / "headers.json"
    cache.write_bytes(content)
    later = time.time_ns() + 60 * 10**9
    assert list(home.scan(cache_file=cache, clock=lambda: later).models) == ["a"]
    assert b"a.gguf" in cache.read_bytes()


def test_a_cache_that_cannot_be_written_is_done_without(home: Home) -> None:
    home.model("a.gguf")
    (home.root / "file").write_text("")
    assert home.ids(cache_file=home.root / "file" / "headers.json", clock=lambda: 0) == ["a"]


def test_other_directories_from_the_next_scan_on(home: Home, tmp_path: Path) -> None:
    home.model("a.gguf")
    write_gguf(tmp_path / "other" / "b.gguf")
    library = home.library()
    library.scan()
    library.reconfigure(models_dir=tmp_path / "other")
    assert list(library.scan().models) == ["b"]


# Deletion


def test_deleting_removes_all_files_of_the_model(home: Home) -> None:
    paths = home.shards("v/big", 2)
    projector = home.projector("v/mmproj.gguf")
    keep = home.model("keep.gguf")
    library = home.library()
    removed = library.delete(library.scan(), "BIG")
    assert set(removed) == {*paths, projector}
    assert list(library.scan().models) == ["keep"]
    assert keep.exists()
    assert not projector.exists()


def test_a_projector_in_use_stays(home: Home) -> None:
    home.model("v/m-Q4_0.gguf")
    home.model("v/m-Q8_0.gguf")
    projector = home.projector("v/mmproj.gguf")
    library = home.library()
    library.delete(library.scan(), "m-Q4_0")
    assert projector.exists()
    library.delete(library.scan(), "m-Q8_0")
    assert not projector.exists()


def test_only_files_under_models_dir_are_deleted(home: Home, tmp_path: Path) -> None:
    outside = write_gguf(tmp_path / "more" / "out.gguf")
    linked = write_gguf(tmp_path / "linked" / "in.gguf")
    (home.models_dir / "sub").symlink_to(tmp_path / "linked")
    library = home.library(
        model_dirs=[tmp_path / "more"],
        model_settings={"far": ModelSettings(path=outside)},
        extra={"demo": outside},
    )
    catalog = library.scan()
    for model_id in ("out", "in", "far", "demo"):
        with pytest.raises(ConflictError):
            library.delete(catalog, model_id)
    with pytest.raises(ModelNotFoundError):
        library.delete(catalog, "no such")
    assert outside.exists()
    assert linked.exists()


def test_a_directory_swapped_for_a_link_after_the_scan_saves_nobody(
    home: Home, tmp_path: Path
) -> None:
    home.model("sub/m.gguf")
    outside = write_gguf(tmp_path / "precious" / "m.gguf")
    library = home.library()
    catalog = library.scan()
    (home.models_dir / "sub").rename(tmp_path / "aside")
    (home.models_dir / "sub").symlink_to(tmp_path / "precious")
    with pytest.raises(ConflictError):
        library.delete(catalog, "m")
    assert outside.exists()


def test_a_link_is_deleted_and_not_its_target(home: Home, tmp_path: Path) -> None:
    outside = write_gguf(tmp_path / "blob")
    link = home.models_dir / "m.gguf"
    link.symlink_to(outside)
    library = home.library()
    assert library.delete(library.scan(), "m") == (link,)
    assert outside.exists()


def test_a_file_of_two_models_is_not_deleted(home: Home) -> None:
    path = home.model("m.gguf")
    library = home.library(model_settings={"nick": ModelSettings(path=path)})
    with pytest.raises(ConflictError, match="nick"):
        library.delete(library.scan(), "m")


def test_a_thousand_models(home: Home) -> None:
    source = write_gguf(home.root / "source", weights=tensors())
    for number in range(1000):
        folder = home.models_dir / f"d{number % 20}"
        folder.mkdir(exist_ok=True)
        (folder / f"m{number}.gguf").hardlink_to(source)
    later = time.time_ns() + 60 * 10**9
    cache = home.root / "headers.json"
    first = home.scan(cache_file=cache, clock=lambda: later)
    assert len(first.models) == 1000
    assert home.scan(cache_file=cache, clock=lambda: later) == first


# Where models come from


def test_models_have_the_origin_of_their_directory(home: Home, tmp_path: Path) -> None:
    home.model("a.gguf")
    write_gguf(tmp_path / "more" / "b.gguf")
    elsewhere = write_gguf(tmp_path / "elsewhere.gguf")
    demo = write_gguf(tmp_path / "demo" / "demo.gguf")
    tables = {
        "named": ModelSettings(path=elsewhere),
        "inside": ModelSettings(path=Path("a.gguf")),
        "gone": ModelSettings(path=tmp_path / "gone.gguf"),
        "other": ModelSettings(command=("serve", "{port}")),
    }
    catalog = home.scan(model_dirs=[tmp_path / "more"], model_settings=tables, extra={"demo": demo})
    assert {model_id: model.origin.value for model_id, model in catalog.models.items()} == {
        "a": "models_dir",
        "b": "model_dirs",
        "demo": "demo",
        "gone": "settings",
        "inside": "models_dir",
        "named": "settings",
        "other": "settings",
    }

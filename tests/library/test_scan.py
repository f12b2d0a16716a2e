"""Scans of directories: odd names, links, loops, unfinished downloads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.settings.schema import ModelSettings
from tests.gguf.headers import write_gguf
from tests.library.conftest import Home


def reasons(home: Home) -> dict[str, str]:
    return {Path(problem.where).name: problem.reason for problem in home.scan().problems}


def test_models_in_subdirectories_go_by_their_names(home: Home) -> None:
    home.model("a-Q4_K_M.gguf")
    home.model("org/repo/B.GGUF")
    assert home.ids() == ["B", "a-Q4_K_M"]


def test_unfinished_downloads_are_no_models(home: Home) -> None:
    for name in ("a.gguf.part", "b.gguf.incomplete", ".c.gguf", "d.part", "e.gguf.tmp"):
        home.model(name)
    home.model(".cache/huggingface/f.gguf")
    home.model("aria.gguf")
    (home.models_dir / "aria.gguf.aria2").write_bytes(b"")
    assert home.ids() == []
    assert "being downloaded" in reasons(home)["aria.gguf"]


def test_a_cut_short_file_is_listed_with_the_reason(home: Home) -> None:
    path = home.model("a.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    (home.models_dir / "b.gguf").write_bytes(b"")
    models = home.scan().models
    assert models["a"].problem is not None
    assert "cut short" in models["a"].problem
    assert models["b"].problem == "it is not a GGUF file"


def test_other_files_are_recognized(home: Home) -> None:
    home.model("lora.gguf", {"general.type": "adapter"})
    home.model("some.imatrix.gguf", {"general.type": "imatrix"})
    write_gguf(home.models_dir / "vocab.gguf", weights=[])
    (home.models_dir / "imatrix-old.gguf").write_bytes(b"not a header")
    (home.models_dir / "notes.txt").write_text("gguf")
    assert home.ids() == []
    found_reasons = reasons(home)
    assert "adapter" in found_reasons["lora.gguf"]
    assert "importance" in found_reasons["some.imatrix.gguf"]
    assert "importance" in found_reasons["imatrix-old.gguf"]
    assert "no weights" in found_reasons["vocab.gguf"]


def test_links_are_followed_and_loops_end(home: Home, tmp_path: Path) -> None:
    write_gguf(tmp_path / "elsewhere" / "linked.gguf")
    (home.models_dir / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(home.models_dir)
    (home.models_dir / "self").symlink_to(home.models_dir)
    home.model("sub/real.gguf")
    (home.models_dir / "again").symlink_to(home.models_dir / "sub")
    (home.models_dir / "gone.gguf").symlink_to(tmp_path / "nothing")
    (home.models_dir / "ring.gguf").symlink_to(home.models_dir / "ring.gguf")
    catalog = home.scan()
    assert list(catalog.models) == ["linked", "real"]
    assert catalog.models["real"].path == home.models_dir / "sub" / "real.gguf"
    assert not catalog.models["linked"].removable
    assert catalog.models["real"].removable
    assert "gone" in reasons(home)["gone.gguf"]
    assert "ring.gguf" in reasons(home)


def test_a_cache_with_revisions_holds_each_file_once(home: Home) -> None:
    blob = home.model("blobs/abc")
    for revision in ("r1", "r2"):
        folder = home.models_dir / "snapshots" / revision
        folder.mkdir(parents=True)
        (folder / "m.gguf").symlink_to(blob)
    (home.models_dir / "nickname.gguf").symlink_to(blob)
    assert home.ids() == ["m", "nickname"]


def test_odd_names(home: Home) -> None:
    home.model("tab\there\x1b[31m.gguf")
    home.model("line\nbreak.gguf")
    home.model("ünïcode 模型.gguf")
    home.model("\u202eevil.gguf")
    (home.models_dir / os.fsdecode(b"bad\xff.gguf")).write_bytes(b"GGUF")
    catalog = home.scan()
    assert set(catalog.models) == {"evil", "linebreak", "tab    here", "ünïcode 模型"}
    assert all(model_id.isprintable() for model_id in catalog.models)
    (problem,) = catalog.problems
    assert "UTF-8" in problem.reason
    assert problem.where.endswith("bad\\xff.gguf")


def test_pipes_and_folders_named_like_models(home: Home) -> None:
    os.mkfifo(home.models_dir / "pipe.gguf")
    home.model("folder.gguf/inner.gguf")
    assert home.ids() == ["inner"]
    assert "regular" in reasons(home)["pipe.gguf"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_may_not_be_read_is_a_problem(home: Home) -> None:
    home.model("shut/a.gguf")
    (home.models_dir / "shut").chmod(0)
    try:
        assert "Permission" in reasons(home)["shut"]
    finally:
        (home.models_dir / "shut").chmod(0o700)


def test_missing_directories(home: Home, tmp_path: Path) -> None:
    home.models_dir.rmdir()
    catalog = home.scan(model_dirs=[tmp_path / "not there"])
    assert not catalog.models
    (problem,) = catalog.problems
    assert problem.where == str(tmp_path / "not there")


def test_directories_within_each_other_are_read_once(home: Home) -> None:
    home.model("sub/a.gguf")
    dirs = [home.models_dir / "sub", home.root, home.models_dir]
    catalog = home.scan(model_dirs=dirs)
    assert list(catalog.models) == ["a"]
    assert catalog.models["a"].removable


def test_files_that_users_take_for_models_are_reported(home: Home) -> None:
    for name in (
        "alone.gguf.part",
        "both.gguf.crdownload",
        "Cut.Q8_0.gguf.part1of2",
        "Cut2.Q8_0.part1of2",
        "old.gguf-split-a",
        "pytorch_model.bin",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "readme.md",
        "config.json",
        "engine/weights.safetensors",
    ):
        path = home.models_dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    home.model("both.gguf")
    table = ModelSettings(path=home.models_dir / "engine", command=("serve", "{path}"))
    found_reasons = {
        Path(one.where).name: one.reason for one in home.scan(model_settings={"e": table}).problems
    }
    assert set(found_reasons) == {
        "alone.gguf.part",
        "both.gguf",
        "Cut.Q8_0.gguf.part1of2",
        "Cut2.Q8_0.part1of2",
        "old.gguf-split-a",
        "pytorch_model.bin",
        "model-00001-of-00002.safetensors",
    }
    assert "unfinished" in found_reasons["alone.gguf.part"]
    assert "cat" in found_reasons["Cut.Q8_0.gguf.part1of2"]
    assert "not in GGUF format" in found_reasons["pytorch_model.bin"]


def test_a_pointer_of_git_lfs_is_recognized(home: Home) -> None:
    (home.models_dir / "p.gguf").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
    )
    assert "git lfs pull" in (home.scan().models["p"].problem or "")


@pytest.mark.parametrize(
    ("name", "asked", "reason"),
    [
        ("lora.gguf", "lora", "adapter"),
        ("lora.gguf", "LoRA.gguf", "adapter"),
        ("sub/lora.gguf", "sub/lora", "adapter"),
        ("alone.gguf.part", "alone", "unfinished"),
        ("alone.gguf.part", "alone.gguf.part", "unfinished"),
        ("Cut.Q8_0.gguf.part1of2", "Cut.Q8_0", "piece"),
        ("Cut.Q8_0.part2of2", "Cut.Q8_0.part2of2", "piece"),
        ("pytorch_model.bin", "pytorch_model", "GGUF format"),
        ("bad\udcff.gguf", "bad\\xff", "UTF-8"),
        ("bad\udcff.gguf", "bad\ufffd", "UTF-8"),
        ("caf\udce9.gguf", "Café.gguf", "UTF-8"),
        ("Cut.Q8_0.gguf.002", "cut.q8_0.gguf", "piece"),
        ("packed.gguf.zip", "packed.gguf", "unpack"),
        ("packed.gguf.tar.gz", "packed", "unpack"),
        ("e\x1b[31mvil.gguf.part", "evil", "unfinished"),
    ],
)
def test_a_request_for_such_a_file_gets_the_reason(
    home: Home, name: str, asked: str, reason: str
) -> None:
    home.model("tiny.gguf")
    home.model(name, {"general.type": "adapter"})
    catalog = home.scan()
    with pytest.raises(ModelNotFoundError) as caught:
        catalog.resolve(asked)
    assert reason in caught.value.hint
    assert caught.value.hint.isprintable()
    assert str(home.models_dir) not in str(caught.value)
    assert all(one.where.isprintable() and one.reason.isprintable() for one in catalog.problems)


def test_a_request_for_the_file_of_an_unusable_model_gets_the_reason(home: Home) -> None:
    home.model("cut.gguf").write_bytes(b"GGUF" + b"\0" * 8)
    home.shards("parts", 3)[1].unlink()
    catalog = home.scan()
    for asked, reason in (
        ("cut.gguf", "not a GGUF file"),
        ("parts.gguf", "number 2"),
        ("parts-00003-of-00003.gguf", "number 2"),
    ):
        with pytest.raises(ModelNotFoundError, match=reason):
            catalog.resolve(asked)


def test_a_control_vector_is_no_model(home: Home) -> None:
    home.model("happy.gguf", {"general.architecture": "controlvector"})
    assert "--control-vector" in reasons(home)["happy.gguf"]
    assert not home.ids()


def test_a_request_for_a_broken_link_or_a_pipe_gets_the_reason(home: Home) -> None:
    (home.models_dir / "gone.gguf").symlink_to(home.root / "nothing")
    os.mkfifo(home.models_dir / "pipe.gguf")
    catalog = home.scan()
    with pytest.raises(ModelNotFoundError, match="symbolic link to a file that is gone"):
        catalog.resolve("gone")
    with pytest.raises(ModelNotFoundError, match="not a regular file"):
        catalog.resolve("pipe")

"""The model files that other boxes may copy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.errors import FileNotReadyError, NotFoundError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.service import shared_files as module
from cyber_inference_tui.service.shared_files import SharedFiles
from tests.waiting import until


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Box:
    """A box with models in a folder, and a count of the files that it has hashed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.models: dict[str, LocalModel] = {}
        self.hashed: list[str] = []
        hash_file = module._hashed

        def note(path: Path, *rest: object) -> object:
            self.hashed.append(path.name)
            return hash_file(path, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "_hashed", note)

    def add(self, name: str, content: bytes, **more: object) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        self.models[name] = LocalModel(
            id=name,
            path=path,
            shards=(path,),
            size_bytes=len(content),
            **more,  # type: ignore[arg-type]
        )
        return path

    def files(self) -> SharedFiles:
        return SharedFiles(self.folder, self.present)

    def present(self) -> Mapping[str, LocalModel]:
        return self.models


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, monkeypatch)


async def found(files: SharedFiles, digest: str, size: int) -> Path | None:
    """Ask until the box knows: the file, or ``None``."""

    async def look() -> list[Path | None]:
        try:
            return [await files.find(digest, size)]
        except NotFoundError:
            return [None]
        except FileNotReadyError:
            return []

    answers: list[Path | None] = []
    while not answers:
        answers = await look()
        if not answers:
            hashing = files._hashing
            assert hashing is not None
            await hashing
    return answers[0]


async def test_a_file_is_hashed_when_a_box_asks_for_its_size(box: Box) -> None:
    path = box.add("a.gguf", b"content")
    box.add("b.gguf", b"another")
    box.add("c.gguf", b"of another size")
    files = box.files()
    with pytest.raises(NotFoundError):
        await files.find(sha256(b"content"), 3)
    assert box.hashed == []
    with pytest.raises(FileNotReadyError):
        await files.find(sha256(b"content"), 7)
    assert await found(files, sha256(b"content"), 7) == path
    assert await found(files, sha256(b"no such"), 7) is None
    assert sorted(box.hashed) == ["a.gguf", "b.gguf"]
    # The next service knows them, until a file changes.
    again = box.files()
    assert await again.find(sha256(b"content"), 7) == path
    path.write_bytes(b"changed")
    os.utime(path, ns=(1, 1))
    assert await found(again, sha256(b"content"), 7) is None
    assert await found(again, sha256(b"changed"), 7) == path
    assert sorted(box.hashed) == ["a.gguf", "a.gguf", "b.gguf"]
    await files.close()
    await again.close()


async def test_a_digest_is_told_as_long_as_the_file_is_the_same(box: Box) -> None:
    path = box.add("a.gguf", b"content")
    files = box.files()
    await files.note({path: sha256(b"content")})
    again = box.files()
    model = msgspec.structs.replace(box.models["a.gguf"], modified=path.stat().st_mtime_ns)
    assert again.digest(model) is None
    await again.read()
    assert again.digest(model) == sha256(b"content")
    others = {"modified": 1}, {"size_bytes": 8}, {"shards": (path, path)}, {"path": None}
    for other in others:
        assert again.digest(msgspec.structs.replace(model, **other)) is None
    for one in (files, again):
        await one.close()


async def test_a_download_is_known_without_hashing(box: Box) -> None:
    path = box.add("a.gguf", b"content")
    projector = box.folder / "mmproj.gguf"
    projector.write_bytes(b"projector")
    box.models["a.gguf"] = LocalModel(
        id="a", path=path, shards=(path,), mmproj=projector, size_bytes=16
    )
    files = box.files()
    await files.note({path: sha256(b"content"), projector: None, box.folder / "gone": "0" * 64})
    assert await files.find(sha256(b"content"), 7) == path
    assert box.hashed == []
    assert await found(files, sha256(b"projector"), 9) == projector
    assert box.hashed == ["mmproj.gguf"]
    await files.close()


async def test_only_usable_models_are_shared(box: Box) -> None:
    box.add("broken.gguf", b"content", problem="it is no model")
    (box.folder / "secret").write_bytes(b"content")
    files = box.files()
    await files.note({box.folder / "secret": sha256(b"content")})
    assert await found(files, sha256(b"content"), 7) is None
    assert box.hashed == []


async def test_a_file_that_cannot_be_read_is_not_awaited(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = box.add("a.gguf", b"content")

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    files = box.files()
    with monkeypatch.context() as unreadable:
        unreadable.setattr(module, "_opened", refuse)
        assert await found(files, sha256(b"content"), 7) is None
    assert box.hashed == ["a.gguf"]
    assert await found(files, sha256(b"content"), 7) is None
    assert box.hashed == ["a.gguf"]
    # The failure is not kept.
    assert await found(box.files(), sha256(b"content"), 7) == path


async def test_the_end_stops_hashing(box: Box) -> None:
    box.add("a.gguf", b"content")
    files = box.files()
    with pytest.raises(FileNotReadyError):
        await files.find(sha256(b"content"), 7)
    await files.close()
    assert files._hashing is not None
    await until(files._hashing.done)


async def test_a_damaged_list_only_costs_time(box: Box) -> None:
    path = box.add("a.gguf", b"content")
    (box.folder / "digests.json").write_text("{")
    files = box.files()
    assert await found(files, sha256(b"content"), 7) == path
    await files.close()


async def test_hashing_is_no_use_of_a_model(box: Box) -> None:
    """Another program's model that nobody reads is a candidate for ``gc``."""
    path = box.add("a.gguf", b"abc")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    files = box.files()
    status = path.stat()
    key = {path: (status.st_size, status.st_mtime_ns)}
    assert await files.digests(key) == {}
    await files.settled()
    assert await files.digests(key) == {path: sha256(b"abc")}
    assert path.stat().st_atime == 1_000_000_000
    os.utime(path, (1_000_000_000, 1_000_000_001))
    status = path.stat()
    assert await files.digests({path: (status.st_size, status.st_mtime_ns)}) == {}
    await files.close()

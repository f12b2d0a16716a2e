"""Undo: to the byte, or by lines where the user has changed more."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.connect.client import JSON, ClientFile
from cyber_inference_tui.connect.connected import Connected, ConnectedRecord, reverted
from cyber_inference_tui.errors import ConflictError, CyberError, NotFoundError

ORIGINAL = '{\n  "a": 1, // one\n  "z": 26\n}'  # without an end of its last line


class World:
    """A client with one file, and a data directory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "home" / "client" / "settings.json"
        self.connected = Connected(folder / "data")

    def connect(self, url: str = "http://x", client: str = "one") -> ConnectedRecord:
        file = ClientFile(self.path, JSON, {"url": url, "z": 27})
        record = ConnectedRecord(client=client, url=url, model="m", at=datetime.now(UTC), files=())
        return self.connected.write(record, self.connected.planned(client, [file]))

    def undo(self, client: str = "one") -> None:
        self.connected.undo(client, self.connected.undoing(client))

    def edit(self, old: str, new: str) -> None:
        self.path.write_text(self.path.read_text().replace(old, new))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def filed(world: World) -> World:
    world.path.parent.mkdir(parents=True)
    world.path.write_text(ORIGINAL)
    world.path.chmod(0o640)
    return world


def test_undo_restores_every_byte_and_the_mode(filed: World) -> None:
    data = ORIGINAL.encode() + b" \xff\n"
    filed.path.write_bytes(b"// \xff\n" + ORIGINAL.encode())
    data = filed.path.read_bytes()
    record = filed.connect()
    assert b'"url": "http://x"' in filed.path.read_bytes()
    assert filed.path.read_bytes().startswith(b"// \xff\n")
    backup = filed.connected.backup("one", record.files[0])
    assert backup is not None
    assert backup.read_bytes() == data
    assert backup.stat().st_mode & 0o777 == 0o600
    filed.undo()
    assert filed.path.read_bytes() == data
    assert filed.path.stat().st_mode & 0o777 == 0o640
    assert not backup.parent.exists()
    with pytest.raises(NotFoundError, match="not connected"):
        filed.undo()


def test_a_new_file_is_private_and_goes_with_its_folders(world: World) -> None:
    world.connect()
    assert world.path.stat().st_mode & 0o777 == 0o600
    world.undo()
    assert not world.path.parent.parent.exists()


def test_folders_that_are_in_use_stay(world: World) -> None:
    world.connect()
    (world.path.parent / "history").write_text("")
    world.undo()
    assert [path.name for path in world.path.parent.iterdir()] == ["history"]


def test_connecting_again_keeps_the_original(filed: World) -> None:
    filed.connect()
    filed.connect("http://second")
    assert "second" in filed.path.read_text()
    filed.undo()
    assert filed.path.read_text() == ORIGINAL


def test_connecting_again_without_a_file_still_removes_it(world: World) -> None:
    world.connect()
    world.connect("http://second")
    world.undo()
    assert not world.path.parent.parent.exists()


def test_changes_of_the_user_stay(filed: World) -> None:
    filed.connect()
    filed.edit('"a": 1', '"a": 2')
    filed.connect("http://second")
    filed.edit("{\n", '{\n  "new": true,\n')
    filed.undo()
    assert filed.path.read_text() == ORIGINAL.replace('"a": 1', '"a": 2').replace(
        "{\n", '{\n  "new": true,\n'
    )


def test_what_was_changed_where_it_was_written_is_not_undone(filed: World) -> None:
    filed.connect()
    filed.edit("http://x", "http://mine")
    with pytest.raises(ConflictError, match=r"was changed where connect had written.*original is"):
        filed.undo()
    assert "http://mine" in filed.path.read_text()
    # Connecting again takes that for the original.
    filed.connect("http://second")
    filed.undo()
    assert "http://mine" in filed.path.read_text()


def test_a_file_that_was_deleted_stays_so(filed: World) -> None:
    filed.connect()
    filed.path.unlink()
    filed.undo()
    assert not filed.path.exists()


def test_an_interrupted_change_can_be_undone(filed: World) -> None:
    record = filed.connect()
    filed.path.write_text(ORIGINAL)  # as if it had been written never
    filed.undo()
    assert filed.path.read_text() == ORIGINAL
    assert record.files


def test_a_file_that_is_no_longer_needed_is_restored(filed: World, tmp_path: Path) -> None:
    second = tmp_path / "keys.json"
    second.write_text("{}\n")
    files = [ClientFile(path, JSON, {"url": "http://x"}) for path in (filed.path, second)]
    record = ConnectedRecord(
        client="one", url="http://x", model="m", at=datetime.now(UTC), files=()
    )
    filed.connected.write(record, filed.connected.planned("one", files))
    assert "http://x" in second.read_text()
    filed.connected.write(record, filed.connected.planned("one", files[:1]))
    assert second.read_text() == "{}\n"
    folder = tmp_path / "data/connect/one"
    assert sorted(path.name for path in folder.iterdir()) == ["0-settings.json", "connected.json"]
    filed.undo()
    assert filed.path.read_text() == ORIGINAL


def test_a_link_stays_one(filed: World, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.json"
    filed.path.rename(kept)
    filed.path.symlink_to(kept)
    filed.connect()
    assert filed.path.is_symlink()
    assert "http://x" in kept.read_text()
    filed.undo()
    assert filed.path.is_symlink()
    assert kept.read_text() == ORIGINAL


def test_two_clients_with_one_file(filed: World) -> None:
    filed.connect()
    filed.connect("http://two", client="two")
    filed.undo("two")
    filed.undo()
    assert filed.path.read_text() == ORIGINAL


def test_what_cannot_be_read_is_one_sentence(filed: World, tmp_path: Path) -> None:
    filed.connect()
    (tmp_path / "data/connect/one/connected.json").write_text("{")
    with pytest.raises(CyberError, match=r"connected\.json is damaged"):
        filed.undo()
    filed.path.unlink()
    filed.path.mkdir()
    (tmp_path / "data/connect/one/connected.json").unlink()
    with pytest.raises(CyberError, match="cannot be read: Is a directory"):
        filed.connect()


def test_the_difference_masks_keys(filed: World) -> None:
    file = ClientFile(filed.path, JSON, {"key": "sk-secret"})
    (change,) = filed.connected.planned("one", [file])
    lines = change.difference(["sk-secret"])
    assert '+  "key": "sk-…"' in lines
    assert not any("sk-secret" in line for line in lines)


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n"]), max_size=6)


@given(LINES, LINES)
def test_taking_back_from_what_was_written_gives_the_original(
    original: list[str], written: list[str]
) -> None:
    assert reverted("".join(original), "".join(written), "".join(written)) == "".join(original)


@given(LINES, LINES, LINES)
def test_lines_that_a_user_adds_around_stay(
    original: list[str], before: list[str], after: list[str]
) -> None:
    written = [*original, "ours\n", "too\n"]
    present = [*(f"!{line}" for line in before), *written, *(f"!{line}" for line in after)]
    assert reverted("".join(original), "".join(written), "".join(present)) == "".join(
        [*(f"!{line}" for line in before), *original, *(f"!{line}" for line in after)]
    )

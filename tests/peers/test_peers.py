"""The models of all boxes, while boxes come and go."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.peers.peers import Peers, is_same_file
from cyber_inference_tui.records.models import ModelRecord
from cyber_inference_tui.records.peers import PeerUpdate
from cyber_inference_tui.settings.schema import PeerSettings


async def _no_write(name: str, values: Mapping[str, Any] | None) -> None:
    raise AssertionError("nobody pairs")


async def test_the_models_of_a_box_are_unknown_as_soon_as_it_is_removed(tmp_path: Path) -> None:
    local: dict[str, object] = {}
    peers = Peers(
        tmp_path,
        write=_no_write,
        local=lambda: local,
        now=lambda: datetime.now(UTC),
        changed=lambda: None,
    )
    others = {"workstation": PeerSettings()}
    await peers.configure({**others, "jetson": PeerSettings(url="http://127.0.0.1:9")})
    peer = peers.peer("jetson")
    model = ModelRecord(id="two", aliases=("zwei",), size_bytes=1)
    preset = ModelRecord(id="two:long", preset_of="two", size_bytes=1)
    peer._take(PeerUpdate(version="1\x1b[2J", models=(model, preset)))
    assert peers.remotes()["two:long"].record.preset_of == "two"
    assert peers.remotes()["jetson/two:long"].record.preset_of == "jetson/two"
    assert "\x1b" not in str(peer.record().version)
    found = peers.find("ZWEI")
    assert found is not None
    assert found.boxes == ("jetson",)
    seen: list[object] = []
    peer.on_lost.add(lambda: seen.append(peers.find("ZWEI")))
    await peers.configure(others)
    assert seen
    assert set(seen) == {None}
    await peers.close()


def test_files_are_the_same_by_their_facts_unless_their_digests_differ() -> None:
    model = ModelRecord(id="m", size_bytes=1, architecture="llama", quantization="Q4_K_M")
    known = {one: msgspec.structs.replace(model, sha256=one * 64) for one in ("a", "b")}
    assert is_same_file(model, model)
    assert is_same_file(model, known["a"])
    assert is_same_file(known["a"], known["a"])
    assert not is_same_file(known["a"], known["b"])
    assert not is_same_file(model, msgspec.structs.replace(model, size_bytes=2))

"""The changes of other boxes that are published."""

from __future__ import annotations

from datetime import UTC, datetime

from cyber_inference_tui.peers.changes import PeerChanges
from cyber_inference_tui.records.models import ModelRecord, ModelStatus
from cyber_inference_tui.records.peers import PeerChange, PeerRecord, PeerState
from cyber_inference_tui.service.change_notifier import ChangeNotifier
from cyber_inference_tui.service.events import EventBus

HEARD = datetime(2026, 1, 31, 12, tzinfo=UTC)
ONE, TWO = ModelRecord(id="one"), ModelRecord(id="two")


def box(*models: ModelRecord, state: PeerState = PeerState.CONNECTED) -> PeerRecord:
    return PeerRecord(name="jetson", state=state, models=models, heard_at=HEARD)


def bare(state: PeerState = PeerState.CONNECTED) -> PeerRecord:
    return PeerRecord(name="jetson", state=state)


def test_only_models_that_changed_are_repeated() -> None:
    changes = PeerChanges()
    assert changes.take([box(ONE, TWO)]) == [
        PeerChange(name="jetson", box=bare(), models=(ONE, TWO))
    ]
    loaded = ModelRecord(id="two", status=ModelStatus.LOADED)
    assert changes.take([box(ONE, loaded)]) == [
        PeerChange(name="jetson", box=bare(), models=(loaded,))
    ]
    assert changes.take([box(loaded, state=PeerState.STALE)]) == [
        PeerChange(name="jetson", box=bare(PeerState.STALE), gone=("one",))
    ]


def test_a_heartbeat_without_news_is_no_change() -> None:
    changes = PeerChanges()
    changes.take([box(ONE)])
    assert changes.take([PeerRecord(name="jetson", state=PeerState.CONNECTED, models=(ONE,))]) == []


def test_a_box_that_was_removed_and_comes_back_is_whole_again() -> None:
    changes = PeerChanges()
    changes.take([box(ONE)])
    assert changes.take([]) == [PeerChange(name="jetson")]
    assert changes.take([box(ONE)]) == [PeerChange(name="jetson", box=bare(), models=(ONE,))]


async def test_a_change_that_nobody_reads_is_a_part_of_the_next_event() -> None:
    boxes = [box(ONE)]
    bus = EventBus()
    notifier = ChangeNotifier(bus, record=lambda _: None, boxes=lambda: boxes)
    notifier.peers_changed()
    notifier.flush()
    assert bus.rings["peers"].end == 0
    bus.expect_reader("peers")
    boxes[0] = box(ONE, TWO)
    notifier.peers_changed()
    notifier.flush()
    notifier.peers_changed()
    notifier.flush()
    (event,) = bus.subscribe({"peers"}, after=bus.first_id - 1).take()
    assert event.data == PeerChange(name="jetson", box=bare(), models=(ONE, TWO))

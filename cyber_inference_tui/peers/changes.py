"""The changes on other boxes since the last event about them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cyber_inference_tui.records.models import ModelRecord
from cyber_inference_tui.records.peers import PeerChange, PeerRecord


class PeerChanges:
    """Compares the boxes with what ``take`` has returned before."""

    def __init__(self) -> None:
        self._boxes: dict[str, PeerRecord] = {}
        """Without their models, and without the time at which they were heard of."""
        self._models: dict[str, dict[str, ModelRecord]] = {}

    def take(self, records: Iterable[PeerRecord]) -> list[PeerChange]:
        """Return what is new in ``records``, which are all boxes."""
        found: list[PeerChange] = []
        present = {record.name: record for record in records}
        for name in self._boxes.keys() - present.keys():
            del self._boxes[name], self._models[name]
            found.append(PeerChange(name=name))
        for name, record in present.items():
            box = msgspec.structs.replace(record, models=(), heard_at=None)
            known = self._models.get(name, {})
            models = {model.id: model for model in record.models}
            new = tuple(model for model in record.models if known.get(model.id) != model)
            gone = tuple(known.keys() - models.keys())
            if new or gone or self._boxes.get(name) != box:
                found.append(PeerChange(name=name, box=box, models=new, gone=gone))
            self._boxes[name], self._models[name] = box, models
        return found

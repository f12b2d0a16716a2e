"""A busy world whose selected model has a draft and LoRA adapters."""

from __future__ import annotations

import msgspec

from cyber_inference_tui.records import (
    AdapterRecord,
    DraftRecord,
    DraftTotals,
    FileRecord,
    MemoryPart,
    ModelDetails,
    RequestRecord,
)
from tests.fakes.service import World
from tests.tui.world import MIB, busy_world

QWEN = "qwen3-4b-q4_k_m"
DRAFTED = DraftTotals(
    tokens_drafted=51_204,
    tokens_accepted=36_118,
    tokens_per_second_p50=30.2,
    undrafted_tokens_per_second_p50=21.3,
)
HEAD = DraftRecord(
    kind="draft-eagle3",
    name="eagle3-Qwen3-4B",
    files=(FileRecord(path="/models/Qwen3-4B-GGUF/eagle3-Qwen3-4B.gguf", size_bytes=412 * MIB),),
)
ADAPTERS = (
    AdapterRecord(
        id=0,
        name="legal-german-v2",
        path="/models/Qwen3-4B-GGUF/legal-german-v2.gguf",
        size_bytes=66 * MIB,
        scale=0.8,
        initial_scale=0.8,
    ),
    AdapterRecord(
        id=1,
        name="terse",
        path="/models/Qwen3-4B-GGUF/terse.gguf",
        size_bytes=33 * MIB,
        scale=0.0,
        initial_scale=0.0,
    ),
)


def companions_world(**changes: object) -> World:
    """Return the world; ``changes`` are those of the model's details."""
    world = busy_world()
    details: ModelDetails = world.details[QWEN]
    with_all: dict[str, object] = {"draft": HEAD, "drafted": DRAFTED, "adapters": ADAPTERS}
    with_all["memory"] = tuple(
        msgspec.structs.replace(row, parts=(*row.parts, MemoryPart(name="draft", size_bytes=MIB)))
        for row in details.memory
    )
    world.details[QWEN] = msgspec.structs.replace(details, **(with_all | changes))
    qwen, *others = world.speed_totals["model"]
    world.speed_totals["model"] = [msgspec.structs.replace(qwen, drafted=DRAFTED), *others]
    newest: RequestRecord = world.requests[0]
    world.requests[0] = msgspec.structs.replace(
        newest, tokens_out=412, tokens_drafted=600, tokens_accepted=288
    )
    return world

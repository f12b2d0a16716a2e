"""The capabilities of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.service.capabilities import capabilities_of
from cyber_inference_tui.settings.schema import Settings
from tests.scheduler.virtual import model

EYE = ProjectorFacts(kind="x", vision=True, audio=False, width=8)
EAR = ProjectorFacts(kind="x", vision=False, audio=True, width=8)


def can(
    header: dict[str, Any],
    own: dict[str, Any] | None = None,
    projector: ProjectorFacts | None = None,
    template: TemplateFacts | None = None,
) -> str:
    one = msgspec.structs.replace(
        model("m", **(own or {})),
        metadata=ModelMetadata(**header),
        mmproj=Path("mmproj.gguf") if projector else None,
        projector_facts=projector,
    )
    return " ".join(capabilities_of(one, resolve(one, Settings()), template))


@pytest.mark.parametrize(
    ("header", "own", "expected"),
    [
        ({}, {}, "completion"),
        ({"template": TemplateFacts()}, {}, "completion chat"),
        (
            {"template": TemplateFacts(tools=True, thinking=True), "infill": True},
            {},
            "completion chat tools thinking infill",
        ),
        ({"architecture": "bert"}, {}, "embeddings"),
        ({"architecture": "bert", "pooling": "rank"}, {}, "rerank"),
        ({"template": TemplateFacts(tools=True)}, {"args": ("--embedding",)}, "embeddings"),
        ({"template": TemplateFacts(tools=True)}, {"args": ("--reranking",)}, "rerank"),
        ({"template": TemplateFacts(tools=True)}, {"command": ("x",)}, ""),
    ],
)
def test_capabilities_by_the_header_and_the_settings(
    header: dict[str, Any], own: dict[str, Any], expected: str
) -> None:
    assert can(header, own) == expected


def test_a_projector_adds_the_sense_that_it_has() -> None:
    assert can({}, projector=EYE) == "completion vision"
    assert can({}, projector=EAR) == "completion audio"


def test_the_template_of_the_server_counts_more_than_that_of_the_file() -> None:
    header = {"template": TemplateFacts(tools=True)}
    assert can(header, template=TemplateFacts(thinking=True)) == "completion chat thinking"


def test_an_unreadable_file_has_no_capabilities() -> None:
    one = msgspec.structs.replace(model("m"), problem="it is cut short")
    assert capabilities_of(one, resolve(one, Settings())) == ()

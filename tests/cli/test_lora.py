"""``lora``: the adapters of a model and their strengths."""

from __future__ import annotations

import json

import msgspec
import pytest

from cyber_inference_tui.records import AdapterRecord, ModelDetails, ModelRecord
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn

MODEL = ModelRecord(id="other")
ADAPTERS = (
    AdapterRecord(
        id=0,
        name="law\x1b[31m",
        path="/l/law.gguf",
        size_bytes=66 << 20,
        scale=0.75,
        initial_scale=0,
    ),
    AdapterRecord(id=1, name="terse", path="/l/terse.gguf", scale=0),
)


@pytest.fixture
def at(stand_in: StandIn) -> list[str]:
    """The options that point to the stand-in."""
    return ["--port", str(stand_in.port)]


@pytest.fixture
def details(stand_in: StandIn) -> str:
    """The path of the details of a model with adapters."""
    path = f"/admin/models/{MODEL.id}/details"
    found = ModelDetails(model=MODEL, adapters=ADAPTERS)
    stand_in.answers["GET", path] = msgspec.to_builtins(found)
    return path


def test_adapters_are_listed_with_their_strengths(
    call: CommandLine, at: list[str], details: str
) -> None:
    assert call("lora", MODEL.id, *at).out.splitlines() == [
        "NUMBER  ADAPTER      SIZE  STRENGTH  AT START",
        "     0  law      66.0 MiB      0.75         0",
        "     1  terse           -         0         -",
    ]
    listed = json.loads(call("lora", MODEL.id, "--json", *at).out)
    assert [one["path"] for one in listed] == ["/l/law.gguf", "/l/terse.gguf"]


def test_a_strength_is_changed(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    changed = [msgspec.to_builtins(msgspec.structs.replace(ADAPTERS[1], scale=0.5))]
    stand_in.answers["POST", f"/admin/models/{MODEL.id}/lora"] = changed
    assert call("lora", MODEL.id, "1", "0.5", *at).out.splitlines()[1].split()[-2:] == ["0.5", "-"]
    assert json.loads(stand_in.requests[-1][3]) == {"id": 1, "scale": 0.5}
    assert call("lora", *at, "--", MODEL.id, "1", "-1").code == 0
    assert json.loads(stand_in.requests[-1][3]) == {"id": 1, "scale": -1.0}


def test_a_model_without_adapters(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    found = msgspec.to_builtins(ModelDetails(model=MODEL))
    stand_in.answers["GET", f"/admin/models/{MODEL.id}/details"] = found
    outcome = call("lora", MODEL.id, *at)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == "The model has no LoRA adapters.\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["0"], "Give the strength behind the adapter's number"),
        (["x", "1"], "NUMBER"),
        (["0", "5000"], "STRENGTH"),
    ],
)
def test_a_wrong_command_line(
    call: CommandLine, at: list[str], words: list[str], problem: str
) -> None:
    outcome = call("lora", "m", *words, *at)
    assert outcome.code == 2
    assert problem in outcome.err

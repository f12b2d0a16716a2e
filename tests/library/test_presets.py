"""The presets of models, under their names."""

from __future__ import annotations

from typing import Any

import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.library.catalog import Catalog
from cyber_inference_tui.settings.schema import ModelSettings, RequestRules
from tests.library.conftest import Home

LONG = {"context_size": 32768}
EXACT = {"request_defaults": {"temperature": 0}}


def scan(home: Home, **tables: dict[str, Any]) -> Catalog:
    for name in tables:
        home.model(f"{name}.gguf")
    return home.scan(model_settings={name: ModelSettings(**own) for name, own in tables.items()})


def test_one_that_changes_the_server_is_a_model_of_its_own(home: Home) -> None:
    here = scan(home, m={"threads": 2, "pinned": True, "presets": {"long": LONG}})
    base, long = here.models["m"], here.models["m:long"]
    assert list(here.models) == ["m", "m:long"]
    assert (long.preset_of, long.path, long.metadata) == ("m", base.path, base.metadata)
    assert (long.settings.context_size, long.settings.threads) == (32768, 2)
    assert (base.settings.context_size, base.preset_of) == (None, "")
    assert here.resolve("M:Long") is here.resolve("m:long:latest") is long


def test_one_that_changes_only_requests_is_an_alias_with_rules(home: Home) -> None:
    table = {"request_defaults": {"top_k": 1}, "presets": {"exact": EXACT, "plain": {}}}
    here = scan(home, m=table)
    model = here.models["m"]
    assert list(here.models) == ["m"]
    assert model.aliases == ("m:exact", "m:plain")
    assert here.resolve("m:exact") is model
    merged = RequestRules(request_defaults={"top_k": 1, "temperature": 0})
    assert model.request_rules("m:exact") == model.request_rules("M:EXACT:latest") == merged
    assert model.request_rules("m:plain") == model.request_rules("m") == model.request_rules(None)


def test_an_alias_leads_to_presets_too(home: Home) -> None:
    here = scan(home, m={"aliases": ("q",), "presets": {"long": LONG, "exact": EXACT}})
    assert here.resolve("q:long").id == "m:long"
    assert here.resolve("q:exact").request_rules("q:exact").request_defaults == {"temperature": 0}
    assert here.models["m:long"].aliases == ("q:long",)


@pytest.mark.parametrize("preset", [LONG, EXACT])
def test_the_name_of_a_model_comes_first(home: Home, preset: dict[str, Any]) -> None:
    tables: dict[str, dict[str, Any]] = {
        "m": {"presets": {"taken": preset}},
        "other": {"aliases": ("m:taken", "x")},
    }
    here = scan(home, **tables)
    assert here.resolve("m:taken").id == "other"
    (problem,) = here.problems
    assert problem.where == '[models."m".presets.taken]'
    assert problem.reason == "m:taken is already the name of a model"
    id_first = scan(home, m={"presets": {"taken": preset}}, **{"m:taken": {}})
    assert id_first.models["m:taken"].preset_of == ""


def test_a_preset_has_no_files_to_delete(home: Home) -> None:
    library = home.library(
        model_settings={"m": ModelSettings(presets={"long": dict(LONG), "exact": dict(EXACT)})}
    )
    path = home.model("m.gguf")
    here = library.scan()
    with pytest.raises(ConflictError, match="m:long is a preset of m and has no files"):
        library.delete(here, "m:long")
    assert library.delete(here, "m") == (path,)


def test_a_command_has_presets_too(home: Home) -> None:
    table = ModelSettings(command=("a",), presets={"b": {"command": ("b",)}})
    here = home.scan(model_settings={"c": table})
    assert here.models["c:b"].settings.command == ("b",)

"""Lookups of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.library.catalog import Catalog, LocalModel, spelling
from cyber_inference_tui.settings.schema import ModelSettings, RequestRules


def catalog(**aliases: tuple[str, ...]) -> Catalog:
    return Catalog({name: LocalModel(id=name, aliases=more) for name, more in aliases.items()})


def test_ids_and_aliases_exactly_then_without_case() -> None:
    here = catalog(Qwen=("gpt-4o", "Straße"), qwen=(), Llama=("L3",))
    assert here.resolve("Qwen").id == "Qwen"
    assert here.resolve("qwen").id == "qwen"
    assert here.resolve("gpt-4o").id == "Qwen"
    assert here.resolve("STRASSE").id == "Qwen"
    assert here.resolve("l3").id == "Llama"
    assert here.resolve("LLAMA").id == "Llama"


def test_names_with_the_tag_of_ollama() -> None:
    here = catalog(**{"Qwen": ("gpt",), "qwen": (), "a:latest": (), "b": (), "b:latest": ()})
    assert here.resolve("Qwen:latest").id == "Qwen"
    assert here.resolve("qwen:latest").id == "qwen"
    assert here.resolve("GPT:Latest").id == "Qwen"
    assert here.resolve("a").id == "a:latest"
    assert here.resolve("b:latest").id == "b:latest"
    assert here.resolve("b").id == "b"
    assert here.is_auto("auto:latest")
    for name in ("Qwen:8b", "Qwen:", ":latest", "Qwen:latest:latest"):
        with pytest.raises(ModelNotFoundError):
            here.resolve(name)


def test_an_alias_with_the_tag_has_its_own_rules() -> None:
    table = {"fast": RequestRules(request_defaults={"top_k": 1})}
    made = LocalModel(id="m", aliases=("fast",), settings=ModelSettings(aliases=table))
    assert made.request_rules("fast:latest").request_defaults == {"top_k": 1}
    assert made.request_rules("m:latest").request_defaults == {}


def test_the_same_letters_composed_otherwise() -> None:
    here = Catalog({"caf\u00e9": LocalModel(id="caf\u00e9")})
    assert here.resolve("cafe\u0301").id == "caf\u00e9"


def test_names_that_differ_only_in_case_are_ambiguous() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        catalog(Qwen=(), qwen=()).resolve("QWEN")
    assert "Qwen, qwen" in caught.value.message


def test_the_spelling_of_a_name() -> None:
    names = ("B", "b", "C", "caf\u00e9")
    assert [spelling(name, names) for name in ("b", "c", "CAFE\u0301", "d", "")] == [
        "b",
        "C",
        "caf\u00e9",
        None,
        None,
    ]


def test_an_unknown_name_is_shown_on_one_line() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        Catalog({}).resolve("a\n\x1b[31mb")
    assert caught.value.message == 'There is no model "a\\n\\x1b[31mb".'


def test_an_unknown_name_is_answered_by_nobody() -> None:
    here = catalog(**{"Qwen3-4B-Q4_K_M": (), "Llama": ()})
    for name in ("Qwen3-4B", "Qwen3-4B-Q4_K", "Qwen3-4B-Q4_K_M ", "", "other"):
        with pytest.raises(ModelNotFoundError):
            here.resolve(name)
    with pytest.raises(ModelNotFoundError) as caught:
        here.resolve("qwen3-4b")
    assert "Qwen3-4B-Q4_K_M" in caught.value.hint
    assert caught.value.message == 'There is no model "qwen3-4b".'
    with pytest.raises(ModelNotFoundError) as caught:
        Catalog({}).resolve("x")
    assert "--demo" in caught.value.hint


def test_only_names_that_are_close_are_suggested() -> None:
    here = catalog(gone=(), tiny=("gpt-4o",), **{"Qwen3-4B-Q4_K_M": ()})
    hints = {}
    for name in ("nope", "tinny", "gpt4o", "Qwen3-4B-Q8_0"):
        with pytest.raises(ModelNotFoundError) as caught:
            here.resolve(name)
        hints[name] = caught.value.hint
    assert hints == {
        "nope": "All models: GET /v1/models, or `cyber-inference-tui list-models`.",
        "tinny": "Near it: tiny.",
        "gpt4o": "Near it: tiny.",
        "Qwen3-4B-Q8_0": "Near it: Qwen3-4B-Q4_K_M.",
    }


def test_a_claimed_alias_is_nobodys() -> None:
    here = catalog(a=("x", "b", "mine"), b=("x",))
    assert here.models["a"].aliases == ("mine",)
    assert here.models["b"].aliases == ()
    assert here.resolve("b").id == "b"
    with pytest.raises(ModelNotFoundError, match="several models claim it: a, b"):
        here.resolve("x")
    assert [problem.where for problem in here.problems] == ['alias "b"', 'alias "x"']


def test_long_and_odd_names_are_answered_briefly() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        catalog(a=()).resolve("\x1b[31mx\ud800" + "y" * 1_000_000)
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.lists(st.text(max_size=5)), max_size=5))
def test_every_name_that_is_kept_leads_to_its_model(names: dict[str, list[str]]) -> None:
    here = catalog(**{name: tuple(aliases) for name, aliases in names.items()})
    assert set(here.models) == set(names)
    for model in here.models.values():
        assert here.resolve(model.id) is model
        for alias in model.aliases:
            assert here.resolve(alias) is model


def test_names_of_auto() -> None:
    models = {"a": LocalModel(id="a", aliases=("auto", "x")), "Big": LocalModel(id="Big")}
    here = Catalog(models, auto_aliases=("default", "a", "x", "Best", "big"))
    for name in ("auto", "AUTO", "default", "Default", "Best", "best", "big"):
        assert here.is_auto(name), name
    for name in ("a", "A", "x", "Big", "BIG", "automatic", "", "auto" * 5000):
        assert not here.is_auto(name), name
    assert here.auto_aliases == ("Best", "big", "default")
    assert {problem.where for problem in here.problems} == {
        'alias "a"',
        'alias "auto"',
        'alias "x"',
    }
    assert here != Catalog(models, auto_aliases=("default",))
    with pytest.raises(ModelNotFoundError):
        here.resolve("auto")
    for wrong, near in (("best-one", "auto"), ("defaults", "auto"), ("bigg", "Big")):
        with pytest.raises(ModelNotFoundError) as caught:
            here.resolve(wrong)
        assert f"Near it: {near}." in str(caught.value)
    with pytest.raises(ModelNotFoundError, match="only for requests"):
        here.resolve("Default")

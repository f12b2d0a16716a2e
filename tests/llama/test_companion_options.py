"""The options, files and memory of drafts and adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.gguf.memory_estimate import state_bytes
from cyber_inference_tui.gguf.metadata import ModelMetadata, RecurrentFacts
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import Adapter, Draft, DraftKind
from cyber_inference_tui.llama.binary import LlamaBinary, examine
from cyber_inference_tui.llama.command import llama_argv
from cyber_inference_tui.llama.companion_options import (
    adapter_options,
    companion_flags,
    draft_options,
)
from cyber_inference_tui.llama.confinement import confinement
from cyber_inference_tui.llama.need_estimate import formula_need, memory_parts
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings

HELP = """\
--lora-scaled FNAME:SCALE,...           path to LoRA adapter with user defined scaling
--spec-draft-model, -md, --model-draft FNAME
                                        draft model
--spec-type none,draft-simple,draft-mtp,ngram-mod
                                        comma-separated list of types
"""
FLAGS = frozenset({"--model-draft", "--spec-type", *companion_flags(HELP)})
OLD = frozenset({"--model-draft", "--lora-scaled"})
"""A build before the kinds of drafts, whose --lora-scaled takes two words."""
NGRAMS = OLD | {"--spec-type", *companion_flags("--spec-type [none|ngram-cache]")}

FACTS = ModelMetadata(
    architecture="llama",
    vocabulary=1000,
    layers=4,
    embedding_length=256,
    feed_forward_length=512,
    heads=4,
    kv_heads=(4,) * 4,
    key_length=64,
    value_length=64,
    context_length=4096,
)
SMALL = Draft(
    kind=DraftKind.MODEL,
    name="small",
    files=(Path("/d/small-1.gguf"), Path("/d/small-2.gguf")),
    size_bytes=1 << 20,
    metadata=FACTS,
)
INSIDE = Draft(
    kind=DraftKind.MTP,
    name="m",
    metadata=msgspec.structs.replace(FACTS, predict_layers=1),
)
EAGLE = Draft(
    kind=DraftKind.EAGLE3, name="eagle3-m", files=(Path("/m/e.gguf"),), metadata=ModelMetadata()
)
STYLE = Adapter(name="style", path=Path("/l/style.gguf"), size_bytes=7000, scale=0.0)
LAW = Adapter(name="law", path=Path("/l/law.gguf"), size_bytes=3000, scale=0.25)


def spec(found: Draft | None = SMALL, *adapters: Adapter, **own: Any) -> ServerSpec:
    model = LocalModel(
        id="m",
        path=Path("/m/m.gguf"),
        shards=(Path("/m/m.gguf"),),
        size_bytes=8 << 20,
        metadata=FACTS,
        draft=found,
        adapters=adapters,
        settings=ModelSettings(**{"draft": "auto", **own}),
    )
    return resolve(model, Settings())


def test_the_files_of_a_server_are_also_those_of_its_draft_and_adapters() -> None:
    own = Path("/m/m.gguf")
    assert spec(EAGLE, STYLE, LAW).files == (own, *EAGLE.files, STYLE.path, LAW.path)
    assert spec(EAGLE, draft="off").files == (own,)
    assert spec(EAGLE, args=("--model-draft", "/d/x.gguf")).files == (own,)
    assert spec(None).files == (own,)


def argv(one: ServerSpec, flags: frozenset[str] = FLAGS) -> list[str]:
    return llama_argv(one, program="x", flags=flags, host="h", port=1, available_bytes=0)


def test_the_kinds_in_the_help_of_a_build() -> None:
    assert companion_flags(HELP) == {
        "--lora-scaled FNAME:SCALE",
        *(f"--spec-type {kind}" for kind in ("none", "draft-simple", "draft-mtp", "ngram-mod")),
    }
    older = "--spec-type [none|ngram-cache]\n--lora-scaled FNAME SCALE\n"
    assert companion_flags(older) == {"--spec-type none", "--spec-type ngram-cache"}
    assert companion_flags("--lora FNAME\n") == set()


@pytest.mark.parametrize(
    ("draft", "flags", "words"),
    [
        (SMALL, FLAGS, ["--spec-type", "draft-simple", "--model-draft", "/d/small-1.gguf"]),
        (INSIDE, FLAGS, ["--spec-type", "draft-mtp"]),
        (SMALL, OLD, ["--model-draft", "/d/small-1.gguf"]),
        (INSIDE, OLD, []),
        (EAGLE, FLAGS, []),
        (SMALL, frozenset(), []),
        # The kinds of that build draft without a model, and only if no model is given.
        (SMALL, NGRAMS, ["--model-draft", "/d/small-1.gguf"]),
        (INSIDE, NGRAMS, []),
        (None, FLAGS, []),
    ],
)
def test_a_draft_has_only_options_that_the_build_knows(
    draft: Draft | None, flags: frozenset[str], words: list[str]
) -> None:
    assert draft_options(draft, flags) == words


def test_adapters_are_one_list_in_their_order() -> None:
    found = adapter_options((STYLE, LAW), FLAGS)
    assert found == ["--lora-scaled", "/l/style.gguf:0,/l/law.gguf:0.25"]
    assert adapter_options((STYLE, LAW), OLD) == []
    assert adapter_options((), FLAGS) == []


def test_the_command_line_has_both() -> None:
    words = argv(spec(SMALL, LAW))
    assert words[words.index("--model-draft") + 1] == "/d/small-1.gguf"
    assert words[words.index("--lora-scaled") + 1] == "/l/law.gguf:0.25"


@pytest.mark.parametrize(
    "own",
    [
        {"draft": "off"},
        {"args": ("-md", "/other.gguf")},
        {"args": ("--spec-type=ngram-mod",)},
        {"env": {"LLAMA_ARG_SPEC_TYPE": "ngram-mod"}},
    ],
)
def test_no_draft_if_it_is_off_or_the_arguments_decide(own: dict[str, Any]) -> None:
    assert spec(**own).draft is None
    assert "draft-simple" not in argv(spec(**own))


def test_another_draft_or_strength_is_another_server() -> None:
    plain = spec(None).signature
    signatures = {plain, spec().signature, spec(INSIDE).signature, spec(None, STYLE).signature}
    signatures.add(
        spec(None, Adapter(name="s", path=STYLE.path, size_bytes=7000, scale=1)).signature
    )
    assert len(signatures) == 5
    # What was measured without companions is still valid.
    assert spec(SMALL, draft="off").signature == plain


def test_a_confined_server_may_read_both() -> None:
    binary = LlamaBinary(
        path=Path("/b"), version="1", flags=frozenset({"--list-devices"}), libraries=()
    )
    found = confinement(spec(SMALL, STYLE), binary, {}, Path("/c"))
    assert found is not None
    assert {*SMALL.files, STYLE.path} <= set(found.read)
    without = confinement(spec(None), binary, {}, Path("/c"))
    assert without is not None
    assert SMALL.files[0] not in without.read


def test_the_memory_of_both_is_counted() -> None:
    plain, full = memory_parts(spec(None)), memory_parts(spec(SMALL, STYLE, LAW))
    assert (plain.draft, plain.adapters) == (0, 0)
    assert full.adapters == 10_000
    # A context of its own, as large as the model's.
    assert full.draft == SMALL.size_bytes + plain.kv_cache + plain.compute
    assert full.total == plain.total + full.draft + full.adapters


def test_the_memory_of_prediction_layers_is_that_of_one_layer_and_its_inputs() -> None:
    plain, inside = memory_parts(spec(None)), memory_parts(spec(INSIDE))
    inputs = 3 * 256 * 512 * 4
    cache = plain.kv_cache // 4
    assert cache + inputs < inside.draft <= cache + inputs + plain.compute


def test_a_head_keeps_the_states_of_a_recurrent_model_for_each_drafted_token() -> None:
    states = RecurrentFacts(conv_kernel=4, inner_size=512, state_size=64, group_count=4)
    facts = msgspec.structs.replace(FACTS, architecture="mamba", recurrent=states)

    def drafts(tokens: int) -> int:
        found = spec(INSIDE, args=("--parallel", "2", "--spec-draft-n-max", str(tokens)))
        return memory_parts(msgspec.structs.replace(found, metadata=facts)).draft

    assert drafts(8) - drafts(3) == 5 * state_bytes(facts, 2) > 0


@pytest.mark.parametrize(
    ("devices", "place"), [((), "host"), (("CUDA0",), "device")], ids=["host", "device"]
)
def test_companions_are_beside_the_layers(devices: tuple[str, ...], place: str) -> None:
    plain = formula_need(spec(None), devices=devices).footprint
    full = formula_need(spec(SMALL, STYLE), devices=devices).footprint
    parts = memory_parts(spec(SMALL, STYLE), devices=devices)
    assert getattr(full, place) - getattr(plain, place) == parts.draft + parts.adapters
    assert full.mapped == plain.mapped


@pytest.mark.real
def test_the_real_build_knows_drafts_and_lists_of_adapters() -> None:
    named = os.environ.get("CYBER_TEST_LLAMA_SERVER")
    if not named:
        pytest.skip("CYBER_TEST_LLAMA_SERVER is not set (scripts/test sets it)")
    flags = examine(Path(named), os.environ).flags
    for draft in (SMALL, INSIDE, EAGLE):
        assert draft_options(draft, flags)
    assert adapter_options((STYLE,), flags)

"""The changes that make sense for a machine, a model and its present settings."""

from __future__ import annotations

import msgspec
import pytest

from cyber_inference_tui.gguf.arguments import ServerOptions, read_options
from cyber_inference_tui.records.tuning import Goal, TuneRequest
from cyber_inference_tui.service.tuning.candidates import (
    MOST_TRIALS,
    Change,
    Facts,
    candidates,
    changed_values,
    with_options,
)
from cyber_inference_tui.settings.schema import ModelSettings

BOARD = Facts(cores=8, fast_cores=4, slots=4)
REQUEST = TuneRequest(model="m")


def names(facts: Facts, **request: object) -> list[str]:
    asked = msgspec.convert({"model": "m", **request}, TuneRequest)
    return [change.name for change in candidates(facts, asked)]


def test_a_board_without_a_gpu_tries_threads_attention_batches_and_a_smaller_cache() -> None:
    assert names(BOARD) == [
        *("4 threads", "8 threads", "7 threads"),
        "no flash attention",
        *("batches of 256 tokens", "batches of 128 tokens"),
        "q8_0 cache",
    ]
    assert "4 threads" not in names(msgspec.structs.replace(BOARD, threads=4))


def test_a_model_that_is_whole_on_a_gpu_tries_no_threads_and_no_layers() -> None:
    found = names(msgspec.structs.replace(BOARD, gpus=True, blocks=32, is_mixture=True))
    assert not any("thread" in name or "layer" in name for name in found)


def test_a_mixture_that_does_not_fit_tries_its_experts_in_main_memory() -> None:
    facts = msgspec.structs.replace(BOARD, gpus=True, spills=True, blocks=32, is_mixture=True)
    assert names(facts)[:2] == [
        "experts of 32 layers in main memory",
        "experts of 16 layers in main memory",
    ]
    assert "4 threads" in names(facts)
    fewer = msgspec.structs.replace(BOARD, gpus=True, gpu_layers=10)
    assert names(fewer)[0] == "llama-server decides the layers on GPUs"


def test_larger_batches_are_tried_for_longer_prompts_only() -> None:
    assert "batches of 2,048 tokens" in names(BOARD, prompt=2048)
    assert "batches of 2,048 tokens" not in names(BOARD, prompt=512)
    assert not any("batch" in name for name in names(BOARD, prompt=32))


def test_less_memory_comes_from_caches_batches_and_slots() -> None:
    assert names(BOARD, goal="memory", parallel=2) == [
        *("q8_0 cache", "q4_0 cache"),
        *("batches of 256 tokens", "batches of 128 tokens"),
        "2 slots",
    ]


def test_slots_change_only_if_somebody_says_how_many_requests_there_are() -> None:
    assert "2 slots" in names(BOARD, parallel=2)
    assert not any("slot" in name for name in names(BOARD))
    assert not any("slot" in name for name in names(BOARD, parallel=4))


def test_drafts_are_tried_and_longer_ones_where_the_build_takes_a_length() -> None:
    found = msgspec.structs.replace(BOARD, draft="off")
    assert "drafts of 3 tokens" in names(found)
    assert not any("draft" in name for name in names(BOARD))
    # They only take memory.
    assert not any("draft" in name for name in names(found, goal="memory"))
    longer = msgspec.structs.replace(found, draft_lengths=True)
    changes = [one for one in candidates(longer, REQUEST) if "draft" in one.name]
    after = [one.applied_to(ModelSettings(args=("--spec-draft-n-max", "4"))) for one in changes]
    assert [(one.draft, one.args) for one in after] == [
        ("auto", ("--spec-draft-n-max", "4")),
        ("auto", ("--spec-draft-n-max", "8")),
    ]


def test_a_model_with_drafts_is_tried_without_and_keeps_what_its_table_names() -> None:
    long = ServerOptions(drafted=16)
    facts = msgspec.structs.replace(BOARD, draft="small", draft_lengths=True, options=long)
    changes = [one for one in candidates(facts, REQUEST) if "draft" in one.name]
    assert [one.name for one in changes] == ["no drafts", "drafts of 3 tokens"]
    before = ModelSettings(draft="small", args=("--spec-draft-n-max", "16"))
    off, shorter = (one.applied_to(before) for one in changes)
    assert changed_values(before, off) == {"draft": "off"}
    assert changed_values(before, shorter) == {"args": ("--spec-draft-n-max", "3")}
    assert names(facts, goal="memory")[0] == "no drafts"


def test_without_flash_attention_no_cache_is_quantized() -> None:
    facts = msgspec.structs.replace(BOARD, options=ServerOptions(flash_attention=False))
    found = names(facts)
    assert "flash attention" in found
    assert not any("cache" in name for name in found)


def test_there_are_at_most_so_many_trials() -> None:
    facts = Facts(
        cores=16, fast_cores=4, gpus=True, spills=True, gpu_layers=9, is_mixture=True, blocks=40,
        slots=8,
    )  # fmt: skip
    assert len(names(facts, parallel=2, prompt=4096)) == MOST_TRIALS


@pytest.mark.parametrize("goal", Goal)
def test_each_change_changes_something_and_is_read_as_it_is_meant(goal: Goal) -> None:
    """The memory estimate reads the same options."""
    before = ModelSettings(args=("-ub", "512", "--ctk", "f16", "--no-mmap"))
    request = TuneRequest(model="m", goal=goal, parallel=2, prompt=2048)
    for change in candidates(BOARD, request):
        after = change.applied_to(before)
        assert changed_values(before, after)
        options = read_options(after.args)
        if "batches" in change.name:
            assert f"{options.ubatch_size:,}" in change.name
        if "cache" in change.name:
            assert {options.cache_type_k, options.cache_type_v} == {change.name.split()[0]}
            assert change.answers
        assert options.flash_attention == (change.name != "no flash attention")
        assert not options.mapped


def test_an_option_takes_the_place_of_its_former_value_in_any_spelling() -> None:
    args = ("-ub", "256", "--no-mmap", "--ubatch-size=128", "--ubatch-size", "64")
    assert with_options(args, {"--ubatch-size": "1024"}) == ("--no-mmap", "--ubatch-size", "1024")
    twice = Change(name="", options={"--ubatch-size": "1024"})
    once = twice.applied_to(ModelSettings(args=args))
    assert twice.applied_to(once) == once

"""Options read from the user's llama-server arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.gguf.arguments import ServerOptions, read_options, words_of_variables


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ("", {}),
        ("-c 4096", {"context_size": 4096}),
        ("--ctx-size=0", {"context_size": 0}),
        ("--ctx_size 512", {"context_size": 512}),
        ("-c 1 --ctx-size 2", {"context_size": 2}),
        ("--override-kv qwen3.context_length=int:4096", {"trained": 4096}),
        ("--override-kv a.b=str:c,llama.context_length=int:9,d=bool:true", {"trained": 9}),
        ("--override-kv llama.context_length=int:0", {}),
        ("--override-kv llama.context_length=str:4096", {}),
        ("-np 3", {"slots": 3}),
        ("-np 3 --parallel -1", {"slots": 0}),
        ("-ctk Q8_0", {"cache_type_k": "Q8_0"}),
        ("--cache-type-k=q4_0 -ctv q5_1", {"cache_type_k": "q4_0", "cache_type_v": "q5_1"}),
        ("-b 256 -ub 128", {"batch_size": 256, "ubatch_size": 128}),
        ("--swa-full", {"swa_full": True}),
        ("-fa off", {"flash_attention": False}),
        ("-fa off --flash-attn auto", {"flash_attention": True}),
        ("--flash-attn=0", {"flash_attention": False}),
        ("-fa off -fa -c 9", {"flash_attention": True, "context_size": 9}),
        ("-kvu", {"unified": True}),
        ("-kvu --no-kv-unified", {"unified": False}),
        ("--spec-draft-n-max 8", {"drafted": 8}),
        ("-nkvo", {"cache_on_device": False}),
        ("--no-mmap", {"mapped": False}),
        ("--no-repack", {"repack": False}),
        ("-nr", {"repack": False}),
        ("-nr --repack", {}),
        ("--load-mode none", {"mapped": False}),
        ("-lm dio", {"mapped": False}),
        ("-lm none -lm mmap", {}),
        ("--embedding", {"embedding": True}),
        ("--embeddings --pooling none", {"embedding": True, "pooling": "none"}),
        ("--pooling mean", {"pooling": "mean"}),
        ("--pooling other", {}),
        ("--reranking", {"embedding": True, "pooling": "rank"}),
        ("--threads 4 -c 8 --temp 0.5", {"context_size": 8}),
    ],
)
def test_options(arguments: str, fields: dict[str, Any]) -> None:
    assert read_options(arguments.split()) == ServerOptions(**fields)


@pytest.mark.parametrize("arguments", ["-c", "-c x", "-c 99999999999", "-ub 0", "-ctk", "-c="])
def test_values_that_llama_server_refuses_are_skipped(arguments: str) -> None:
    assert read_options(arguments.split()) == ServerOptions()


def test_on_top_of_others() -> None:
    base = read_options(["-c", "4096", "-np", "2"])
    assert read_options(["-np", "3"], base=base) == ServerOptions(context_size=4096, slots=3)


def test_variables_speak_as_arguments_do() -> None:
    assert words_of_variables({"PATH": "/bin"}) == []
    assert words_of_variables({"LLAMA_ARG_EMBEDDINGS": "0", "LLAMA_ARG_RERANKING": "off"}) == []
    environment = {
        "LLAMA_ARG_EMBEDDINGS": "1",
        "LLAMA_ARG_UBATCH": "1024",
        "LLAMA_ARG_BATCH": "4096",
        "LLAMA_ARG_POOLING": "cls",
    }
    assert read_options(words_of_variables(environment)) == ServerOptions(
        embedding=True, ubatch_size=1024, batch_size=4096, pooling="cls"
    )
    for environment in ({"LLAMA_ARG_REPACK": "off"}, {"LLAMA_ARG_NO_REPACK": ""}):
        assert not read_options(words_of_variables(environment)).repack
    assert read_options(words_of_variables({"LLAMA_ARG_REPACK": "on"})).repack
    reranker = read_options(words_of_variables({"LLAMA_ARG_RERANKING": "true"}))
    assert (reranker.embedding, reranker.pooling) == (True, "rank")


WORDS = st.sampled_from(
    [
        *("-c", "-np", "-fa", "--flash-attn", "-ctk", "--pooling", "-lm", "-ub", "--swa-full"),
        *("on", "off", "512", "-1", "q8_0", "none", "=", "--", "--=", "-c=", "9" * 5000),
    ]
)


@given(st.lists(WORDS | st.text(max_size=8)))
def test_nothing_breaks_it(arguments: list[str]) -> None:
    found = read_options(arguments)
    assert found.slots >= 0
    assert found.batch_size > 0
    assert found.ubatch_size > 0

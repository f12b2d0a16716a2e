"""The options of servers whose models make embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.command import llama_argv
from cyber_inference_tui.llama.need_estimate import formula_need
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings

SETTINGS = Settings()
VECTOR_OPTIONS = frozenset(
    {"--embedding", "--reranking", "--batch-size", "--ubatch-size", "--parallel"}
)
ENCODER = ModelMetadata(
    architecture="nomic-bert",
    context_length=2048,
    vocabulary=30522,
    layers=12,
    embedding_length=768,
    feed_forward_length=3072,
    heads=12,
    kv_heads=(12,) * 12,
    key_length=64,
    value_length=64,
    pooling="mean",
)
EMBEDDING, RERANKING = ("--embedding",), ("--reranking",)
ONE_SLOT = ("--parallel", "1")


def batch(tokens: int) -> list[tuple[str, ...]]:
    return [("--batch-size", str(tokens)), ("--ubatch-size", str(tokens))]


def given(
    args: str = "",
    env: dict[str, str] | None = None,
    context: int = 8192,
    slots: int = 0,
    **facts: Any,
) -> list[tuple[str, ...]]:
    model = LocalModel(
        id="m",
        metadata=ModelMetadata(**facts),
        settings=ModelSettings(args=tuple(args.split()), env=env or {}, context_size=context),
    )
    return list(resolve(model, Settings(llama_parallel=slots)).embedding_options)


def encoder(**own: Any) -> ServerSpec:
    model = LocalModel(
        id="m",
        path=Path("/m.gguf"),
        size_bytes=1 << 28,
        metadata=ENCODER,
        settings=ModelSettings(**own),
    )
    return resolve(model, SETTINGS)


def argv(spec: ServerSpec, flags: frozenset[str] = VECTOR_OPTIONS) -> list[str]:
    return llama_argv(
        spec, program="llama-server", flags=flags, host="127.0.0.1", port=1, available_bytes=0
    )


def test_models_for_text_get_no_options() -> None:
    assert given(architecture="qwen3", context_length=32768) == []
    assert given(architecture="qwen3", pooling="none") == []
    assert resolve(LocalModel(id="m"), SETTINGS).embedding_options == ()


def test_a_model_for_vectors_is_started_for_them() -> None:
    assert given(architecture="bert", pooling="cls", context_length=512) == [EMBEDDING]
    assert given(architecture="qwen3", pooling="last") == [EMBEDDING, ONE_SLOT]
    assert given(architecture="qwen3", pooling="rank") == [RERANKING, ONE_SLOT]
    assert given(architecture="bert", context_length=512) == [EMBEDDING]


def test_a_batch_holds_the_longest_input_where_it_has_to() -> None:
    assert given(architecture="bert", pooling="rank", context_length=8194) == [
        RERANKING,
        *batch(8192),
    ]
    assert given(architecture="qwen3", pooling="mean", context_length=32768, context=4096) == [
        EMBEDDING,
        ONE_SLOT,
        *batch(4096),
    ]
    # Inputs beyond the trained length are refused anyway.
    assert given(architecture="nomic-bert", context_length=2048) == [EMBEDDING, *batch(2048)]
    assert given(architecture="nomic-bert", context=1000) == [EMBEDDING, *batch(1000)]


@pytest.mark.parametrize("args", ["--embedding", "--embeddings", "--reranking --no-mmap"])
def test_the_users_own_choices_for_embeddings_win(args: str) -> None:
    assert given(args, architecture="bert", pooling="mean", context_length=512) == []
    assert given(args, architecture="bert", pooling="mean", context_length=2048) == batch(2048)


@pytest.mark.parametrize("name", ["LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"])
def test_so_do_variables(name: str) -> None:
    facts: dict[str, Any] = {"architecture": "bert", "pooling": "mean", "context_length": 2048}
    assert given(env={name: "1"}, **facts) == batch(2048)
    assert given(env={name: "0"}, **facts) == []
    assert given(env={"LLAMA_ARG_UBATCH": "1024"}, **facts) == [EMBEDDING]
    assert given(env={"LLAMA_ARG_POOLING": "rank"}, **facts) == [RERANKING, *batch(2048)]


@pytest.mark.parametrize("args", ["-ub 1024", "-b 1024", "--ubatch-size=512"])
def test_batches_of_a_persons_own_are_left_alone(args: str) -> None:
    assert given(args, architecture="bert", pooling="mean", context_length=2048) == [EMBEDDING]


def test_slots_share_a_cache_so_there_is_one_unless_somebody_wants_more() -> None:
    facts: dict[str, Any] = {"architecture": "qwen3", "pooling": "last"}
    assert given(slots=4, **facts) == [EMBEDDING]
    assert given("-np 4", **facts) == [EMBEDDING]
    assert given(env={"LLAMA_ARG_N_PARALLEL": "4"}, **facts) == [EMBEDDING]


def test_another_pooling_decides_the_mode() -> None:
    facts: dict[str, Any] = {"architecture": "qwen3", "context_length": 4096}
    assert given("--pooling rank", pooling="mean", **facts) == [RERANKING, ONE_SLOT]
    assert given("--pooling mean", pooling="rank", **facts) == [
        EMBEDDING,
        ONE_SLOT,
        *batch(4096),
    ]
    # A model for text stays one unless the user changes it.
    assert given("--pooling mean", **facts) == []
    assert given("--embedding --pooling mean", **facts) == batch(4096)


def test_the_command_line_has_known_options_and_the_users_own_last() -> None:
    words = argv(encoder(args=("--pooling", "cls")))
    assert words[-7:] == [
        *("--embedding", "--batch-size", "2048", "--ubatch-size", "2048", "--pooling", "cls")
    ]
    assert "--batch-size" not in argv(encoder(), frozenset({"--embedding"}))
    assert not VECTOR_OPTIONS & set(argv(encoder(), frozenset()))


def test_the_estimate_is_for_the_started_server() -> None:
    started = formula_need(encoder())
    spelled_out = encoder(args=("--embedding", "-b", "2048", "-ub", "2048"))
    assert started == formula_need(spelled_out)
    small = formula_need(encoder(args=("-ub", "512")))
    assert started.footprint.host > small.footprint.host
    assert formula_need(encoder(env={"LLAMA_ARG_UBATCH": "512"})) == small
    assert encoder().options.embedding


def test_measurements_without_them_are_ignored() -> None:
    text = LocalModel(
        id="m",
        path=Path("/m.gguf"),
        size_bytes=1 << 28,
        metadata=ModelMetadata(context_length=2048),
    )
    assert encoder().signature != resolve(text, SETTINGS).signature

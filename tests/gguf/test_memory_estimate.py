"""Estimates of memory by arithmetic alone; tests/real compares them with a real server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.gguf.memory_estimate import MemoryEstimate, estimate
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts, RecurrentFacts

MIB = 2**20
LLAMA = ModelMetadata(
    architecture="llama",
    context_length=32768,
    vocabulary=32000,
    layers=4,
    embedding_length=1024,
    feed_forward_length=4096,
    heads=16,
    kv_heads=(4, 4, 4, 4),
    key_length=64,
    value_length=64,
)


def needs(metadata: ModelMetadata = LLAMA, **settings: Any) -> MemoryEstimate:
    return estimate(metadata, **{"weights_bytes": 10 * MIB, "context_size": 8192, **settings})


def changed(**fields: Any) -> ModelMetadata:
    return msgspec.structs.replace(LLAMA, **fields)


def test_parts_add_up() -> None:
    found = needs(projector_bytes=3 * MIB)
    assert (found.weights, found.projector) == (10 * MIB, 3 * MIB)
    assert found.total == found.weights + found.kv_cache + found.projector + found.compute
    assert not found.upper_bound
    assert found.note is None


def test_the_cache_of_grouped_queries() -> None:
    # Per layer: cells, key heads, numbers, bytes, once for keys and once for values.
    assert needs().kv_cache == 4 * 8192 * 4 * 64 * 2 * 2


def test_a_context_size_of_0_is_the_models_own() -> None:
    assert needs(context_size=0) == needs(context_size=32768)


@pytest.mark.parametrize(
    ("name", "block", "size"),
    [
        ("f32", 1, 4),
        ("f16", 1, 2),
        ("bf16", 1, 2),
        ("q8_0", 32, 34),
        ("q5_1", 32, 24),
        ("q5_0", 32, 22),
        ("q4_1", 32, 20),
        ("q4_0", 32, 18),
        ("iq4_nl", 32, 18),
    ],
)
def test_cache_types(name: str, block: int, size: int) -> None:
    one = 4 * 8192 * 4 * 64
    assert needs(cache_type_k=name).kv_cache == one * size // block + one * 2
    assert needs(cache_type_v=name).kv_cache == one * size // block + one * 2


def test_slots_of_their_own_are_filled_up_to_256_cells() -> None:
    shared = needs(slots=3, unified=True).kv_cache
    assert shared == needs(slots=0).kv_cache
    # 8192 / 3 is 2730, that is 2816 cells each.
    assert needs(slots=3).kv_cache == shared * 3 * 2816 // 8192


def test_heads_for_each_layer() -> None:
    assert needs(changed(kv_heads=(4, 0, 2, 2))).kv_cache * 2 == needs().kv_cache


def test_without_flash_attention_values_are_as_long_as_the_longest() -> None:
    uneven = changed(kv_heads=(4, 0, 2, 2))
    extra = needs(uneven, flash_attention=False).kv_cache - needs(uneven).kv_cache
    assert extra == (4 + 2 + 2) * 8192 * 64 * 2


@pytest.mark.parametrize(
    ("architecture", "tokens", "full"),
    [
        ("gemma2", 4096, (1, 3)),
        ("gemma3", 1024, ()),
        ("gpt-oss", 128, (1, 3)),
        ("cohere2", 1024, (3,)),
        ("cohere2moe", 1024, (0,)),
        ("llama4", 2048, (3,)),
        ("smallthinker", 2048, (0,)),
    ],
)
def test_sliding_windows_by_architecture(
    architecture: str, tokens: int, full: tuple[int, ...]
) -> None:
    model = changed(architecture=architecture, sliding_window=tokens)
    found = needs(model, context_size=65536, slots=1)
    reach = {"llama4": 8192, "smallthinker": 4096}.get(architecture, tokens) + 512
    cells = -(-reach // 256) * 256
    assert found.kv_cache == (len(full) * 65536 + (4 - len(full)) * cells) * 4 * 64 * 4
    assert needs(model, context_size=65536, swa_full=True).kv_cache == 4 * 65536 * 4 * 64 * 4


def test_a_shared_cache_holds_a_window_for_each_slot() -> None:
    model = changed(architecture="gpt-oss", sliding_window=1024)
    cells = 4 * 1024 + 512
    assert needs(model, context_size=65536).kv_cache == 2 * (65536 + cells) * 4 * 64 * 4


def test_the_headers_window_comes_first() -> None:
    model = changed(architecture="gemma3", sliding_window=256)
    one_full = changed(
        architecture="gemma3",
        sliding_window=256,
        sliding_window_layers=(True, True, True, False),
    )
    by_period = changed(architecture="gemma3", sliding_window=256, sliding_window_period=4)
    assert needs(one_full, slots=1) == needs(by_period, slots=1)
    assert needs(one_full, slots=1).kv_cache > needs(model, slots=1).kv_cache


@pytest.mark.parametrize(
    "model",
    [
        changed(architecture="phi3", sliding_window=256),
        changed(architecture="gemma3", sliding_window=0),
        changed(architecture="gemma3", sliding_window=None),
        changed(architecture="exaone4", sliding_window=256),
    ],
    ids=["unused", "zero", "unnamed", "by size"],
)
def test_windows_that_are_not_used(model: ModelMetadata) -> None:
    assert needs(model) == needs()


def test_layers_that_share_a_cache() -> None:
    pattern = (True, False, True, False)
    model = changed(
        architecture="gemma4",
        sliding_window=4096,
        sliding_window_layers=pattern,
        shared_kv_layers=2,
        window_key_length=32,
        window_value_length=32,
    )
    windowed, full = 8192 * 4 * 32 * 4, 8192 * 4 * 64 * 4
    assert needs(model).kv_cache == windowed + full


def test_latent_attention_keeps_keys_only() -> None:
    model = changed(
        architecture="deepseek2",
        kv_heads=(1, 1, 1, 1),
        key_length=576,
        value_length=512,
        latent_key_length=192,
        latent_value_length=128,
    )
    assert needs(model).kv_cache == 4 * 8192 * 576 * 2
    assert needs(model, cache_type_v="q4_0").kv_cache == needs(model).kv_cache


def test_layers_for_predicting_ahead_are_not_used() -> None:
    model = changed(layers=5, kv_heads=(4,) * 5, predict_layers=1)
    assert needs(model).kv_cache == needs().kv_cache


MAMBA = RecurrentFacts(conv_kernel=4, inner_size=2048, state_size=128, group_count=1)


@pytest.mark.parametrize(
    ("fields", "state", "attending"),
    [
        ({"architecture": "mamba2"}, 4, 0),
        ({"architecture": "falcon-h1"}, 4, 4),
        ({"architecture": "granitehybrid", "kv_heads": (0, 4, 0, 0)}, 3, 1),
        ({"architecture": "qwen3next", "full_attention_interval": 2}, 2, 2),
        ({"architecture": "qwen3next"}, 3, 1),
        ({"architecture": "qwen35", "recurrent_layers": (True, True, False, False)}, 2, 2),
        (
            {
                "architecture": "nemotron_h",
                "kv_heads": (0, 0, 4, 0),
                "feed_forward_lengths": (0, 4096, 0, 0),
            },
            2,
            1,
        ),
    ],
    ids=lambda value: value["architecture"] if isinstance(value, dict) else str(value),
)
def test_recurrent_layers_keep_a_state_for_each_slot(
    fields: dict[str, Any], state: int, attending: int
) -> None:
    found = needs(changed(recurrent=MAMBA, **fields), slots=2, unified=True)
    one_state = 3 * (2048 + 2 * 128) + 128 * 2048
    assert found.kv_cache == 2 * state * 4 * one_state + attending * 8192 * 4 * 64 * 4
    assert not found.upper_bound


@pytest.mark.parametrize(
    ("architecture", "facts", "numbers"),
    [
        ("rwkv6", RecurrentFacts(wkv_head_size=64), 1024 * (2 + 64)),
        ("arwkv7", RecurrentFacts(wkv_head_size=64, token_shift_count=1), 1024 * (1 + 64)),
        ("lfm2", RecurrentFacts(shortconv_cache=3), 1024 * 2),
        ("kimi-linear", RecurrentFacts(kda_head_length=128, conv_kernel=4), 2048 * (3 * 3 + 128)),
    ],
)
def test_other_states(architecture: str, facts: RecurrentFacts, numbers: int) -> None:
    model = changed(architecture=architecture, recurrent=facts, kv_heads=(0, 0, 0, 0))
    assert needs(model, slots=1).kv_cache == 4 * 4 * numbers


def test_encoders_keep_nothing() -> None:
    found = needs(changed(architecture="bert"), embedding=True)
    assert found.kv_cache == 0
    assert found.compute > 0
    assert not found.upper_bound


def test_an_unknown_architecture_counts_in_full_with_a_note() -> None:
    found = needs(changed(architecture="llama9", sliding_window=256))
    assert found.kv_cache == needs().kv_cache
    assert found.upper_bound
    assert found.note == "the memory of llama9 is not known"
    with_state = needs(changed(architecture="llama9", recurrent=MAMBA))
    assert with_state.kv_cache > found.kv_cache


@pytest.mark.parametrize(
    "model",
    [
        ModelMetadata(architecture="llama"),
        changed(kv_heads=None),
        changed(kv_heads=(4, 4, 4)),
        changed(key_length=None),
        changed(embedding_length=None),
        changed(architecture="mamba"),
        changed(layers=513),
    ],
    ids=["empty", "heads", "some heads", "lengths", "width", "state", "too many layers"],
)
def test_missing_sizes_get_a_note(model: ModelMetadata) -> None:
    found = needs(model)
    assert found.upper_bound
    assert found.note


def test_an_unknown_context_size_gets_a_note() -> None:
    assert needs(changed(context_length=None), context_size=0).upper_bound


def test_only_embeddings_without_pooling_return_every_token() -> None:
    assert needs(embedding=True).compute >= 512 * 32000 * 4 > needs().compute
    assert needs(embedding=True, pooling="none") == needs(embedding=True)
    assert needs(embedding=True, pooling="mean").compute < 512 * 32000 * 4
    of_header = needs(changed(pooling="last"), embedding=True)
    assert of_header == needs(embedding=True, pooling="last")


def test_without_flash_attention_the_scores_are_kept() -> None:
    extra = needs(flash_attention=False).compute - needs().compute
    assert 0 < extra <= 512 * 8192 * (16 * 4 + 2)


VISION = ProjectorFacts(
    kind="gemma3",
    vision=True,
    audio=False,
    width=2560,
    image_size=896,
    patch_size=14,
    embedding_length=1152,
    feed_forward_length=5120,
)


@pytest.mark.parametrize(
    ("fields", "patches", "numbers"),
    [
        ({}, 64 * 64, 3 * 1152 + 5120),
        ({"gated": True}, 64 * 64, 3 * 1152 + 3 * 5120),
        ({"feed_forward_length": 100}, 64 * 64, 7 * 1152),
        ({"kind": "qwen2.5vl_merger"}, 92 * 92, 3 * 1152 + 5120),
        ({"kind": "qwen2.5vl_merger", "merge": 1}, 46 * 46, 3 * 1152 + 5120),
        ({"image_size": None}, 0, 0),
        ({"patch_size": 0}, 0, 0),
    ],
)
def test_a_projector_computes_with_an_image(
    fields: dict[str, Any], patches: int, numbers: int
) -> None:
    facts = msgspec.structs.replace(VISION, **fields)
    found = needs(projector_bytes=MIB, projector=facts)
    assert found.projector == MIB + patches * numbers * 4


def test_a_small_context_bounds_the_batch() -> None:
    assert needs(context_size=64).compute < needs(context_size=512).compute


COUNTS = st.none() | st.sampled_from([0, 1, 2, 3, 64, 4096, 2**31, 2**48 - 1])
LAYERED = st.none() | st.lists(st.sampled_from([0, 1, 8, 2**48 - 1]), max_size=8).map(tuple)
FLAGS = st.none() | st.lists(st.booleans(), max_size=8).map(tuple)
ARCHITECTURES = st.none() | st.sampled_from(
    [
        *("llama", "deepseek2", "llada", "bert", "modern-bert", "jamba", "lfm2", "kimi-linear"),
        *("gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "cohere2moe", "llama4", "exaone4"),
        *("falcon-h1", "mamba", "mamba2", "nemotron_h", "qwen35", "rwkv7", "unheard-of", ""),
    ]
)


def _fields(struct: type[msgspec.Struct]) -> dict[str, st.SearchStrategy[Any]]:
    strategies: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(struct):
        if field.type == int | None:
            strategies[field.name] = COUNTS
        elif field.type == tuple[int, ...] | None:
            strategies[field.name] = LAYERED
        elif field.type == tuple[bool, ...] | None:
            strategies[field.name] = FLAGS
    return strategies


HOSTILE = st.builds(
    ModelMetadata,
    architecture=ARCHITECTURES,
    recurrent=st.none() | st.builds(RecurrentFacts, **_fields(RecurrentFacts)),
    **_fields(ModelMetadata),
)
PROJECTORS = st.none() | st.builds(
    ProjectorFacts,
    kind=st.sampled_from([None, "gemma3", "qwen2vl_merger"]),
    vision=st.booleans(),
    audio=st.booleans(),
    gated=st.booleans(),
    **_fields(ProjectorFacts),
)
SETTINGS = st.fixed_dictionaries(
    {
        "context_size": st.integers(-1, 2**31 - 1),
        "slots": st.integers(-1, 256),
        "unified": st.none() | st.booleans(),
        "cache_type_k": st.sampled_from(["f16", "q8_0", "F32", "nonsense", ""]),
        "cache_type_v": st.sampled_from(["f16", "q4_0", "nonsense"]),
        "batch_size": st.integers(-1, 2**31 - 1),
        "ubatch_size": st.integers(-1, 2**31 - 1),
        "swa_full": st.booleans(),
        "flash_attention": st.booleans(),
        "embedding": st.booleans(),
        "pooling": st.sampled_from([None, "none", "mean", "rank", ""]),
    }
)


@given(HOSTILE, PROJECTORS, SETTINGS, st.integers(-1, 2**63))
def test_no_header_and_no_settings_break_it(
    model: ModelMetadata, projector: ProjectorFacts | None, settings: dict[str, Any], weights: int
) -> None:
    found = estimate(model, weights_bytes=weights, projector=projector, **settings)
    parts = (found.weights, found.kv_cache, found.projector, found.compute)
    assert all(0 <= part <= 2**60 for part in parts)
    assert msgspec.json.decode(msgspec.json.encode(found), type=MemoryEstimate) == found
    assert found.upper_bound == (found.note is not None)


@given(HOSTILE, SETTINGS, st.integers(0, 2**20))
def test_more_context_never_needs_less(
    model: ModelMetadata, settings: dict[str, Any], more: int
) -> None:
    settings = {**settings, "context_size": max(1, settings["context_size"])}
    less = estimate(model, weights_bytes=0, **settings)
    settings["context_size"] += more
    assert estimate(model, weights_bytes=0, **settings).total >= less.total


@given(HOSTILE, SETTINGS, st.integers(1, 64), st.integers(1, 64), st.booleans())
def test_more_slots_of_one_cache_never_need_less(
    model: ModelMetadata, settings: dict[str, Any], slots: int, factor: int, swa_full: bool
) -> None:
    settings = {**settings, "unified": True, "swa_full": swa_full, "slots": slots}
    less = estimate(model, weights_bytes=0, **settings)
    settings["slots"] = slots * factor
    assert estimate(model, weights_bytes=0, **settings).total >= less.total


@given(HOSTILE, SETTINGS)
def test_a_bigger_cache_type_never_needs_less(
    model: ModelMetadata, settings: dict[str, Any]
) -> None:
    # Rows of whole blocks: llama-server accepts no others.
    model = msgspec.structs.replace(
        model, key_length=64, value_length=128, window_key_length=32, window_value_length=96
    )
    totals = [
        estimate(
            model, weights_bytes=0, **{**settings, "cache_type_k": name, "cache_type_v": name}
        ).total
        for name in ("q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16", "f32")
    ]
    assert totals == sorted(totals)


@given(HOSTILE, SETTINGS)
def test_a_full_size_window_never_needs_less(
    model: ModelMetadata, settings: dict[str, Any]
) -> None:
    cut, full = (
        estimate(model, weights_bytes=0, **{**settings, "swa_full": swa_full}).kv_cache
        for swa_full in (False, True)
    )
    assert full >= cut

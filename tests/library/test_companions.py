"""Which drafts and adapters go with which models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from cyber_inference_tui.gguf.file_writer import Tensor
from cyber_inference_tui.library.adapters import MOST_BESIDE, path_and_scale
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import DraftKind
from cyber_inference_tui.settings.schema import ModelSettings
from tests.gguf.companions import lora_header
from tests.gguf.headers import tensors, write_gguf
from tests.gguf.synthetic import zeros
from tests.library.conftest import Home

TOKENS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "c"]}
QWEN = {
    **TOKENS,
    "general.architecture": "qwen35",
    "qwen35.embedding_length": 64,
    "qwen35.block_count": 9,
}
EAGLE = {**TOKENS, "general.architecture": "eagle3", "eagle3.target_hidden_size": 64}
PREDICTION = zeros("blk.8.nextn.eh_proj.weight", 128, 64)


def weights(count: int) -> list[Tensor]:
    """Return as many small tensors, as a whole model has."""
    return [zeros(f"blk.{number // 8}.{number % 8}.weight", 64) for number in range(count)]


def large(home: Home, name: str, metadata: Mapping[str, object] = TOKENS) -> Path:
    """Write a model with nine times the parameters of one with no weights named."""
    return write_gguf(
        home.models_dir / name, metadata, [*tensors(), zeros("output.more", 64, 36), *weights(80)]
    )


def lora(home: Home, name: str, *parts: Tensor, **header: object) -> Path:
    parts = parts or (
        zeros("blk.1.attn_q.weight.lora_a", 64, 8),
        zeros("blk.1.attn_q.weight.lora_b", 8, 64),
    )
    return write_gguf(home.models_dir / name, lora_header(**header), parts)


def model(home: Home, model_id: str, **settings: object) -> LocalModel:
    tables = {model_id: ModelSettings(**settings)}  # type: ignore[arg-type]
    return home.scan(model_settings=tables).models[model_id]


def reasons(home: Home) -> dict[str, str]:
    return {Path(one.where).name: one.reason for one in home.scan().problems}


# Drafts


def test_a_small_model_with_the_same_tokens_drafts_for_a_large_one(home: Home) -> None:
    large(home, "Big-8B-Q4_K_M.gguf")
    home.model("small/Big-1B-Q4_K_M.gguf", TOKENS)
    draft = model(home, "Big-8B-Q4_K_M").draft
    assert draft is not None
    assert (draft.kind, draft.name) == (DraftKind.MODEL, "Big-1B-Q4_K_M")
    assert [path.name for path in draft.files] == ["Big-1B-Q4_K_M.gguf"]
    assert draft.size_bytes == draft.files[0].stat().st_size
    assert model(home, "Big-1B-Q4_K_M").draft is None


@pytest.mark.parametrize(
    "small",
    [
        {**TOKENS, "tokenizer.ggml.tokens": ["a", "b", "d"]},
        {**TOKENS, "tokenizer.ggml.bos_token_id": 2},
        {**TOKENS, "llama.pooling_type": 3},
        {},
    ],
)
def test_no_draft_is_certain_with_other_tokens_or_for_vectors(
    home: Home, small: dict[str, object]
) -> None:
    large(home, "Big-8B.gguf")
    home.model("Small-1B.gguf", small)
    assert model(home, "Big-8B", draft="auto").draft is None


def test_the_smallest_model_drafts(home: Home) -> None:
    large(home, "Big.gguf")
    write_gguf(home.models_dir / "B.gguf", TOKENS, [*tensors(), zeros("more", 64)])
    home.model("C.gguf", TOKENS)
    draft = model(home, "Big").draft
    assert draft is not None
    assert draft.name == "C"


def test_a_table_names_the_draft(home: Home) -> None:
    large(home, "Big.gguf")
    home.model("Small.gguf", {**TOKENS, "tokenizer.ggml.tokens": ["a", "b", "d"]})
    found = model(home, "Big", draft="SMALL")
    assert found.problem is None
    assert found.draft is not None
    assert found.draft.name == "Small"


def test_a_draft_that_is_not_here_is_a_problem(home: Home) -> None:
    large(home, "Big.gguf")
    assert "its draft Small is no model here" in str(model(home, "Big", draft="Small").problem)


def test_a_draft_that_llama_server_would_refuse_is_a_problem(home: Home) -> None:
    large(home, "Big.gguf")
    home.model("Small.gguf", {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"] * 9})
    problem = model(home, "Big", draft="Small").problem
    assert problem == "its draft Small has other tokens (9 of llama for 3 of gpt2)"


def test_prediction_layers_in_the_file_come_first(home: Home) -> None:
    header = {**QWEN, "qwen35.nextn_predict_layers": 1}
    write_gguf(home.models_dir / "Qwen-Q8_0.gguf", header, [*weights(80), PREDICTION])
    write_gguf(home.models_dir / "eagle3-Qwen.gguf", EAGLE)
    draft = model(home, "Qwen-Q8_0").draft
    assert draft is not None
    assert (draft.kind, draft.files, draft.size_bytes) == (DraftKind.MTP, (), 0)


def test_prediction_layers_that_llama_cpp_does_not_run_draft_nothing(home: Home) -> None:
    header = {**TOKENS, "llama.nextn_predict_layers": 1}
    write_gguf(home.models_dir / "Odd.gguf", header, [*weights(80), PREDICTION])
    assert model(home, "Odd").draft is None


def heads(home: Home) -> None:
    """Write heads of two kinds beside the model Qwen."""
    write_gguf(home.models_dir / "eagle3-Qwen-Q8_0.gguf", EAGLE)
    header = {**QWEN, "qwen35.nextn_predict_layers": 1, "qwen35.block_count": 10}
    write_gguf(home.models_dir / "mtp-Qwen-Q8_0.gguf", header, [PREDICTION])


def test_heads_beside_a_model_are_no_models(home: Home) -> None:
    large(home, "Qwen-Q4_K_M.gguf", QWEN)
    heads(home)
    assert home.ids() == ["Qwen-Q4_K_M"]
    draft = model(home, "Qwen-Q4_K_M").draft
    assert draft is not None
    assert (draft.kind, draft.name) == (DraftKind.MTP, "mtp-Qwen-Q8_0")
    named = model(home, "Qwen-Q4_K_M", draft="eagle3-Qwen-Q8_0").draft
    assert named is not None
    assert named.kind is DraftKind.EAGLE3
    assert "without a certain model" in reasons(home)["eagle3-Qwen-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("other/eagle3-Qwen.gguf", {}),
        ("eagle3-Other.gguf", {}),
        ("eagle3-Qwen.gguf", {"eagle3.target_hidden_size": 128}),
        ("eagle3-Qwen.gguf", {"tokenizer.ggml.tokens": ["a", "b", "d"]}),
    ],
)
def test_a_head_of_another_model_is_a_problem(
    home: Home, name: str, change: dict[str, object]
) -> None:
    large(home, "Qwen-Q4_K_M.gguf", QWEN)
    write_gguf(home.models_dir / name, {**EAGLE, **change})
    assert model(home, "Qwen-Q4_K_M").draft is None
    assert "draft head without a certain model" in reasons(home)[Path(name).name]


def test_a_head_beside_the_folders_of_quantizations(home: Home) -> None:
    large(home, "Qwen/Q4_K_M/Qwen-Q4_K_M.gguf", QWEN)
    write_gguf(home.models_dir / "Qwen/eagle3-Qwen.gguf", EAGLE)
    draft = model(home, "Qwen-Q4_K_M").draft
    assert draft is not None
    assert draft.kind is DraftKind.EAGLE3


def test_a_head_is_deleted_with_its_last_model(home: Home) -> None:
    first, last = large(home, "Qwen-Q4_K_M.gguf", QWEN), large(home, "Qwen-Q8_0.gguf", QWEN)
    heads(home)
    library = home.library()
    library.delete(library.scan(), "Qwen-Q4_K_M")
    mtp = home.models_dir / "mtp-Qwen-Q8_0.gguf"
    assert (first.exists(), last.exists(), mtp.exists()) == (False, True, True)
    library.delete(library.scan(), "Qwen-Q8_0")
    assert not mtp.exists()


def test_a_head_of_a_good_quantization_comes_first(home: Home) -> None:
    large(home, "Qwen-Q4_K_M.gguf", QWEN)
    for name, file_type in (("BF16", 32), ("Q8_0", 7), ("Q2_K", 10)):
        header = {**EAGLE, "general.file_type": file_type}
        write_gguf(home.models_dir / f"eagle3-Qwen-{name}.gguf", header)
    draft = model(home, "Qwen-Q4_K_M").draft
    assert draft is not None
    assert draft.name == "eagle3-Qwen-Q8_0"


def test_a_draft_model_stays_when_its_large_model_is_deleted(home: Home) -> None:
    large(home, "Big.gguf")
    small = home.model("Small.gguf", TOKENS)
    library = home.library()
    library.delete(library.scan(), "Big")
    assert small.exists()


def test_a_changed_draft_counts_as_a_change_only_in_use(home: Home) -> None:
    large(home, "Big.gguf")
    small = home.model("Small.gguf", TOKENS)
    later = small.stat().st_mtime + 60
    os.utime(small, (later, later))
    off, auto = (model(home, "Big", draft=draft).modified for draft in ("off", "auto"))
    assert auto == small.stat().st_mtime_ns
    assert off is not None
    assert off < auto


# Adapters


def test_an_adapter_beside_its_model_is_loaded_and_off(home: Home) -> None:
    home.model("a/Tiny.gguf")
    home.model("b/Tiny-Two.gguf")
    path = lora(home, "a/style.gguf")
    (adapter,) = model(home, "Tiny").adapters
    assert (adapter.name, adapter.path, adapter.scale) == ("style", path, 0.0)
    assert adapter.size_bytes == path.stat().st_size
    assert model(home, "Tiny-Two").adapters == ()
    assert not reasons(home)


@pytest.mark.parametrize(
    ("parts", "header"),
    [
        ((zeros("blk.1.attn_q.weight.lora_a", 128, 8),), {}),
        (
            (
                zeros("blk.2.attn_q.weight.lora_a", 64, 8),
                zeros("blk.2.attn_q.weight.lora_b", 8, 64),
            ),
            {},
        ),
        (
            (
                zeros("blk.1.attn_k.weight.lora_a", 64, 8),
                zeros("blk.1.attn_k.weight.lora_b", 8, 64),
            ),
            {},
        ),
        ((zeros("blk.1.odd.weight.lora_a", 64, 8), zeros("blk.1.odd.weight.lora_b", 8, 64)), {}),
        ((), {"general.architecture": "qwen3"}),
        ((), {"adapter.type": "other"}),
    ],
)
def test_an_adapter_that_may_not_fit_is_not_loaded(
    home: Home, parts: tuple[Tensor, ...], header: dict[str, object]
) -> None:
    """A wider model, one with more layers, with other heads, an unknown matrix, another network."""
    home.model("Tiny.gguf")
    lora(home, "style.gguf", *parts, **header)
    assert model(home, "Tiny").adapters == ()
    assert "name it as lora" in reasons(home)["style.gguf"]


def test_a_table_names_adapters_in_order_with_their_strengths(home: Home) -> None:
    home.model("Tiny.gguf")
    lora(home, "beside.gguf")
    lora(home, "far/z.gguf", zeros("blk.0.odd.weight.lora_a", 64, 8))
    lora(home, "far/a.gguf")
    found = model(home, "Tiny", lora=(Path("far/z.gguf:0.25"), home.models_dir / "far/a.gguf"))
    assert [(one.name, one.scale) for one in found.adapters] == [("z", 0.25), ("a", 1.0)]
    assert model(home, "Tiny", lora=()).adapters == ()


def test_adapters_in_tables_that_cannot_be_used(home: Home) -> None:
    home.model("Tiny.gguf")
    home.model("Other.gguf")
    lora(home, "qwen.gguf", **{"general.architecture": "qwen3"})
    lora(home, "a,b.gguf")
    for name, sentence in (
        ("none.gguf", "none.gguf is missing"),
        ("Other.gguf", "Other.gguf is no LoRA adapter"),
        ("qwen.gguf", "qwen.gguf was made for qwen3, and the model is llama"),
        ("a,b.gguf", "has a ',' in its path"),
    ):
        found = model(home, "Tiny", lora=(Path(name),))
        assert sentence in str(found.problem)
        assert found.adapters == ()


def test_many_adapters_are_not_all_loaded(home: Home) -> None:
    home.model("Tiny.gguf")
    for number in range(MOST_BESIDE + 2):
        lora(home, f"style-{number:02}.gguf")
    assert [one.name for one in model(home, "Tiny").adapters] == [
        f"style-{number:02}" for number in range(MOST_BESIDE)
    ]
    assert len(reasons(home)) == 2


@pytest.mark.parametrize(
    ("entry", "path", "scale"),
    [
        ("/m/a.gguf", "/m/a.gguf", 1.0),
        ("/m/a.gguf:0.5", "/m/a.gguf", 0.5),
        ("/m/a.gguf:-1", "/m/a.gguf", -1.0),
        ("/m/a.gguf:0", "/m/a.gguf", 0.0),
        ("/m/a:b.gguf", "/m/a:b.gguf", 1.0),
        ("/m/a.gguf:nan", "/m/a.gguf:nan", 1.0),
        ("/m/a.gguf:inf", "/m/a.gguf:inf", 1.0),
    ],
)
def test_an_adapters_strength_is_behind_a_colon(entry: str, path: str, scale: float) -> None:
    assert path_and_scale(Path(entry)) == (Path(path), scale)

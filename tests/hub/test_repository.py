"""The models of a repository, by the names of its files."""

from __future__ import annotations

import pytest

from cyber_inference_tui.errors import HubError, HubNotFoundError
from cyber_inference_tui.hub.download_plan import PlannedFile, check_plan
from cyber_inference_tui.hub.repository import (
    Repository,
    choose,
    family,
    models_of,
    plan_of,
)


def repository(*paths: str) -> Repository:
    files = [PlannedFile(path, 100, None, None) for path in paths]
    return Repository(repo="o/n", revision="c0ffee", models=models_of(files))


def listed(*paths: str) -> list[tuple[str, str | None, int]]:
    models = repository(*paths).models
    return [(model.filename, model.quantization, len(model.files)) for model in models]


def test_each_file_is_a_model_with_its_quantization() -> None:
    assert listed("README.md", "Tiny-Q8_0.gguf", "Tiny-UD-Q4_K_XL.gguf", "config.json") == [
        ("Tiny-Q8_0.gguf", "Q8_0", 1),
        ("Tiny-UD-Q4_K_XL.gguf", "UD-Q4_K_XL", 1),
    ]


def test_complete_shards_are_one_model() -> None:
    assert listed(
        "Q8_0/Big-00002-of-00002.gguf",
        "Q8_0/Big-00001-of-00002.gguf",
        "BF16/Big-BF16-00001-of-00003.gguf",
        "BF16/Big-BF16-00003-of-00003.gguf",
    ) == [("Q8_0/Big-00001-of-00002.gguf", "Q8_0", 2)]


def test_the_folder_may_name_the_quantization() -> None:
    assert listed("UD-IQ2_M/Big-00001-of-00001.gguf") == [
        ("UD-IQ2_M/Big-00001-of-00001.gguf", "UD-IQ2_M", 1)
    ]


@pytest.mark.parametrize(
    "name",
    [
        "imatrix.gguf",
        "Tiny.imatrix.gguf",
        "mtp-Tiny-Q8_0.gguf",
        "eagle3-Tiny.gguf",
        "mmproj-F16.gguf",
        "ggml-vocab-qwen2.gguf",
        ".hidden.gguf",
        "../out.gguf",
        "model.safetensors",
    ],
)
def test_other_files_are_not_models(name: str) -> None:
    assert listed(name, "Tiny-Q8_0.gguf") == [("Tiny-Q8_0.gguf", "Q8_0", 1)]


@pytest.mark.parametrize(
    ("projectors", "best"),
    [
        (["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-Q8_0.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-model-f32.gguf", "mmproj-model-q8_0.gguf"], "mmproj-model-q8_0.gguf"),
        (["Tiny-mmproj-fp16.gguf", "mmproj-Tiny-Q8_0.gguf"], "Tiny-mmproj-fp16.gguf"),
    ],
)
def test_the_best_projector_goes_with_every_quantization(projectors: list[str], best: str) -> None:
    for model in repository("Tiny-Q4_K_M.gguf", "Q8/Tiny-Q8_0.gguf", *projectors).models:
        assert model.projector is not None
        assert model.projector.path == best
        assert model.size_bytes == 200
        assert model.weights_bytes == 100


def test_a_projector_goes_only_with_its_own_model() -> None:
    models = repository(
        "Tiny-Q4_K_M.gguf", "Other-Q4_K_M.gguf", "mmproj-Other-F16.gguf", "mmproj-F16.gguf"
    ).models
    found = {model.name: model.projector for model in models}
    assert found["Tiny-Q4_K_M"] is None
    assert found["Other-Q4_K_M"] is not None
    assert found["Other-Q4_K_M"].path == "mmproj-Other-F16.gguf"


def test_a_projector_in_a_models_folder_belongs_to_that_model() -> None:
    models = repository(
        "a/One-Q4_0.gguf", "a/mmproj-F16.gguf", "b/Two-Q4_0.gguf", "b/mmproj-F16.gguf"
    ).models
    assert [model.projector.path for model in models if model.projector] == [
        "a/mmproj-F16.gguf",
        "b/mmproj-F16.gguf",
    ]


def test_unknown_sizes_give_no_sum() -> None:
    files = [
        PlannedFile("A-00001-of-00002.gguf", 5, None, None),
        PlannedFile("A-00002-of-00002.gguf", None, None, None),
    ]
    assert models_of(files)[0].size_bytes is None


@pytest.mark.parametrize(
    ("paths", "filename"),
    [
        (["T-Q2_K.gguf", "T-Q8_0.gguf", "T-Q4_K_M.gguf"], "T-Q4_K_M.gguf"),
        (["T-Q2_K.gguf", "T-Q8_0.gguf", "T-Q6_K.gguf"], "T-Q8_0.gguf"),
        (["T-Q6_K.gguf", "T-Q2_K.gguf"], "T-Q2_K.gguf"),
    ],
)
def test_the_default_choice(paths: list[str], filename: str) -> None:
    assert choose(repository(*paths), None).filename == filename


@pytest.mark.parametrize(
    "wanted",
    [
        "x/T-Q8_0-00001-of-00002.gguf",
        "x/T-Q8_0-00002-of-00002.gguf",
        "T-Q8_0-00001-of-00002.gguf",
        "T-Q8_0",
        "t-q8_0",
        "Q8_0",
        "q8_0",
    ],
)
def test_a_model_is_found_by_path_name_or_quantization(wanted: str) -> None:
    here = repository(
        "x/T-Q8_0-00001-of-00002.gguf", "x/T-Q8_0-00002-of-00002.gguf", "T-UD-Q8_K_XL.gguf"
    )
    assert choose(here, wanted).filename == "x/T-Q8_0-00001-of-00002.gguf"


def test_nothing_is_guessed() -> None:
    here = repository("a/T-Q8_0.gguf", "b/T-Q8_0.gguf", "T-Q4_0.gguf")
    with pytest.raises(HubError, match=r"a/T-Q8_0\.gguf, b/T-Q8_0\.gguf"):
        choose(here, "Q8_0")
    with pytest.raises(HubNotFoundError, match="Q4_0"):
        choose(here, "Q8")
    with pytest.raises(HubNotFoundError, match="no complete model"):
        choose(repository("README.md"), None)


def test_a_plan_has_all_files_of_the_commit() -> None:
    here = repository("T-Q8_0.gguf", "T-Q4_0.gguf", "mmproj-F16.gguf")
    plan = plan_of(here, choose(here, "Q8_0"))
    check_plan(plan)
    assert [file.path for file in plan.files] == ["T-Q8_0.gguf", "mmproj-F16.gguf"]
    assert (plan.revision, plan.filename, plan.quantization) == ("c0ffee", "T-Q8_0.gguf", "Q8_0")


def test_quantizations_of_one_model_are_one_family() -> None:
    models = repository("T-Q8_0.gguf", "T-Q4_K_M.gguf", "U-Q8_0.gguf").models
    assert len({family(model) for model in models}) == 2


@pytest.mark.parametrize(
    ("heads", "best"),
    [
        (["mtp-Tiny-BF16.gguf", "mtp-Tiny-Q4_K_M.gguf"], "mtp-Tiny-Q4_K_M.gguf"),
        (["eagle3-Tiny-Q8_0.gguf", "mtp-Tiny-BF16.gguf"], "mtp-Tiny-BF16.gguf"),
        (["MTP/mtp-Tiny-Q8_0.gguf"], "MTP/mtp-Tiny-Q8_0.gguf"),
        (["mtp-Tiny-BF16.gguf", "mtp-Tiny-Q8_0.gguf"], "mtp-Tiny-Q8_0.gguf"),
        (["mtp-Q8_0.gguf"], "mtp-Q8_0.gguf"),
        (["mtp-Other-Q8_0.gguf", "sub/mtp-Tiny-Q8_0.gguf", "dspark-Tiny-Q8_0.gguf"], None),
    ],
)
def test_a_draft_head_goes_with_its_model(heads: list[str], best: str | None) -> None:
    one = repository("Tiny-Q4_K_M.gguf", *heads)
    (model,) = one.models
    assert (model.draft.path if model.draft else None) == best
    plan = plan_of(one, model)
    check_plan(plan)
    assert [file.path for file in plan.files] == ["Tiny-Q4_K_M.gguf", *([best] if best else [])]
    assert model.size_bytes == 100 * len(plan.files)
    assert model.weights_bytes == 100

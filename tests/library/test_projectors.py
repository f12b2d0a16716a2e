"""The choice of projectors by places, names and headers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.library.stores import Stores
from cyber_inference_tui.settings.schema import ModelSettings
from tests.gguf.headers import write_gguf
from tests.library.conftest import PROJECTOR, Home

TEXT = {"general.name": "Story", "llama.embedding_length": 128}


def eyes(home: Home) -> dict[str, str | None]:
    """Return each model's projector, by its path below ``models_dir``."""
    return {
        model_id: str(model.mmproj.relative_to(home.models_dir)) if model.mmproj else None
        for model_id, model in home.scan().models.items()
    }


# In folders


def test_the_projector_of_a_repository_is_that_of_its_folders(home: Home) -> None:
    repo = "unsloth/Big-VL-GGUF"
    home.projector(f"{repo}/mmproj-F16.gguf", {"general.name": "mmproj"})
    home.model(f"{repo}/UD-Q4_K_XL/Big-VL-UD-Q4_K_XL.gguf")
    home.model(f"{repo}/Q8_0/Big-VL-Q8_0.gguf")
    home.shards(f"{repo}/BF16/Big-VL-BF16", 2)
    home.model("unsloth/Story-GGUF/Story-Q4_K_M.gguf", TEXT)
    assert eyes(home) == {
        "Big-VL-UD-Q4_K_XL": f"{repo}/mmproj-F16.gguf",
        "Big-VL-Q8_0": f"{repo}/mmproj-F16.gguf",
        "Big-VL-BF16": f"{repo}/mmproj-F16.gguf",
        "Story-Q4_K_M": None,
    }
    assert not home.scan().problems


def test_models_beside_the_projector_do_not_keep_it_from_models_below(home: Home) -> None:
    home.projector("Big-VL/mmproj-F16.gguf")
    home.model("Big-VL/Big-VL-Q4_K_M.gguf")
    home.model("Big-VL/BF16/Big-VL-BF16.gguf")
    home.model("Big-VL/extras/Story-Q4_K_M.gguf", {"general.name": "Story"})
    assert eyes(home) == {
        "Big-VL-Q4_K_M": "Big-VL/mmproj-F16.gguf",
        "Big-VL-BF16": "Big-VL/mmproj-F16.gguf",
        "Story-Q4_K_M": None,
    }


@pytest.mark.parametrize("architecture", ["qwen2vl", "llama"])
def test_another_model_beside_it_does_not_take_it_from_models_below(
    home: Home, architecture: str
) -> None:
    """By the model's purpose, else by the folder's name."""
    big = {"general.architecture": architecture, "general.name": "Big"}
    home.projector("Big-VL-GGUF/mmproj-F16.gguf", {"general.name": "mmproj"})
    home.model("Big-VL-GGUF/Q4_K_M/Big-VL-Q4_K_M.gguf", big)
    home.model("Big-VL-GGUF/Q8_0/Big-VL-Q8_0.gguf", big)
    home.model("Big-VL-GGUF/Story-Q4_K_M.gguf", {"general.name": "Story"})
    assert eyes(home) == {
        "Big-VL-Q4_K_M": "Big-VL-GGUF/mmproj-F16.gguf",
        "Big-VL-Q8_0": "Big-VL-GGUF/mmproj-F16.gguf",
        "Story-Q4_K_M": None,
    }


def test_the_nearest_projector_wins(home: Home) -> None:
    home.projector("repo/mmproj-F16.gguf")
    home.projector("repo/Q4/mmproj-F16.gguf")
    home.model("repo/Q4/Big-VL-Q4_0.gguf")
    home.model("repo/Q8/Big-VL-Q8_0.gguf")
    assert eyes(home) == {
        "Big-VL-Q4_0": "repo/Q4/mmproj-F16.gguf",
        "Big-VL-Q8_0": "repo/mmproj-F16.gguf",
    }


def test_a_folder_of_projectors_is_its_repositorys(home: Home) -> None:
    home.projector("repo/mmproj/mmproj-F16.gguf")
    home.model("repo/Big-VL-Q4_0.gguf")
    assert eyes(home) == {"Big-VL-Q4_0": "repo/mmproj/mmproj-F16.gguf"}


def test_a_projector_in_the_models_directory_itself_is_not_everybodys(home: Home) -> None:
    home.projector("mmproj-F16.gguf", {"general.name": "mmproj"})
    home.projector("mmproj-Seer-7B-F16.gguf", {"general.name": "mmproj"})
    home.model("story/Story-Q4_K_M.gguf")
    home.model("seer/Seer-7B-Q4_K_M.gguf")
    assert eyes(home) == {
        "Story-Q4_K_M": None,
        "Seer-7B-Q4_K_M": "mmproj-Seer-7B-F16.gguf",
    }


def test_a_models_directory_that_is_a_repository_itself(home: Home) -> None:
    home.projector("mmproj-F16.gguf")
    home.model("UD-Q4_K_XL/Big-VL-UD-Q4_K_XL.gguf")
    assert eyes(home) == {"Big-VL-UD-Q4_K_XL": "mmproj-F16.gguf"}


def test_a_projector_above_several_models_is_nobodys_for_certain(home: Home) -> None:
    home.projector("owner/mmproj-F16.gguf", {"general.name": "mmproj"})
    home.model("owner/a/Story-Q4_K_M.gguf")
    home.model("owner/b/Seer-Q4_K_M.gguf")
    assert set(eyes(home).values()) == {None}
    (problem,) = home.scan().problems
    assert "without a certain model" in problem.reason


def test_a_snapshot_of_the_hub_cache_is_a_repository(home: Home) -> None:
    repo = home.root / "hub/models--unsloth--HubVL-GGUF"
    snapshot = repo / "snapshots/aaaa"
    for name, facts in (
        ("mmproj-F16.gguf", PROJECTOR),
        ("other/HubVL-Q4_K_XL.gguf", None),
        ("Q8_0/HubVL-Q8_0.gguf", None),
    ):
        blob = write_gguf(repo / "blobs" / name.replace("/", "-"), facts)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    models = home.scan(stores=Stores((home.root / "hub",))).models
    assert {model.mmproj for model in models.values()} == {snapshot / "mmproj-F16.gguf"}
    assert len(models) == 2


@pytest.mark.parametrize("store", ["model_dirs", "lm studio"])
def test_other_directories_too(home: Home, store: str) -> None:
    root = home.root / "more"
    repo = root / "maker/Big-VL-GGUF"
    write_gguf(repo / "mmproj-F16.gguf", PROJECTOR)
    write_gguf(repo / "Q8_0/Big-VL-Q8_0.gguf")
    if store == "model_dirs":
        catalog = home.scan(model_dirs=[root])
    else:
        catalog = home.scan(stores=Stores((), (root,)))
    assert catalog.models["Big-VL-Q8_0"].mmproj == repo / "mmproj-F16.gguf"


def test_a_projector_above_goes_with_its_last_model(home: Home) -> None:
    projector = home.projector("repo/mmproj-F16.gguf")
    home.model("repo/Q4/Big-VL-Q4_0.gguf")
    home.model("repo/Q8/Big-VL-Q8_0.gguf")
    library = home.library()
    library.delete(library.scan(), "Big-VL-Q4_0")
    assert projector.exists()
    library.delete(library.scan(), "Big-VL-Q8_0")
    assert list(home.models_dir.iterdir()) == []


# Beside other files


@pytest.mark.parametrize(
    "other",
    [
        "Big-VL-7B-Q4_K_P.gguf",
        "Big-VL-7B-Q4_K_M-imat.gguf",
        "Big-VL-7B-imatrix-IQ4_XS.gguf",
        "Big-VL-7B.i1-Q4_K_M.gguf",
        "Big-VL-7B-MTP-Q4_K_M.gguf",
    ],
)
def test_another_form_of_the_model_has_the_projector_as_well(home: Home, other: str) -> None:
    home.model("Big-VL-7B-Q4_K_M.gguf", {"general.name": "Big"})
    home.model(other, {"general.name": "Big"})
    home.projector("mmproj-F16.gguf", {"general.name": "mmproj"})
    assert set(eyes(home).values()) == {"mmproj-F16.gguf"}


def test_forms_that_differ_in_their_last_words(home: Home) -> None:
    home.model("Big-VL-7B-APEX-Quality.gguf", {"general.name": "Big"})
    home.model("Big-VL-7B-APEX-Compact.gguf", {"general.name": "Big"})
    home.projector("mmproj.gguf", {"general.name": "mmproj"})
    assert set(eyes(home).values()) == {"mmproj.gguf"}


@pytest.mark.parametrize(
    "other",
    [
        "Big-VL-7B-draft-Q8_0.gguf",
        "mtp-Big-VL-7B-Q8_0.gguf",
        "eagle3-Big-VL-7B.gguf",
        "Big-VL-7B-head.gguf",
    ],
)
@pytest.mark.parametrize("width", [None, 64])
def test_a_helper_does_not_take_it_away(home: Home, other: str, width: int | None) -> None:
    home.model("Big-VL-7B-Q4_K_M.gguf", {"general.name": "Big", "llama.block_count": 4})
    home.model(other, TEXT)
    facts = {"general.name": "mmproj"} | ({"clip.vision.projection_dim": width} if width else {})
    home.projector("mmproj-F16.gguf", facts)
    assert eyes(home) == {
        "Big-VL-7B-Q4_K_M": "mmproj-F16.gguf",
        other.removesuffix(".gguf"): None,
    }


@pytest.mark.parametrize("folder", ["", "Big-VL-7B-GGUF/"])
def test_another_model_does_not_take_it_away(home: Home, folder: str) -> None:
    """The vector lengths in the headers decide, else the folder's name."""
    home.model(f"{folder}Big-VL-7B-Q4_K_M.gguf", {"general.name": "Big"})
    home.model(f"{folder}Story-3B-Q4_K_M.gguf", TEXT)
    width: dict[str, object] = {} if folder else {"clip.vision.projection_dim": 64}
    home.projector(f"{folder}mmproj-F16.gguf", {"general.name": "mmproj", **width})
    assert eyes(home) == {
        "Big-VL-7B-Q4_K_M": f"{folder}mmproj-F16.gguf",
        "Story-3B-Q4_K_M": None,
    }


def test_a_model_made_for_images_is_preferred(home: Home) -> None:
    sees = {"general.architecture": "qwen2vl", "qwen2vl.embedding_length": 64}
    home.model("Seer-7B-Q4_K_M.gguf", {"general.name": "Seer", **sees})
    home.model("Story-7B-Q4_K_M.gguf", {"general.name": "Story"})
    home.projector("mmproj.gguf", {"general.name": "mmproj", "clip.vision.projection_dim": 64})
    assert eyes(home) == {"Seer-7B-Q4_K_M": "mmproj.gguf", "Story-7B-Q4_K_M": None}


def test_the_kind_of_a_projector_identifies_its_model(home: Home) -> None:
    home.projector("mix/mmproj-F16.gguf", {"clip.projector_type": "gemma3", "general.name": "p"})
    home.model("mix/gemma-3-4b-it-Q4_K_M.gguf", {"general.architecture": "gemma3"})
    home.model("mix/Qwen3-4B-Q4_K_M.gguf", {"general.architecture": "qwen3"})
    assert eyes(home) == {
        "Qwen3-4B-Q4_K_M": None,
        "gemma-3-4b-it-Q4_K_M": "mix/mmproj-F16.gguf",
    }


def test_a_longer_name_is_not_that_of_a_helper(home: Home) -> None:
    """Like Qwen3-8B and Qwen3-VL-8B: of the same size, and one of them reads images."""
    sees = {"general.architecture": "qwen3vl", "qwen3vl.embedding_length": 64}
    home.model("Seer-8B-Q4_K_M.gguf", {"general.name": "a"})
    home.model("Seer-VL-8B-Q4_K_M.gguf", {"general.name": "b", **sees})
    home.projector("mmproj-F16.gguf", {"general.name": "mmproj"})
    assert eyes(home) == {"Seer-8B-Q4_K_M": None, "Seer-VL-8B-Q4_K_M": "mmproj-F16.gguf"}


def test_a_name_like_a_helpers_in_several_quantizations(home: Home) -> None:
    home.model("Eagle2-9B-Q4_K_M.gguf")
    home.model("Eagle2-9B-Q8_0.gguf")
    home.projector("mmproj-F16.gguf")
    assert set(eyes(home).values()) == {"mmproj-F16.gguf"}


def test_a_projector_that_a_table_names_is_in_use(home: Home) -> None:
    home.model("Story-Q4_K_M.gguf", {"general.name": "a"})
    home.model("Seer-Q4_K_M.gguf", {"general.name": "b"})
    path = home.projector("mmproj-F16.gguf", {"general.name": "mmproj"})
    assert [Path(one.where) for one in home.scan().problems] == [path]
    tables = {"Seer-Q4_K_M": ModelSettings(mmproj=path)}
    assert not home.scan(model_settings=tables).problems


def test_sizes_of_one_series_are_different_models(home: Home) -> None:
    home.model("Seer-4b-it-Q4_K_M.gguf", {"general.name": "a"})
    home.model("Seer-27b-it-Q4_K_M.gguf", {"general.name": "b"})
    home.projector("mmproj-F16.gguf", {"general.name": "mmproj"})
    assert set(eyes(home).values()) == {None}


def test_a_request_for_a_projector_explains_it(home: Home) -> None:
    home.model("v/Big-VL-Q4_K_M.gguf")
    for name in ("F16", "F32"):
        home.projector(f"v/mmproj-{name}.gguf")
    catalog = home.scan()
    assert not catalog.problems
    for name in ("mmproj-F16", "v/mmproj-F32", "MMPROJ-f32.gguf"):
        with pytest.raises(ModelNotFoundError, match="it is a projector"):
            catalog.resolve(name)


def test_a_path_is_not_mixed_up_with_another(home: Home) -> None:
    home.model("a/lora.gguf", {"general.type": "adapter"})
    with pytest.raises(ModelNotFoundError) as caught:
        home.scan().resolve("b/lora")
    assert "adapter" not in str(caught.value)
    assert Path(home.scan().problems[0].where) == home.models_dir / "a/lora.gguf"

"""The models of a hub repository, judged for a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.hub.download_plan import PlannedFile
from cyber_inference_tui.hub.repository import Repository, models_of
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.need_estimate import formula_need
from cyber_inference_tui.llama.needs import Footprint, Need
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import Fit, HubFilesRecord, ModelStatus
from cyber_inference_tui.scheduler.fit import FitCheck
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView
from cyber_inference_tui.service.offers import EstimateNeed, offers
from cyber_inference_tui.settings.schema import Settings

GB = 10**9
HEADER = ModelMetadata(
    architecture="llama",
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=(8,) * 32,
    key_length=128,
    value_length=128,
    context_length=131072,
    vocabulary=128000,
    feed_forward_length=14336,
)
SIZES = {"Q8_0": 8, "Q4_K_M": 5, "Q2_K": 3}


def repository(**more: int) -> Repository:
    files = [PlannedFile(f"Tiny-{name}.gguf", size * GB, "a" * 64) for name, size in SIZES.items()]
    files += [PlannedFile(f"{name}.gguf", size) for name, size in more.items()]
    return Repository(repo="owner/tiny", revision="c0ffee", models=models_of(files))


def fit_check(free: int, views: Sequence[ModelView] = (), *, card: int = 0) -> FitCheck:
    return FitCheck(
        (),
        views,
        limits=LoadLimits(),
        memory=FreeMemory(at=100.0, free=Amount(free * GB, card * GB), cards=bool(card)),
        reading=MemoryReading(total=16 * GB, available=free * GB, gpus=()),
        settings=Settings(max_memory_percent=100),
        now=100.0,
    )


def estimate_need(model: LocalModel) -> Need:
    return formula_need(resolve(model, Settings()))


def looked(
    repo: Repository,
    check: FitCheck,
    *,
    header: ModelMetadata | None = HEADER,
    local: Sequence[LocalModel] = (),
    estimate_need: EstimateNeed = estimate_need,
) -> dict[str, HubFilesRecord]:
    headers = {model.filename: header for model in repo.models} if header else {}
    found = offers(repo, headers, local=local, estimate_need=estimate_need, fit_check=check)
    return {record.quantization or "": record for record in found}


def test_each_model_has_its_need_and_its_fit() -> None:
    found = looked(repository(), fit_check(7))
    assert {name: one.fits for name, one in found.items()} == {
        "Q8_0": Fit.NEVER,
        "Q4_K_M": Fit.NOW,
        "Q2_K": Fit.NOW,
    }
    assert [name for name, one in found.items() if one.suggested] == ["Q4_K_M"]
    estimate = found["Q4_K_M"].memory_estimate_bytes
    assert estimate is not None
    assert 6 * GB < estimate < 7 * GB  # the file, and 1 GiB of cache for 8,192 tokens
    assert found["Q4_K_M"].files[0].sha256 == "a" * 64


def test_the_victims_are_named() -> None:
    idle = ModelView(
        id="idle",
        status=ModelStatus.LOADED,
        freed_on_unload=Amount(host=6 * GB),
        need=Need(footprint=Footprint(host=6 * GB)),
    )
    found = looked(repository(), fit_check(1, [idle]))
    assert found["Q4_K_M"].fits is Fit.AFTER_UNLOADING
    assert found["Q4_K_M"].evicts == ("idle",)


def test_a_model_without_a_header_has_no_estimate() -> None:
    found = looked(repository(), fit_check(7), header=None)
    assert {one.fits for one in found.values()} == {None}
    assert {one.memory_estimate_bytes for one in found.values()} == {None}
    assert not any(one.suggested for one in found.values())
    assert found["Q8_0"].size_bytes == 8 * GB


def test_the_projector_counts() -> None:
    found = looked(repository(**{"mmproj-F16": GB}), fit_check(100))
    plain = looked(repository(), fit_check(100))
    assert found["Q8_0"].projector is not None
    assert found["Q8_0"].size_bytes == 9 * GB
    more, less = found["Q8_0"].memory_estimate_bytes, plain["Q8_0"].memory_estimate_bytes
    assert more is not None
    assert less is not None
    assert more - less == GB


def test_a_projector_in_main_memory_may_make_a_model_fit() -> None:
    def on_the_card(model: LocalModel) -> Need:
        return formula_need(resolve(model, Settings(llama_args=("-ngl", "99"))), devices=("CUDA0",))

    repo = repository(**{"mmproj-F16": 2 * GB})
    found = looked(repo, fit_check(9, card=7), estimate_need=on_the_card)
    assert {name: (one.fits, one.projector_kept_back) for name, one in found.items()} == {
        "Q8_0": (Fit.NEVER, False),
        "Q4_K_M": (Fit.NOW, True),
        "Q2_K": (Fit.NOW, False),
    }


def test_a_local_model_has_its_id() -> None:
    here = LocalModel(id="mine", path=Path("/m/owner/tiny/Tiny-Q8_0.gguf"), size_bytes=1, shards=())
    elsewhere = LocalModel(
        id="other", path=Path("/cache/x/Tiny-Q4_K_M.gguf"), size_bytes=5 * GB, shards=()
    )
    unlike = LocalModel(id="third", path=Path("/cache/Tiny-Q2_K.gguf"), size_bytes=7, shards=())
    found = looked(repository(), fit_check(100), local=[here, elsewhere, unlike])
    assert {name: one.local_id for name, one in found.items()} == {
        "Q8_0": "mine",
        "Q4_K_M": "other",
        "Q2_K": None,
    }

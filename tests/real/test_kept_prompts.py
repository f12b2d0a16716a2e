"""Prompts that outlive their server: used when they are whole, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gguf.synthetic_recurrent import falcon_h1
from tests.real.conftest import Starter, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

TEXT = "She reads the same long page again and again. " * 150
ONE_PLACE = {"max_loaded_models": 1}


def ask(service: ServiceProcess, model: str = "demo", text: str = TEXT) -> tuple[str, float]:
    """The answer to a long prompt, and the share of it that was cached."""
    fields: dict[str, Any] = {"model": model, "prompt": text, "max_tokens": 8, "temperature": 0}
    response = service.post("/v1/completions", json=fields)
    assert response.status_code == 200, response.text
    found = response.json()
    usage = found["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return found["choices"][0]["text"], cached / usage["prompt_tokens"]


def slot_files(service: ServiceProcess) -> list[Path]:
    return sorted((service.data_dir / "prompts").glob("*/slot-*"))


def kept(service: ServiceProcess, model: str = "demo") -> Any:
    return service.get(f"/admin/models/{model}/details").json()["kept_prompts"]


def unload(service: ServiceProcess, model: str = "demo") -> None:
    assert service.post(f"/admin/models/{model}/unload", json={}).status_code == 200
    eventually(lambda: service.model(model)["status"] == "unloaded")


def await_kept(service: ServiceProcess, model: str = "demo") -> None:
    """Wait until the files are taken over, which ends after the unload."""
    eventually(lambda: kept(service, model)["works"])


def test_two_models_in_turn_do_not_read_their_prompts_again(start_real: StartReal) -> None:
    service = start_real(ONE_PLACE, copies=("other",))
    first = {model: ask(service, model) for model in ("demo", "other")}
    assert {cached for _, cached in first.values()} == {0.0}
    for model in ("demo", "other"):
        text, cached = ask(service, model)
        assert text == first[model][0]
        assert cached > 0.9
    record = kept(service)
    assert record["works"] is True
    assert (record["prompts"], record["tokens"] > 1000) == (1, True)


def test_a_prompt_outlives_the_service(start_real: StartReal) -> None:
    service = start_real()
    before, _ = ask(service)
    service.stop()
    service.start()
    after, cached = ask(service)
    assert after == before
    assert cached > 0.9


def test_a_poisoned_file_is_not_used(start_real: StartReal) -> None:
    service = start_real()
    before, _ = ask(service)
    unload(service)
    await_kept(service)
    (path,) = slot_files(service)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(range(256)) * 16
    path.write_bytes(data)
    after, cached = ask(service)
    assert (after, cached) == (before, 0.0)
    assert slot_files(service) == []
    assert "deleted 1 kept prompt with damaged files" in service.errors_path.read_text()


def test_a_service_that_is_killed_while_it_saves_leaves_nothing_that_is_used(
    start_real: StartReal,
) -> None:
    service = start_real()
    before, _ = ask(service)
    service.post("/admin/models/demo/unload", json={})
    eventually(lambda: slot_files(service) or service.model("demo")["status"] == "unloaded")
    service.kill()
    # A file that is not whole, whatever the moment was.
    folder = next((service.data_dir / "prompts").iterdir())
    (folder / "slot-0.new").write_bytes(b"qsgg")
    service.start()
    after, _ = ask(service)
    assert after == before
    assert [path for path in slot_files(service) if path.suffix] == []


def test_nobody_has_to_keep_prompts(start_real: StartReal) -> None:
    service = start_real({**ONE_PLACE, "keep_prompts": False}, copies=("other",))
    for _ in range(2):
        for model in ("demo", "other"):
            assert ask(service, model)[1] == 0.0
    assert not (service.data_dir / "prompts").exists()
    details = service.get("/admin/models/other/details").json()
    assert "--slot-save-path" not in details["command"]
    assert details["kept_prompts"]["reason"] == "keep_prompts is off"


def test_switching_it_off_deletes_the_files(start_real: StartReal) -> None:
    service = start_real()
    ask(service)
    unload(service)
    await_kept(service)
    with service.owner() as owner:
        assert owner.put("/admin/config/keep_prompts", json={"value": False}).is_success
    eventually(lambda: not (service.data_dir / "prompts").exists())


def test_a_model_that_cannot_do_it_says_so(
    starter: Starter, llama_server: Path, tmp_path: Path
) -> None:
    # Without its checkpoints a recurrent model cannot go back to an earlier token.
    path = falcon_h1(layers=2).write(tmp_path / "hybrid.gguf")
    table = {"path": str(path), "args": ["--ctx-checkpoints", "0"]}
    service = starter.real(llama_server, {"models": {"hybrid": table}}, ())
    before, _ = ask(service, "hybrid", TEXT[:900])
    unload(service, "hybrid")
    record = eventually(lambda: found if (found := kept(service, "hybrid"))["reason"] else None)
    assert record["works"] is False
    assert record["reason"] == "it reads 100 % of a restored prompt again"
    assert slot_files(service) == []
    after, cached = ask(service, "hybrid", TEXT[:900])
    assert (after, cached) == (before, 0.0)


@pytest.mark.parametrize(
    "path", ["/slots/0?action=save", "/upstream/demo/slots/0?action=restore", "/slot%73/0"]
)
def test_clients_cannot_use_the_folder(start_real: StartReal, path: str) -> None:
    service = start_real()
    ask(service)
    refused = service.post(path, json={"model": "demo", "filename": "slot-0"})
    assert refused.status_code == 400
    assert "--slot-save-path" in refused.text
    assert slot_files(service) == []


def test_a_folder_of_ones_own_is_for_clients(start_real: StartReal, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    own = {"args": ["--slot-save-path", str(folder)]}
    service = start_real({"models": {"demo": own}})
    ask(service)
    for path in ("/slots/0", "/upstream/demo/slots/0"):
        saved = service.post(f"{path}?action=save", json={"model": "demo", "filename": "a"})
        assert saved.status_code == 200, saved.text
    assert (folder / "a").exists()
    unload(service)
    assert slot_files(service) == []
    assert "of their own" in kept(service)["reason"]

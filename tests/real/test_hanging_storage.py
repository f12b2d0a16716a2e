"""A folder whose disk or network mount does not answer, made so by a preloaded library."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w

from tests.fakes.launcher import write_fake_llama
from tests.real.imported_service import ImportedService
from tests.real.service_process import ServiceProcess, chat_body, plain_environ
from tests.tools import tool
from tests.waiting import LIMIT, eventually

SOURCE = Path(__file__).parent.parent / "fakes/hang.c"
SILENT = "does not answer"


@pytest.fixture(scope="session")
def hang_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = tool("cc")
    library = tmp_path_factory.mktemp("hang") / "hang.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("the library that hangs is for Linux with glibc")
    return library


@pytest.fixture(scope="module")
def imported(hang_library: Path) -> Iterator[ImportedService]:
    """What the services are forked from, with the library in it."""
    one = ImportedService({**plain_environ(), "LD_PRELOAD": str(hang_library)})
    yield one
    one.close()


class Place:
    """A service with ``own`` in its models_dir and ``far`` in one of model_dirs, ``nas``."""

    def __init__(
        self,
        folder: Path,
        library: Path,
        demo_gguf: Path,
        hangs: str,
        imported: ImportedService,
    ) -> None:
        self.flag = folder / "flag"
        self.nas = folder / "nas"
        self.own = folder / "own"
        for directory, name in ((self.nas, "far"), (self.own, "own")):
            directory.mkdir()
            shutil.copyfile(demo_gguf, directory / f"{name}.gguf")
        program = write_fake_llama(folder / "fake" / "llama-server")
        dirs = {"models_dir": str(self.own), "model_dirs": [str(self.nas)]}
        if hangs == "models_dir":
            dirs = {"models_dir": str(self.nas), "model_dirs": [str(self.own)]}
        self.config: dict[str, Any] = {
            "llama_server_path": str(program),
            "llama_server_base_port": 0,
            "api_keys": ["first-key-of-the-two", "second-key-of-the-two"],
            **dirs,
        }
        environ = {
            "LD_PRELOAD": str(library),
            "HANG_BELOW": str(self.nas),
            "HANG_FLAG": str(self.flag),
        }
        self.service = ServiceProcess(
            folder / "service", self.config, environ=environ, imported=imported
        )

    def hang(self) -> None:
        self.flag.touch()

    def answer(self) -> None:
        self.flag.unlink()

    def client(self, key: str = "first-key-of-the-two", timeout: float = 10) -> httpx.Client:
        return self.service.client(headers={"authorization": f"Bearer {key}"})

    def models(self) -> set[str]:
        with self.client() as client:
            return {one["id"] for one in client.get("/v1/models", timeout=2).json()["data"]}

    def problems(self) -> list[str]:
        with self.client() as client:
            found = client.get("/admin/problems", timeout=2).json()
        return [f"{one['where']}: {one['reason']}" for one in found]

    def poll_and_give_up(self, times: int) -> None:
        for _ in range(times):
            with self.client() as client, contextlib.suppress(httpx.TimeoutException):
                client.get("/v1/models", timeout=0.4)

    def chat(self, model: str) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/chat/completions", json=chat_body(model), timeout=10)


@pytest.fixture(params=["models_dir", "model_dirs"])
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    hang_library: Path,
    demo_gguf: Path,
    imported: ImportedService,
) -> Iterator[Place]:
    one = Place(tmp_path, hang_library, demo_gguf, request.param, imported)
    yield one
    if one.service.process is not None and one.service.process.poll() is None:
        one.service.stop()


def test_it_starts_says_which_folder_hangs_and_takes_it_when_it_answers(place: Place) -> None:
    place.hang()
    place.service.start()
    assert place.models() == {"own"}
    assert f"{place.nas}: it {SILENT}" in place.service.errors()
    assert [SILENT in one for one in place.problems() if str(place.nas) in one] == [True]
    assert place.chat("own").status_code == 200
    place.answer()
    eventually(lambda: place.models() == {"own", "far"}, what="the models of the folder")
    assert not place.problems()
    assert place.service.errors().count(SILENT) == 1


@pytest.mark.parametrize("place", ["models_dir"], indirect=True)
def test_a_folder_that_begins_to_hang_holds_up_nothing_else(place: Place) -> None:
    place.service.start()
    assert place.models() == {"own", "far"}
    place.hang()
    place.poll_and_give_up(20)
    eventually(place.problems, what="the problem")
    place.poll_and_give_up(20)
    assert place.models() == {"own", "far"}
    # The load that cannot end does not hold up the one that can.
    with ThreadPoolExecutor(1) as pool:
        hopeless = pool.submit(place.chat, "far")
        assert place.chat("own").status_code == 200
        refused = hopeless.result()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_load_failed")
    assert f"{place.nas} {SILENT}" in refused.json()["error"]["message"]
    with place.client() as client:
        deleting = client.delete("/admin/models/far", timeout=20)
        assert deleting.status_code in {409, 503}, deleting.text
        assert client.get("/admin/requests", timeout=2).status_code == 200
        assert client.get("/admin/models/far/details", timeout=10).json()["model"]["id"] == "far"
        # Settings are applied, one after the other.
        for level in ("debug", "info"):
            put = client.put("/admin/config/log_level", json={"value": level}, timeout=5)
            assert put.status_code == 200, put.text
        assert client.get("/admin/resources", timeout=10).status_code == 200
    place.answer()
    eventually(lambda: not place.problems(), what="the end of the problem")
    assert place.models() == {"own", "far"}
    assert place.chat("far").status_code == 200


def test_a_key_that_is_taken_out_is_refused_while_a_folder_hangs(place: Place) -> None:
    place.service.start()
    place.hang()
    for keys in (["first-key-of-the-two", "another-key-of-mine"], ["first-key-of-the-two"]):
        place.service.configure({**place.config, "api_keys": keys})
        removed = "another-key-of-mine" if len(keys) == 1 else "second-key-of-the-two"

        def is_refused(key: str = removed) -> bool:
            with place.client(key) as client:
                return client.get("/v1/models", timeout=2).status_code == 401

        eventually(is_refused, what="the refusal of the key")


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_end_it_while_a_folder_hangs(place: Place, signals: int) -> None:
    place.service.start()
    place.hang()
    place.poll_and_give_up(3)
    eventually(place.problems, what="the problem")
    assert place.chat("own").status_code == 200
    assert place.service.process is not None
    place.service.terminate()
    for _ in range(signals - 1):
        time.sleep(0.1)
        place.service.process.send_signal(signal.SIGTERM)
    assert place.service.wait(LIMIT) == 0, place.service.errors()
    place.service.assert_none_left()
    assert not (place.service.data_dir / "service.json").exists()


def test_a_dead_mount_below_a_folder_does_not_hide_the_rest(place: Place, demo_gguf: Path) -> None:
    (place.own / "link").symlink_to(place.nas)
    place.config["model_dirs"], place.config["models_dir"] = [], str(place.own)
    place.service.config_path.write_text(tomli_w.dumps(place.config))
    place.service.environ["HANG_BELOW"] = str(place.own / "link")
    place.hang()
    place.service.start()
    assert place.models() == {"own"}
    assert str(place.own / "link") in place.service.errors()
    place.answer()
    eventually(lambda: place.models() == {"own", "far"}, what="the models behind the link")


@pytest.mark.parametrize("place", ["models_dir"], indirect=True)
def test_a_slow_folder_comes_in_the_end(place: Place) -> None:
    place.service.environ["HANG_SECONDS"] = "1.7"
    place.hang()
    place.service.start()
    assert "own" in place.models()
    eventually(lambda: place.models() == {"own", "far"}, what="the slow folder")


@pytest.mark.parametrize("what", ["data", "config"])
def test_a_service_that_cannot_start_says_why(
    tmp_path: Path, hang_library: Path, demo_gguf: Path, imported: ImportedService, what: str
) -> None:
    place = Place(tmp_path, hang_library, demo_gguf, "model_dirs", imported)
    service = place.service
    below = service.data_dir if what == "data" else service.config_path
    service.environ["HANG_BELOW"] = str(below)
    place.hang()
    service.spawn()
    assert service.wait(30) == 1
    assert SILENT in service.errors()

"""Fixtures that run the whole service: with a real llama-server, or with the stand-in."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from cyber_inference_tui.gguf.demo import write_demo
from tests.fakes.launcher import write_fake_llama
from tests.real.imported_service import ImportedService
from tests.real.service_process import ServiceProcess, plain_environ

LLAMA_SERVER_VARIABLE = "CYBER_TEST_LLAMA_SERVER"


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """A real llama-server; without one the test is skipped here, and fails where CI runs."""
    named = os.environ.get(LLAMA_SERVER_VARIABLE)
    if named:
        path = Path(named)
        assert path.is_file(), f"{LLAMA_SERVER_VARIABLE} names no file: {path}"
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{LLAMA_SERVER_VARIABLE} must name a llama-server in CI")
    pytest.skip(f"{LLAMA_SERVER_VARIABLE} is not set (scripts/test sets it)")


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's file."""
    path = tmp_path_factory.mktemp("gguf") / "demo.gguf"
    write_demo(path)
    return path


class StartReal(Protocol):
    """Starts a service on the real llama-server, with the model ``demo``."""

    def __call__(
        self, config: Mapping[str, Any] = ..., *, copies: tuple[str, ...] = ...
    ) -> ServiceProcess:
        """``copies`` are ids of further models, each a copy of the demo."""


class StartFake(Protocol):
    """Starts a service on the stand-in, with the given models."""

    def __call__(
        self,
        models: Mapping[str, Mapping[str, Any]] = ...,
        *,
        config: Mapping[str, Any] = ...,
        tables: Mapping[str, Mapping[str, Any]] = ...,
        router_child: bool = ...,
        start: bool = ...,
    ) -> ServiceProcess:
        """``models`` maps ids to their switches; ``tables`` adds to their settings tables."""


class Starter:
    """Makes services in folders of their own and ends them."""

    def __init__(
        self, folder: Path, demo_gguf: Path, imported: ImportedService | None = None
    ) -> None:
        self.folder = folder
        self.demo_gguf = demo_gguf
        self.imported = imported
        self.services: list[ServiceProcess] = []

    def make(
        self,
        config: Mapping[str, Any],
        model_ids: tuple[str, ...],
        arguments: tuple[str, ...] = (),
    ) -> ServiceProcess:
        folder = self.folder / f"service{len(self.services)}"
        service = ServiceProcess(folder, config, arguments=arguments, imported=self.imported)
        models_dir = service.data_dir / "models"
        models_dir.mkdir(parents=True)
        for model_id in model_ids:
            shutil.copyfile(self.demo_gguf, models_dir / f"{model_id}.gguf")
        self.services.append(service)
        return service

    def real(
        self, llama_server: Path, config: Mapping[str, Any], copies: tuple[str, ...]
    ) -> ServiceProcess:
        base = {
            "llama_server_path": str(llama_server),
            "llama_server_base_port": 0,
            "llama_threads": 1,
        }
        return self.make({**base, **config}, copies, ("--demo",)).start()

    def fake(
        self,
        models: Mapping[str, Mapping[str, Any]] = {"a": {}},
        *,
        config: Mapping[str, Any] = {},
        tables: Mapping[str, Mapping[str, Any]] = {},
        router_child: bool = True,
        start: bool = True,
    ) -> ServiceProcess:
        program = write_fake_llama(self.folder / "fake" / "llama-server", router_child=router_child)
        model_tables = {
            model_id: {**tables.get(model_id, {}), "env": {"FAKE_LLAMA": json.dumps(switches)}}
            for model_id, switches in models.items()
        }
        base = {"llama_server_path": str(program), "llama_server_base_port": 0}
        service = self.make({**base, **config, "models": model_tables}, tuple(models))
        return service.start() if start else service

    def end(self) -> None:
        """Stop what runs still; the first failure is told after all are ended."""
        problems = []
        for service in self.services:
            try:
                service.stop() if is_running(service) else service.assert_none_left()
            except AssertionError as error:
                problems.append(error)
        if problems:
            raise problems[0]


def with_states(folder: Path, models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The models' switches, with a state file for each, ``folder/ID.state``."""
    return {
        model_id: {**switches, "state": str(folder / f"{model_id}.state")}
        for model_id, switches in models.items()
    }


def is_running(service: ServiceProcess) -> bool:
    return service.process is not None and service.process.poll() is None


@pytest.fixture(scope="session")
def imported() -> Iterator[ImportedService | None]:
    """What services are forked from where the start itself is not what a test is about."""
    if sys.platform != "linux":
        yield None
        return
    one = ImportedService(plain_environ())
    yield one
    one.close()


@pytest.fixture
def starter(tmp_path: Path, demo_gguf: Path, imported: ImportedService | None) -> Iterator[Starter]:
    one = Starter(tmp_path, demo_gguf, imported)
    yield one
    one.end()


@pytest.fixture(scope="module")
def module_starter(
    tmp_path_factory: pytest.TempPathFactory, demo_gguf: Path, imported: ImportedService | None
) -> Iterator[Starter]:
    """For services that a file's tests share."""
    one = Starter(tmp_path_factory.mktemp("services"), demo_gguf, imported)
    yield one
    one.end()


@pytest.fixture
def executed(starter: Starter) -> None:
    """The test's services are executed, as a user's are, and not forked."""
    starter.imported = None


@pytest.fixture
def start_real(starter: Starter, llama_server: Path) -> StartReal:
    def start(config: Mapping[str, Any] = {}, *, copies: tuple[str, ...] = ()) -> ServiceProcess:
        return starter.real(llama_server, config, copies)

    return start


@pytest.fixture
def start_fake(starter: Starter) -> StartFake:
    return starter.fake


@pytest.fixture(scope="module")
def demo_service(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """One service per file of tests: ``demo``, ``embedder`` and ``ranker``."""
    one = Starter(tmp_path_factory.mktemp("service"), demo_gguf)
    tables = {
        "embedder": {"args": ["--embedding", "--pooling", "mean"]},
        "ranker": {"args": ["--reranking"]},
    }
    yield one.real(llama_server, {"models": tables}, ("embedder", "ranker"))
    one.end()

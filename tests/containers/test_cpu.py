"""The image ``cpu``: built and run for real, by its own entry point, user and environment."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.monitor import trees

from .buildah import Image
from .container import Container

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]

# Neither the image's own user, nor one that any system knows.
ODD_USER = "12345:0"
GRACE = 30.0
CONFIG = "cyber-inference-tui/config.toml"
CHAT = json.dumps(
    {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
).encode()


def fresh_volumes(image: Image, folder: Path) -> dict[str, Path]:
    """New volumes: empty, with the mode that the image's folder has."""
    volumes = {}
    for place in image.volumes:
        volume = folder / place.strip("/")
        volume.mkdir(parents=True)
        volume.chmod((image.root / place.strip("/")).stat().st_mode & 0o7777)
        volumes[place] = volume
    return volumes


@pytest.fixture(scope="module")
def volumes(cpu: Image, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return fresh_volumes(cpu, tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def box(
    cpu: Image, volumes: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """The first start on these volumes, with the demo model."""
    log = tmp_path_factory.mktemp("log") / "first"
    command = [*cpu.command, "--demo"]
    with Container(cpu, user=ODD_USER, mounts=volumes, command=command, log=log) as running:
        running.wait_for_line("listening on ")
        yield running


def key_in(log: str) -> str:
    found = re.search(r"^ +API key +(sk-\w+)$", log, re.MULTILINE)
    assert found, log
    return found[1]


def test_the_image_says_what_it_is(cpu: Image) -> None:
    assert cpu.user not in {"", "0", "root"}
    assert cpu.volumes == ["/config", "/data", "/models"]
    assert cpu.ports == ["8337/tcp"]
    assert cpu.stop_signal == "SIGTERM"
    assert cpu.labels["org.opencontainers.image.licenses"] == "MIT"
    assert cpu.command == ["serve"]


def test_nothing_of_the_build_is_in_the_image(cpu: Image) -> None:
    for name in ("etc/pip.conf", "src", "root/.cache", "root/.config", "root/.local"):
        assert not (cpu.root / name).exists()
    assert not any((cpu.root / "var/lib/apt/lists").glob("*_*"))
    # What was mounted leaves an empty file or folder at most.
    left = [*(cpu.root / "mnt").rglob("*"), cpu.root / "etc/apt/apt.conf.d/99this-machine"]
    assert not [file for file in left if file.is_file() and file.stat().st_size]
    assert not [name for name in cpu.environ if name.startswith("PIP_") or "proxy" in name.lower()]


def test_the_first_start_prints_the_key_and_it_is_needed(
    box: Container, volumes: Mapping[str, Path]
) -> None:
    key = key_in(box.log)
    assert "admin password" in box.log
    assert box.log.rstrip().endswith("listening on http://0.0.0.0:8337")
    assert box.ask("/health")[0] == 200
    assert box.ask("/v1/models")[0] == 401
    assert box.ask("/admin/status")[0] == 401
    assert box.ask("/v1/models", headers={"Authorization": f"Bearer {key}"})[0] == 200
    assert (volumes["/config"] / CONFIG).stat().st_mode & 0o777 == 0o600


def test_a_chat_is_answered(box: Container) -> None:
    status, answer = box.ask(
        "/v1/chat/completions", CHAT, {"Authorization": f"Bearer {key_in(box.log)}"}
    )
    assert status == 200, answer
    assert json.loads(answer)["choices"][0]["message"]["content"].strip()


def test_it_answers_to_its_own_name_and_to_the_host(box: Container) -> None:
    for name in ("box", "localhost", "192.168.1.20", "host.docker.internal"):
        assert box.ask("/health", headers={"Host": f"{name}:8337"})[0] == 200
    assert box.ask("/health", headers={"Host": "evil.example"})[0] == 403


def test_the_health_check_of_the_image_passes(cpu: Image, box: Container) -> None:
    kind, *command = cpu.health["Test"]
    assert kind == "CMD"
    ended = box.run(*command)
    assert ended.returncode == 0, ended.stderr
    # What it would say of a service that does not answer.
    assert box.run("env", "CYBER_INFERENCE_DATA_DIR=/models", *command).returncode != 0


def test_commands_inside_find_the_service(box: Container) -> None:
    ended = box.run("cyber-inference-tui", "status", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["host"] == "0.0.0.0"


def test_a_killed_server_is_reaped_and_replaced(box: Container) -> None:
    key = {"Authorization": f"Bearer {key_in(box.log)}"}
    assert box.ask("/v1/chat/completions", CHAT, key)[0] == 200
    servers = {pid for pid, one in box.processes().items() if one[0] == "llama-server"}
    assert servers
    for pid in servers:
        assert box.run("sh", "-c", f"kill -KILL {pid}").returncode == 0
    box.wait_until("the killed servers are gone", lambda: not servers & box.processes().keys())
    assert box.ask("/v1/chat/completions", CHAT, key)[0] == 200


def test_an_orphan_is_reaped(box: Container) -> None:
    # Its parent ends first, so that it becomes the child of the container's first process.
    ended = box.run("sh", "-c", "sh -c 'sleep 600 >/dev/null 2>&1 & echo $!'")
    pid = int(ended.stdout)
    assert box.processes()[pid][2] == 1
    assert box.run("sh", "-c", f"kill {pid}").returncode == 0
    box.wait_until("the orphan is gone", lambda: pid not in box.processes())
    zombies = [one for one in box.processes().values() if one[1] == "Z"]
    assert zombies == []


def test_sigterm_ends_it_and_the_volumes_stay(
    cpu: Image, box: Container, volumes: Mapping[str, Path], tmp_path: Path
) -> None:
    key = key_in(box.log)
    assert box.stop(GRACE) == 0, box.log
    # Without the demo this time: the model is in the volume now.
    written = volumes["/models"] / "kept.gguf"
    written.write_bytes(next(volumes["/data"].rglob("demo*.gguf")).read_bytes())
    log = tmp_path / "second"
    with Container(cpu, user=ODD_USER, mounts=volumes, log=log) as again:
        again.wait_for_line("listening on ")
        assert "API key" not in again.log
        status, answer = again.ask("/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert status == 200
        assert [model["id"] for model in json.loads(answer)["data"]] == ["kept"]
        assert again.stop(GRACE) == 0, again.log


def test_the_images_own_user_and_variables(cpu: Image, tmp_path: Path) -> None:
    mounts = fresh_volumes(cpu, tmp_path / "volumes")
    environ = {"CYBER_INFERENCE_API_KEYS": "mine", "CYBER_INFERENCE_ADMIN_PASSWORD": "secret"}
    box = Container(cpu, user=cpu.user, mounts=mounts, environ=environ, log=tmp_path / "log")
    with box:
        box.wait_for_line("listening on ")
        assert "API key" not in box.log
        assert box.ask("/v1/models", headers={"x-api-key": "mine"})[0] == 200
        assert not (mounts["/config"] / CONFIG).exists()
        assert box.stop(GRACE) == 0, box.log


@pytest.mark.parametrize(("place", "code"), [("/config", 5), ("/data", 1)])
def test_a_volume_that_cannot_be_written_is_named(
    cpu: Image, tmp_path: Path, place: str, code: int
) -> None:
    mounts = fresh_volumes(cpu, tmp_path / "volumes")
    mounts[place].chmod(0o755)
    with Container(cpu, user=ODD_USER, mounts=mounts, log=tmp_path / "log") as box:
        assert box.ended(GRACE) == code, box.log
        assert place in box.log
        assert "Permission denied" in box.log
        assert "Traceback" not in box.log


def test_the_monitor_reads_the_machine_below_system_root(cpu: Image, tmp_path: Path) -> None:
    host = tmp_path / "host"
    trees.orin_nano_jetpack6(host)
    # As Docker shows it: the link leads to the container's own /sys, where that part is hidden.
    tree = host / "proc/device-tree"
    shutil.copytree(tree, host / "sys/firmware/devicetree/base", dirs_exist_ok=True)
    shutil.rmtree(tree)
    tree.symlink_to("/sys/firmware/devicetree/base")
    mounts = {**fresh_volumes(cpu, tmp_path / "volumes"), "/host": host}
    environ = {
        "CYBER_INFERENCE_SYSTEM_ROOT": "/host",
        "CYBER_INFERENCE_API_KEYS": "mine",
        "CYBER_INFERENCE_ADMIN_PASSWORD": "secret",
    }
    box = Container(cpu, user=ODD_USER, mounts=mounts, environ=environ, log=tmp_path / "log")
    with box:
        box.wait_for_line("listening on ")
        login = json.loads(box.ask("/admin/login", b'{"password": "secret"}')[1])
        token = {"Authorization": f"Bearer {login['access_token']}"}
        sample = json.loads(box.ask("/admin/resources", headers=token)[1])
    assert sample["device"]["kind"] == "jetson"
    assert sample["device"]["jetpack"] == "6.2"
    assert sample["device"]["power_mode"] == "MAXN_SUPER"
    assert sample["gpus"][0]["utilization_percent"] == 100
    assert sample["power"]["total"] is not None
    assert sample["memory"]["total"] == 7802880 * 1024

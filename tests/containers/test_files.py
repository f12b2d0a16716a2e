"""The Dockerfile and the compose files as texts: linted, and true to each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from cyber_inference_tui.settings.schema import Settings

from .buildah import DOCKERFILE, ROOT

TARGETS = ("cpu", "nvidia", "jetson")
COMPOSE = sorted(ROOT.glob("docker-compose*.yml"))
SERVICE = "cyber-inference"


def run_linter(*command: str) -> None:
    """Run a tool of the dev group; where a checkout does without it, the test is skipped."""
    if shutil.which(command[0]) is None and not os.environ.get("CI"):
        pytest.skip(f"{command[0]} is not installed")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, continued lines joined."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"^ *#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    current: list[str] = []
    for line in text.replace("\\\n", "").splitlines():
        if match := re.fullmatch(r"FROM \S+ AS (\S+)", line):
            current = found[match[1]] = []
        elif line.strip():
            current.append(" ".join(line.split()))
    return found


def service(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / name).read_text())
    value: dict[str, Any] = document["services"][SERVICE]
    return value


def test_the_dockerfile_is_clean() -> None:
    run_linter("hadolint", str(DOCKERFILE))


def test_the_compose_files_fit_their_schema() -> None:
    assert len(COMPOSE) == 3
    files = [str(file) for file in COMPOSE]
    run_linter("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)


def test_the_images_are_run_alike() -> None:
    kinds = r"USER|VOLUME|EXPOSE|STOPSIGNAL|HEALTHCHECK|ENTRYPOINT|CMD|ENV PATH"
    alike = {}
    for target in TARGETS:
        lines = [line for line in stages()[target] if re.match(kinds, line)]
        # Where llama-server is differs.
        alike[target] = [re.sub(r"(?<=tui/bin):\S+?(?=:/usr)", "", line) for line in lines]
    assert len(alike["cpu"]) == 8
    assert alike["nvidia"] == alike["jetson"] == alike["cpu"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("docker-compose.yml", "cpu"),
        ("docker-compose.nvidia.yml", "nvidia"),
        ("docker-compose.jetson.yml", "jetson"),
    ],
)
def test_a_compose_file_builds_its_target(name: str, target: str) -> None:
    build = service(name)["build"]
    assert build["target"] == target
    arguments = re.findall(r"^ARG (\w+)=", DOCKERFILE.read_text(), re.MULTILINE)
    assert set(build.get("args", [])) <= set(arguments)
    assert service(name)["image"] == f"cyber-inference-tui:{target}"


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_each_compose_file_works_alone(file: Any) -> None:
    document = yaml.safe_load(file.read_text())
    # A service that is extended leaves its volumes' declarations behind.
    assert set(document["volumes"]) == {"config", "data", "models"}
    if file.name != "docker-compose.yml":
        extended = document["services"][SERVICE]["extends"]
        assert extended == {"file": "docker-compose.yml", "service": SERVICE}


def test_compose_waits_for_the_end_of_the_service() -> None:
    grace = int(service("docker-compose.yml")["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().shutdown_timeout + Settings().stop_timeout


def test_the_service_answers_to_its_name_in_compose() -> None:
    assert service("docker-compose.yml")["hostname"] == SERVICE


def test_every_volume_of_the_image_is_kept_by_compose() -> None:
    places = {one.rpartition(":")[2] for one in service("docker-compose.yml")["volumes"]}
    line = next(line for line in stages()["cpu"] if line.startswith("VOLUME"))
    assert places == set(re.findall(r'"(/\w+)"', line))

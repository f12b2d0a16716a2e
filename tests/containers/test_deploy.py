"""The manifests for Kubernetes and Nomad: linted, and true to the program and its images."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cyber_inference_tui.settings.schema import KEYS, Settings
from tests.containers.buildah import ROOT
from tests.containers.test_files import stages

KUBERNETES = ROOT / "deploy" / "kubernetes.yaml"
NOMAD = ROOT / "deploy" / "nomad.hcl"
END = Settings().shutdown_timeout + Settings().stop_timeout
"""Seconds that the service may take to end."""


def linter(name: str) -> Any:
    """A linter of the dev group; where a checkout does without it, the test is skipped."""
    return __import__(name) if os.environ.get("CI") else pytest.importorskip(name)


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(KUBERNETES.read_text()))


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = documents()[0]["spec"]["template"]["spec"]
    return spec


def job() -> dict[str, Any]:
    """The job, without the quotes that the parser leaves around texts and names."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {bare(key): bare(one) for key, one in value.items()}
        if isinstance(value, list):
            return [bare(one) for one in value]
        return value.strip('"') if isinstance(value, str) else value

    parsed: dict[str, Any] = bare(linter("hcl2").loads(NOMAD.read_text()))
    (jobs,) = parsed["job"]
    found: dict[str, Any] = jobs["cyber-inference"]
    return found


def tasks() -> dict[str, dict[str, Any]]:
    (group,) = job()["group"]
    return {name: task for one in group["box"]["task"] for name, task in one.items()}


def variables(value: object) -> Iterator[str]:
    yield from re.findall(r"CYBER_INFERENCE_(\w+)", str(value))


def test_the_kubernetes_manifests_fit_their_schemas() -> None:
    lint = linter("kubernetes_validate")
    version = lint.latest_version()
    assert [one["kind"] for one in documents()] == ["DaemonSet", "Service"]
    for document in documents():
        lint.validate(document, version, strict=True)
    wrong = copy.deepcopy(documents()[0])
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(lint.ValidationError):
        lint.validate(wrong, version, strict=True)


def test_kubernetes_waits_for_the_end_of_the_service() -> None:
    assert pod()["terminationGracePeriodSeconds"] > END


def test_kubernetes_asks_health_by_https_at_the_port_of_the_image() -> None:
    (service,) = pod()["containers"]
    (port,) = service["ports"]
    for probe in ("readinessProbe", "livenessProbe"):
        asked = {"path": "/health", "port": port["name"], "scheme": "HTTPS"}
        assert service[probe]["httpGet"] == asked
    assert f"EXPOSE {port['containerPort']}" in stages()["nvidia"]


def test_every_volume_of_the_image_is_kept_by_kubernetes() -> None:
    (service,) = pod()["containers"]
    kept = {one["name"] for one in pod()["volumes"] if "hostPath" in one}
    places = {one["mountPath"] for one in service["volumeMounts"] if one["name"] in kept}
    line = next(line for line in stages()["nvidia"] if line.startswith("VOLUME"))
    assert places == set(re.findall(r'"(/\w+)"', line))


def test_nomad_waits_for_the_end_of_the_service() -> None:
    assert job()["type"] == "system"
    assert int(tasks()["service"]["kill_timeout"].removesuffix("s")) > END
    (service,) = tasks()["service"]["service"]
    (check,) = service["check"]
    assert (check["path"], check["protocol"]) == ("/health", "https")


def test_the_variables_of_both_are_settings() -> None:
    named = {*variables(KUBERNETES.read_text()), *variables(NOMAD.read_text())}
    assert {"API_KEYS", "ADMIN_PASSWORD", "DATA_DIR"} <= named
    assert named <= {key.upper() for key in KEYS}

"""``deploy/pair-kubernetes`` pairs real services, with a ``kubectl`` that only reaches those."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.certificates import Pair
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess

SCRIPT = Path(__file__).parents[2] / "deploy" / "pair-kubernetes"
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
KUBECTL = """#!/bin/sh
case $* in
"get pods --selector app=cyber-inference --output jsonpath="*)
    printf '%s' "$BOXES"
    ;;
"exec --container service pod-"*)
    pod=$4
    shift 6
    exec "$FOLDER/$pod" "$@"
    ;;
*)
    echo "kubectl $*" >&2
    exit 2
    ;;
esac
"""


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def enter(services: dict[str, ServiceProcess], pod: str) -> str:
    """A script that runs a command in a pod; there, all boxes have the port of the image."""
    service = services[pod]
    words = [sys.executable, "-m", "cyber_inference_tui", "--config", str(service.config_path)]
    words += ["--data-dir", str(service.data_dir), "--port", str(service.port)]
    words += ["--host", HOSTS[list(services).index(pod)]]
    ports = "".join(
        f"s|https://{host}:8337|{one.url}|;"
        for host, one in zip(HOSTS, services.values(), strict=True)
    )
    return f"""#!/bin/sh
for word; do
    shift
    set -- "$@" "$(printf '%s' "$word" | sed {shlex.quote(ports)})"
done
exec {shlex.join(words)} "$@"
"""


def test_each_box_is_paired_with_each_other(starter: Starter, tmp_path: Path) -> None:
    services = {}
    for number, host in enumerate(HOSTS):
        folder = tmp_path / host
        folder.mkdir()
        services[f"pod-{number}"] = starter.fake(
            {f"model-{number}": {}}, config={"host": host, **Pair(folder).settings}
        )
    program(tmp_path / "kubectl", KUBECTL)
    for pod in services:
        program(tmp_path / pod, enter(services, pod))
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FOLDER": str(tmp_path),
        "HOME": str(tmp_path),
        "BOXES": " ".join(f"{pod}={host}" for pod, host in zip(services, HOSTS, strict=True)),
    }
    # A second run changes nothing.
    for _ in range(2):
        ended = subprocess.run(
            [str(SCRIPT)], env=environ, capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        for service in services.values():
            assert len(service.config_path.read_text().split("[peers.")) == len(HOSTS)

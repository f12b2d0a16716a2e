"""A real llama-server works in its confinement."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.kernel import Ruleset
from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

pytestmark = pytest.mark.real


def facts(service: ServiceProcess) -> dict[str, str]:
    """Return facts about the process of the model ``demo``, as the kernel names them."""
    folder = Path(f"/proc/{service.model('demo')['pid']}")
    lines = (folder / "status").read_text().splitlines()
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    limits = (folder / "limits").read_text().splitlines()
    found["core"] = next(line.split()[4] for line in limits if line.startswith("Max core"))
    return found


@pytest.mark.parametrize("confined", [True, False])
def test_a_server_is_confined_unless_a_setting_says_otherwise(
    start_real: StartReal, confined: bool
) -> None:
    try:
        Ruleset((), ()).close()
    except OSError:
        pytest.skip("this kernel has no Landlock")
    service = start_real({"confine_servers": confined})
    (service.config_path.parent / "templates").mkdir()
    (service.config_path.parent / "templates/own.jinja").write_text(TEMPLATE)
    slots = service.data_dir / "slots"
    slots.mkdir()
    arguments = ["--chat-template-file", "templates/own.jinja", "--slot-save-path", f"{slots}/"]
    with service.owner() as owner:
        answer = owner.put("/admin/config/models.%22demo%22.args", json={"value": arguments})
    assert answer.is_success, answer.text
    assert service.chat("demo").is_success
    assert service.upstream("demo", "/props")["chat_template"] == TEMPLATE
    saved = service.post("/slots/0?action=save&model=demo", json={"filename": "kept"})
    assert saved.is_success, saved.text
    assert (slots / "kept").stat().st_mode & 0o777 == 0o600
    found = facts(service)
    assert found["NoNewPrivs"] == str(int(confined))
    assert found["Umask"] == "0077"
    assert found["core"] in {"0", "1"}

"""Good and bad facts about the software, and their findings."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.doctor.checks import (
    check_configuration,
    check_directories,
    check_hub,
    check_llama,
    check_models,
    check_security,
    check_service,
)
from cyber_inference_tui.doctor.facts import (
    ConfigurationFacts,
    DirectoryFacts,
    HubFacts,
    LlamaFacts,
    ModelFact,
    ModelsFacts,
    PortState,
    ServiceFacts,
)
from cyber_inference_tui.doctor.gather_network import hub_facts
from cyber_inference_tui.doctor.records import Finding, Level, exit_code
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.records import PortRecord
from cyber_inference_tui.settings.schema import Settings
from tests.doctor.test_hardware_checks import bad, levels

MIB, GIB = 1 << 20, 1 << 30
CONFIGURATION = ConfigurationFacts(path=Path("/c/config.toml"), mode=0o600)
DIRECTORY = DirectoryFacts(
    key="models_dir", path=Path("/m"), exists=True, free=100 * GIB, file_system="ext4"
)
STATE = msgspec.structs.replace(DIRECTORY, key="data_dir", path=Path("/d"))
SERVICE = ServiceFacts(
    host="127.0.0.1",
    port=8337,
    state=PortState.FREE,
    own_version="1.0",
    base_port=8338,
    free_model_ports=200,
)
RUNNING = msgspec.structs.replace(
    SERVICE,
    state=PortState.OURS,
    url="http://127.0.0.1:8337",
    pid=42,
    answers=True,
    running_version="1.0",
)


BINARY = LlamaBinary(
    path=Path("/opt/llama-server"), version="b9", flags=frozenset({"--model", "--port"})
)


def test_a_program_that_is_no_llama_server() -> None:
    binary = msgspec.structs.replace(BINARY, version="unknown", flags=frozenset())
    found = bad(check_llama(LlamaFacts(binary=binary)))
    assert found.level is Level.ERROR
    assert found.message.startswith("/opt/llama-server is not a llama-server")


def test_a_llama_server_that_runs() -> None:
    binary = msgspec.structs.replace(BINARY, devices=("CUDA0", "CUDA1"))
    (found,) = check_llama(LlamaFacts(binary=binary))
    assert found.level is Level.OK
    assert found.message == "/opt/llama-server: version b9, for CUDA0, CUDA1."


def test_a_newer_llama_server_is_a_hint_with_the_source_it_comes_from() -> None:
    _, found = check_llama(LlamaFacts(binary=BINARY, update="b10", source="github"))
    assert found.level is Level.HINT
    assert "b10" in found.message
    assert "install-llama --from github`" in (found.fix or "")


@pytest.mark.parametrize(
    ("hint", "fix"),
    [("Do this.", "Do this."), ("", "`cyber-inference-tui install-llama` gets another.")],
)
def test_no_llama_server(hint: str, fix: str) -> None:
    (found,) = check_llama(LlamaFacts(problem="There is none.", way_out=hint))
    assert found == Finding(
        check="llama-server", level=Level.ERROR, message="There is none.", fix=fix
    )


def test_a_configuration_without_mistakes() -> None:
    (found,) = check_configuration(CONFIGURATION)
    assert (found.level, found.message) == (Level.OK, "/c/config.toml has no mistakes.")
    (found,) = check_configuration(msgspec.structs.replace(CONFIGURATION, exists=False))
    assert found.message == "/c/config.toml is not there: the defaults apply."


def test_every_mistake_is_an_error_of_its_own() -> None:
    mistakes = ("/c:1: prot: unknown setting", "/c:2: host: no")
    found = check_configuration(msgspec.structs.replace(CONFIGURATION, mistakes=mistakes))
    assert [one.message for one in found] == list(mistakes)
    assert levels(found) == [Level.ERROR, Level.ERROR]
    assert all(one.fix for one in found)
    assert exit_code(tuple(found)) == 5


def test_a_warning_of_the_settings() -> None:
    facts = msgspec.structs.replace(CONFIGURATION, warnings=("CYBER_INFERENCE_X: unknown",))
    found = bad(check_configuration(facts))
    assert (found.level, found.message) == (Level.WARNING, "CYBER_INFERENCE_X: unknown.")


def test_settings_that_the_service_refuses() -> None:
    facts = msgspec.structs.replace(
        CONFIGURATION, refusal="host is open.", refusal_way_out="Bind to loopback."
    )
    found = bad(check_configuration(facts))
    assert (found.level, found.fix) == (Level.ERROR, "Bind to loopback.")


@pytest.mark.parametrize(
    ("secrets", "mode", "warns"),
    [
        (("hf_token",), 0o644, True),
        (("hf_token",), 0o620, True),
        (("hf_token",), 0o600, False),
        (("hf_token",), None, False),
        ((), 0o644, False),
    ],
)
def test_secrets_that_others_may_read(
    secrets: tuple[str, ...], mode: int | None, warns: bool
) -> None:
    facts = msgspec.structs.replace(CONFIGURATION, secrets=secrets, mode=mode)
    found = check_security(facts, root_user=False)
    if not warns:
        assert found == []
        return
    assert bad(found).level is Level.WARNING
    assert "hf_token" in bad(found).message
    assert bad(found).fix == "chmod 600 '/c/config.toml'"


def test_an_open_address_without_keys() -> None:
    facts = msgspec.structs.replace(CONFIGURATION, open_host="0.0.0.0")
    found = bad(check_security(facts, root_user=False))
    assert found.level is Level.WARNING
    assert "api_keys and admin_password" in (found.fix or "")
    assert "change its settings" in found.message
    keyed = msgspec.structs.replace(facts, has_keys=True)
    found = bad(check_security(keyed, root_user=False))
    assert "api_keys" not in (found.fix or "")
    guarded = msgspec.structs.replace(keyed, has_password=True)
    assert check_security(guarded, root_user=False) == []
    # A refused setting is reported once.
    refused = msgspec.structs.replace(facts, refusal="no")
    assert check_security(refused, root_user=False) == []


def test_an_open_address_for_which_a_password_will_be_made() -> None:
    facts = msgspec.structs.replace(
        CONFIGURATION, open_host="0.0.0.0", has_keys=True, to_be_made=("admin_password",)
    )
    found = bad(check_security(facts, root_user=False))
    assert found.level is Level.HINT
    assert "makes admin_password at its next start" in found.message


def test_root_is_a_hint() -> None:
    assert bad(check_security(CONFIGURATION, root_user=True)).level is Level.HINT


def test_good_directories() -> None:
    found = check_directories((STATE, DIRECTORY))
    assert levels(found) == [Level.OK, Level.OK]
    assert found[0].message == "data_dir /d: 100 GiB free."
    (found_new,) = check_directories((msgspec.structs.replace(STATE, exists=False),))
    assert found_new.level is Level.OK
    assert "will be created" in found_new.message


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (2 * GIB, Level.OK),
        (2 * GIB - 1, Level.WARNING),
        (200 * MIB, Level.WARNING),
        (200 * MIB - 1, Level.ERROR),
        (0, Level.ERROR),
    ],
)
def test_free_space(free: int, level: Level) -> None:
    (found,) = check_directories((msgspec.structs.replace(DIRECTORY, free=free),))
    assert found.level is level
    assert level is Level.OK or "models_dir" in (found.fix or "")


@pytest.mark.parametrize(
    ("kind", "word"),
    [("vfat", "4 GiB"), ("msdos", "4 GiB"), ("exfat", "symbolic links")],
)
def test_file_systems_that_lack_something(kind: str, word: str) -> None:
    found = bad(check_directories((msgspec.structs.replace(DIRECTORY, file_system=kind),)))
    assert found.level is Level.HINT
    assert word in found.message
    assert ("4 GiB" in found.message) is (kind != "exfat")


@pytest.mark.parametrize(
    ("changes", "word", "fix"),
    [
        ({"usable": False}, "cannot be written to", "chown"),
        ({"usable": False, "exists": False}, "cannot be created", "install -d"),
        ({"is_directory": False}, "not a directory", "to a directory"),
        ({"silent": True}, "does not answer", "mount"),
    ],
)
def test_directories_that_cannot_be_used(changes: dict[str, bool], word: str, fix: str) -> None:
    for facts, level in ((STATE, Level.ERROR), (DIRECTORY, Level.WARNING)):
        found = bad(check_directories((msgspec.structs.replace(facts, **changes),)))
        assert found.level is level
        assert word in found.message
        assert fix in (found.fix or "")


def test_further_directories_are_only_read() -> None:
    facts = DirectoryFacts(key="model_dirs", path=Path("/x"), exists=True, must_write=False)
    assert levels(check_directories((facts,))) == [Level.OK]
    gone = bad(check_directories((msgspec.structs.replace(facts, exists=False),)))
    assert (gone.level, "does not exist" in gone.message) == (Level.WARNING, True)
    closed = bad(check_directories((msgspec.structs.replace(facts, usable=False),)))
    assert "cannot be read" in closed.message


def test_free_ports_and_no_service() -> None:
    found = check_service(SERVICE)
    assert levels(found) == [Level.OK] * 3
    assert [one.check for one in found] == ["ports", "service", "ports"]


def test_a_running_service() -> None:
    found = check_service(RUNNING)
    assert levels(found) == [Level.OK] * 3
    assert "held by the running service" in found[0].message
    assert "http://127.0.0.1:8337" in found[1].message


def test_a_running_service_of_another_version() -> None:
    found = bad(check_service(msgspec.structs.replace(RUNNING, running_version="0.9")))
    assert (found.check, found.level) == ("service", Level.WARNING)
    assert "0.9" in found.message
    assert "1.0" in found.message


def test_a_running_service_that_hangs() -> None:
    found = bad(check_service(msgspec.structs.replace(RUNNING, answers=False)))
    assert (found.check, found.level) == ("service", Level.ERROR)
    assert "kill 42" in (found.fix or "")


def test_a_service_at_another_address_than_configured() -> None:
    facts = msgspec.structs.replace(RUNNING, state=PortState.FREE, url="http://127.0.0.1:9000")
    assert "http://127.0.0.1:9000" in bad(check_service(facts)).message
    # With port 0 there is no configured address.
    assert levels(check_service(msgspec.structs.replace(facts, port=0))) == [Level.OK] * 3


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (PortState.FOREIGN, "another program"),
        (PortState.ANOTHER, "another data directory"),
        (PortState.REFUSED, "Permission denied"),
    ],
)
def test_a_port_that_cannot_be_had(state: PortState, word: str) -> None:
    facts = msgspec.structs.replace(SERVICE, state=state, reason="Permission denied")
    found = bad(check_service(facts))
    assert (found.check, found.level) == ("ports", Level.ERROR)
    assert word in found.message


def test_extra_ports_that_are_taken() -> None:
    ports = (PortRecord(port=11434, problem="in use by ollama (pid 7)"), PortRecord(port=8080))
    for facts, state in ((SERVICE, "Free"), (RUNNING, "Open")):
        findings = check_service(msgspec.structs.replace(facts, extra_ports=ports))
        found = bad(findings)
        assert (found.check, found.level) == ("ports", Level.WARNING)
        assert "Port 11434 of extra_ports cannot be opened: in use by ollama (pid 7)." in (
            found.message
        )
        assert any(one.message == f"{state} of extra_ports: 8080." for one in findings)


@pytest.mark.parametrize(
    ("system", "command"), [("Linux", "`ss -ltnp "), ("Darwin", "`lsof -nP -iTCP:8337 ")]
)
def test_the_command_for_the_owner_of_a_port_is_installed(
    system: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    facts = msgspec.structs.replace(SERVICE, port=8337, state=PortState.FOREIGN)
    assert command in (bad(check_service(facts)).fix or "")


@pytest.mark.parametrize(("free", "level"), [(0, Level.ERROR), (3, Level.WARNING), (4, Level.OK)])
def test_ports_for_models(free: int, level: Level) -> None:
    found = check_service(msgspec.structs.replace(SERVICE, free_model_ports=free))[-1]
    assert found.level is level
    assert level is Level.OK or "llama_server_base_port" in (found.fix or "")


def test_models_that_are_fine_and_models_that_are_not() -> None:
    fine, broken = ModelFact(id="a", size=1), ModelFact(id="b", problem="It ends too early.")
    facts = ModelsFacts(models=(fine,), models_dir=Path("/m"))
    (found,) = check_models(facts)
    assert (found.level, found.message) == (Level.OK, "1 local model.")
    facts = ModelsFacts(models=(fine, broken), problems=("x: odd",), models_dir=Path("/m"))
    findings = check_models(facts)
    assert levels(findings) == [Level.OK, Level.WARNING, Level.WARNING]
    assert [one.message for one in findings[1:]] == ["b: It ends too early.", "x: odd."]
    assert all(one.fix for one in findings[1:])


def test_no_models() -> None:
    found = bad(check_models(ModelsFacts(models_dir=Path("/m"))))
    assert found.level is Level.HINT
    assert "/m" in (found.fix or "")


def test_many_broken_models_are_counted() -> None:
    models = tuple(ModelFact(id=f"m{n}", problem="No.") for n in range(13))
    found = check_models(ModelsFacts(models=models, models_dir=Path("/m")))
    assert len(found) == 12
    assert found[-1].message == "3 more cannot be used."


def test_the_hub() -> None:
    assert levels(check_hub(HubFacts(url="http://hub"))) == [Level.OK]
    found = bad(check_hub(HubFacts(url="http://hub", problem="no route")))
    assert found.level is Level.HINT
    assert "downloads will not work; local models do" in found.message
    assert "--offline" in (found.fix or "")


def test_a_socks_proxy_is_a_finding_about_the_hub() -> None:
    facts = hub_facts(Settings(), {"ALL_PROXY": "socks5://user:secret@127.0.0.1:1"})
    found = bad(check_hub(facts))
    assert "ALL_PROXY names a SOCKS proxy" in found.message
    assert "secret" not in found.message


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ((), 0),
        (("configuration",), 5),
        (("configuration", "configuration"), 5),
        (("llama-server",), 6),
        (("llama-server", "configuration"), 1),
        (("ports",), 1),
    ],
)
def test_exit_codes(wrong: tuple[str, ...], code: int) -> None:
    others = [
        Finding(check="ports", level=level, message="", fix="")
        for level in (Level.OK, Level.HINT, Level.WARNING)
    ]
    errors = [Finding(check=one, level=Level.ERROR, message="", fix="") for one in wrong]
    assert exit_code((*others, *errors)) == code

"""``tls make``: the pair, its fingerprint, and the settings that name it."""

from __future__ import annotations

import json
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.certificates import fingerprint, read_certificate
from cyber_inference_tui.cli.service_access import certificate_of, service_url
from cyber_inference_tui.service.runtime import RuntimeRecord, write_runtime_file
from cyber_inference_tui.settings.schema import Settings
from tests.certificates import Pair
from tests.cli.conftest import CommandLine
from tests.tools import tool


def test_make_writes_a_pair_and_sets_it(call: CommandLine, config: Path, data_dir: Path) -> None:
    config.write_text("# mine\nallowed_hosts = ['box.example.org']\n")
    outcome = call("tls", "make", "--name", "192.0.2.9", "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    certificate, key = Path(facts["certificate"]), Path(facts["key"])
    assert certificate.parent == key.parent == data_dir / "tls"
    assert key.stat().st_mode & 0o777 == 0o600
    assert {"localhost", "127.0.0.1", "box.example.org", "192.0.2.9"} <= set(facts["names"])
    text = config.read_text()
    assert text.startswith("# mine\n")
    settings = tomllib.loads(text)
    assert (settings["tls_cert"], settings["tls_key"]) == (str(certificate), str(key))
    shown = subprocess.run(
        [tool("openssl"), "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert shown.strip().partition("=")[2] == facts["fingerprint"]


def test_a_pair_that_is_there_stays(call: CommandLine, data_dir: Path) -> None:
    assert "service restart" in call("tls", "make").err
    certificate, key = data_dir / "tls" / "cert.pem", data_dir / "tls" / "key.pem"
    before = certificate.read_bytes()
    outcome = call("tls", "make")
    assert fingerprint(before.decode()) in outcome.out
    assert certificate.read_bytes() == before
    assert outcome.err == ""
    assert call("tls", "make", "--name", "x").code == 2
    assert call("tls", "make", "--force").code == 0
    assert certificate.read_bytes() != before
    certificate.unlink()
    outcome = call("tls", "make")
    assert outcome.code == 5
    assert f"{key} is there, but not its certificate" in outcome.err
    outcome = call("tls", "make", "--force", "--name", "ü")
    assert (outcome.code, certificate.exists()) == (2, False)


def test_the_users_own_files_are_used(call: CommandLine, config: Path, tmp_path: Path) -> None:
    both = tmp_path / "own.pem"
    config.write_text(f"tls_cert = '{both}'\n")
    assert call("tls", "make").code == 0
    assert "PRIVATE KEY" in both.read_text()
    assert both.stat().st_mode & 0o777 == 0o600
    assert read_certificate(both)


def test_a_key_alone_is_a_mistake(call: CommandLine, config: Path) -> None:
    config.write_text("tls_key = 'key.pem'\n")
    outcome = call("config", "check")
    assert (outcome.code, outcome.err) == (5, f"{config}:1: tls_key: is set, but tls_cert is not\n")


def test_commands_know_how_the_service_can_be_asked(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    own, elsewhere = Pair(tmp_path / "here"), Pair(tmp_path)
    plain = Settings(data_dir=tmp_path)
    secure = Settings(data_dir=tmp_path, tls_cert=str(own.certificate))
    here = "127.0.0.1:8337"
    assert service_url(plain) == f"http://{here}"
    assert service_url(secure) == f"https://{here}"
    assert certificate_of(service_url(secure), secure) == own.pem
    # One that runs has the scheme that it began with.
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for scheme in ("http", "https"):
        record = RuntimeRecord(pid=1, url=f"{scheme}://{here}", version="1", started_at=began)
        write_runtime_file(tmp_path, record)
        assert service_url(plain) == service_url(secure) == f"{scheme}://{here}"
    # One elsewhere has the certificate that --attach was told to trust.
    known = tmp_path / "known_services" / "jetson:8337.pem"
    known.parent.mkdir()
    known.write_text(elsewhere.pem)
    for settings in (plain, secure):
        away = msgspec.structs.replace(settings, host="Jetson")
        assert service_url(away).lower() == "https://jetson:8337"
        assert certificate_of(service_url(away), away) == elsewhere.pem
    assert certificate_of("https://other:8337", secure) == ""


@pytest.mark.parametrize("command", [("status",), ("list-models",)])
def test_a_missing_certificate_keeps_no_command_from_running(
    call: CommandLine, config: Path, command: tuple[str, ...]
) -> None:
    config.write_text("tls_cert = 'none.pem'\n")
    assert "Traceback" not in call(*command).err

"""Who gets in: a service with a password, and one that other machines reach."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

import pytest

from cyber_inference_tui.cli.service_access import client_of
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.queries import NewValue
from cyber_inference_tui.settings.schema import Settings
from tests.real.conftest import StartFake
from tests.waiting import eventually


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_gets_a_key_and_a_password(
    start_fake: StartFake, host: str
) -> None:
    service = start_fake(start=False)
    service.arguments = ("--host", host)
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    service.config_path.chmod(0o644)
    service.start()
    service.url = f"http://127.0.0.1:{service.port}"
    assert service.config_path.stat().st_mode & 0o777 == 0o600
    written = tomllib.loads(service.config_path.read_text())
    (key,) = written["api_keys"]
    told = service.errors()
    (password,) = re.findall(r"admin password +(\S+)", told)
    assert told.count(key) == told.count(password) == 1
    assert password not in service.config_path.read_text()
    log = service.data_dir / "logs" / "service.000000000.log"
    kept = log.read_text() if log.exists() else ""
    assert key not in kept
    assert password not in kept
    assert service.get("/v1/models").status_code == 401
    assert service.get("/v1/models", headers={"x-api-key": key}).status_code == 200
    assert service.get("/admin/status").status_code == 401
    login = service.post("/admin/login", json={"password": password})
    bearer = {"Authorization": f"Bearer {login.json()['access_token']}"}
    assert service.get("/admin/status", headers=bearer).status_code == 200
    # Neither can be taken away again while others reach it.
    for name, empty in (("api_keys", []), ("admin_password", "")):
        with service.client(headers=bearer) as client:
            answer = client.put(f"/admin/config/{name}", json={"value": empty})
        assert answer.status_code == 400
        assert "cannot be empty" in answer.json()["error"]["message"]
    assert tomllib.loads(service.config_path.read_text()) == written
    service.stop()
    # The next start uses them, and tells nothing.
    service.start()
    service.url = f"http://127.0.0.1:{service.port}"
    assert service.get("/v1/models", headers={"x-api-key": key}).status_code == 200
    assert service.get("/admin/status", headers=bearer).status_code == 200
    assert service.errors().count(key) == 1


def test_insecure_no_auth_is_the_way_around_it(start_fake: StartFake) -> None:
    service = start_fake(start=False, config={"insecure_no_auth": True})
    service.arguments = ("--host", "0.0.0.0")
    before = service.config_path.read_text()
    service.start()
    service.url = f"http://127.0.0.1:{service.port}"
    assert service.get("/v1/models").status_code == 200
    assert service.get("/admin/status").status_code == 200
    assert service.config_path.read_text() == before
    assert "admin password" not in service.errors()


def test_a_guard_that_an_edit_takes_away_stays(start_fake: StartFake) -> None:
    service = start_fake(start=False, config={"api_keys": ["key"], "admin_password": "sesame"})
    service.arguments = ("--host", "0.0.0.0")
    service.start()
    service.url = f"http://127.0.0.1:{service.port}"
    text = service.config_path.read_text()
    assert "sesame" not in text
    without = re.sub(r"admin_password = .*\n", "", text)
    service.config_path.write_text(without)
    eventually(lambda: "cannot be empty" in service.errors(), what="the refusal in the log")
    assert service.get("/admin/status").status_code == 401
    service.config_path.write_text(f'admin_password = "another"\n{without}')
    eventually(
        lambda: (
            service.post("/admin/login", json={"password": "another"}).status_code == 200 or None
        ),
        what="the new password",
        interval=0.3,
    )


def test_the_audit_log_says_who_did_what_from_where(start_fake: StartFake) -> None:
    service = start_fake({"plum": {}, "pear": {}}, config={"admin_password": "sesame"})
    assert service.post("/admin/login", json={"password": "wrong"}).status_code == 401
    token = service.post("/admin/login", json={"password": "sesame"}).json()["access_token"]
    own = json.loads((service.data_dir / "service.json").read_text())["token"]
    with service.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.put("/admin/config/max_queue", json={"value": 9}).status_code == 200
        assert client.put("/admin/config/hf_token", json={"value": "hf_secret"}).status_code == 200
        assert client.delete("/admin/models/plum").status_code == 200
        names = {"source": "pear", "destination": "fruit"}
        assert client.post("/api/copy", json=names).status_code == 200
    with service.client(headers={"Authorization": f"Bearer {own}"}) as client:
        assert client.request("DELETE", "/api/delete", json={"model": "pear"}).status_code == 200
        # A connection that is kept: the next request on it is another caller's.
        client.headers["Authorization"] = f"Bearer {token}"
        assert client.post("/admin/logout").status_code == 200
        assert client.get("/admin/status").status_code == 401
    path = service.data_dir / "logs" / "audit.log"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert not any(secret in text for secret in ("sesame", "hf_secret", token, own))
    events = [json.loads(line) for line in text.splitlines()]
    assert {event["address"] for event in events} == {"127.0.0.1"}
    (login,) = {event["by"] for event in events} - {"no login", "service token"}
    assert re.fullmatch("login [0-9a-f]{16}", login)
    assert [(e["event"], e["by"], e.get("key", e.get("model"))) for e in events] == [
        ("login_failed", "no login", None),
        ("login", login, None),
        ("setting_changed", login, "max_queue"),
        ("setting_changed", login, "hf_token"),
        ("model_deleted", login, "plum"),
        ("setting_changed", login, 'models."pear".aliases'),
        ("model_deleted", "service token", "pear"),
        ("logout", login, None),
    ]


def test_a_password_that_cannot_be_replaced_is_used_as_it_is(start_fake: StartFake) -> None:
    service = start_fake(start=False, config={"admin_password": "sesame"})
    folder = os.open(service.config_path.parent, os.O_RDONLY)
    try:
        # As another program that is changing the file.
        fcntl.flock(folder, fcntl.LOCK_EX)
        service.start()
    finally:
        os.close(folder)
    assert "admin_password stays in the file as plain text: Another program" in service.errors()
    assert service.post("/admin/login", json={"password": "sesame"}).status_code == 200
    assert tomllib.loads(service.config_path.read_text())["admin_password"] == "sesame"


def test_a_stranger_on_this_machine_names_no_program(start_fake: StartFake, tmp_path: Path) -> None:
    """Without a password the admin API is open, but not for what would run as this user."""
    service = start_fake({"a": {}}, config={"hf_token": "hf_secret"})
    owned = tmp_path / "owned"
    program = ["/bin/sh", "-c", f"id > {owned}"]
    strange = {"Authorization": "Bearer guessed"}
    before = service.config_path.read_text()
    for key, value in (
        ('models."a".command', program),
        ('models."a".args', ["--log-file", str(owned)]),
        ('models."a".env', {"LD_PRELOAD": str(owned)}),
        ("llama_server_path", "/bin/sh"),
        ("hf_endpoint", "http://127.0.0.1:9"),
        ("data_dir", str(tmp_path)),
    ):
        path = f"/admin/config/{quote(key, safe='')}"
        for headers in ({}, strange):
            with service.client(headers=headers) as client:
                for answer in (
                    client.put(path, json={"value": value}),
                    client.put(f"{path}?check=1", json={"value": value}),
                    client.delete(path),
                ):
                    assert answer.status_code == 401
                    assert answer.json()["error"]["code"] == "guarded_setting"
    assert service.config_path.read_text() == before
    assert service.post("/admin/models/a/load", json={}).status_code == 200
    assert not owned.exists()
    with service.client() as client:
        answer = client.put("/admin/config/max_queue", json={"value": 7})
        assert answer.status_code == 200

    async def change() -> str:
        # As the app and the commands of this user do.
        settings = Settings(data_dir=service.data_dir)
        async with client_of(service.url, settings) as client:
            body = NewValue(value="http://127.0.0.1:9")
            record = await client.call(endpoints.SET_CONFIG, "hf_endpoint", body=body)
        return str(record.value)

    assert asyncio.run(change()) == "http://127.0.0.1:9"


def test_a_login_may_name_programs(start_fake: StartFake) -> None:
    service = start_fake(config={"admin_password": "sesame"})
    token = service.post("/admin/login", json={"password": "sesame"}).json()["access_token"]
    with service.client(headers={"Authorization": f"Bearer {token}"}) as client:
        answer = client.put("/admin/config/llama_args", json={"value": ["--no-mmap"]})
        assert answer.status_code == 200, answer.text
    assert "--no-mmap" in service.config_path.read_text()


def test_a_service_with_a_password_lets_its_users_commands_in(start_fake: StartFake) -> None:
    service = start_fake(config={"admin_password": "sesame"})
    runtime = service.data_dir / "service.json"
    assert runtime.stat().st_mode & 0o777 == 0o600
    assert service.get("/admin/status").status_code == 401
    command = [sys.executable, "-m", "cyber_inference_tui", "status", "--port", str(service.port)]
    arguments = ["--data-dir", str(service.data_dir)]
    environ = {"HOME": str(service.folder), "PATH": os.environ["PATH"]}
    environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [*command, *arguments], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    stranger = ["--data-dir", str(service.folder / "elsewhere")]
    done = subprocess.run(
        [*command, *stranger], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs its admin password" in done.stderr
    done = subprocess.run(
        [*command, *stranger],
        env={**environ, "CYBER_INFERENCE_ADMIN_PASSWORD": "sesame"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sesame" not in service.errors()

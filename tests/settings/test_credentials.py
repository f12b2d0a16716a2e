from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.credentials import (
    check_credentials_kept,
    hash_password,
    make_credentials,
    missing_credentials,
)
from cyber_inference_tui.settings.load import LoadedSettings, load_if_there
from cyber_inference_tui.settings.password_hash import hashed, is_hash, matches
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.sockets import is_loopback

HAND_WRITTEN = """\
# The box under the desk.
host = "0.0.0.0"   # everybody at home

[models.tiny]  # small
context_size = 512
"""


class Announced(list[str]):
    """The announced texts."""

    def __call__(self, text: str) -> None:
        self.append(text)


def settings_of(path: Path, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    return load_if_there(path, environ=environ or {"HOME": str(path.parent)}, flags={})


def make(
    path: Path,
    announced: Announced,
    host: str = "0.0.0.0",
    environ: Mapping[str, str] | None = None,
) -> LoadedSettings:
    environ = environ or {"HOME": str(path.parent)}
    return make_credentials(
        settings_of(path, environ), host, environ=environ, flags={}, announce=announced
    )


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1"],
)
def test_loopback_addresses_need_nothing(host: str) -> None:
    assert is_loopback(host)
    assert missing_credentials(Settings(), host) == ()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "[::]", "192.168.1.5", "fe80::1%eth0", "box.lan", "127.1", "x"]
)
def test_all_others_need_both(host: str) -> None:
    assert missing_credentials(Settings(), host) == ("api_keys", "admin_password")
    assert missing_credentials(Settings(api_keys=("k",)), host) == ("admin_password",)
    assert missing_credentials(Settings(admin_password="p"), host) == ("api_keys",)
    assert missing_credentials(Settings(api_keys=("k",), admin_password="p"), host) == ()
    assert missing_credentials(Settings(insecure_no_auth=True), host) == ()


def test_they_are_made_stored_and_announced_once(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(HAND_WRITTEN)
    path.chmod(0o664)
    announced = Announced()
    loaded = make(path, announced)
    (key,) = loaded.settings.api_keys
    assert re.fullmatch(r"sk-[0-9a-f]{48}", key)
    (text,) = announced
    assert key in text
    (password,) = re.findall(r"admin password +((?:[a-z2-9]{4}-){4}[a-z2-9]{4})\n", text)
    assert password not in path.read_text()
    assert matches(password, loaded.settings.admin_password)
    assert str(path) in text
    assert path.stat().st_mode & 0o777 == 0o600
    new = path.read_text()
    added = [line for line in new.splitlines() if line not in HAND_WRITTEN.splitlines()]
    assert sorted(line.split(" = ")[0] for line in added if line) == ["admin_password", "api_keys"]
    assert [line for line in HAND_WRITTEN.splitlines() if line not in new.splitlines()] == []
    assert make(path, announced) == loaded
    assert len(announced) == 1


def test_every_machine_gets_its_own(tmp_path: Path) -> None:
    made = {
        (loaded.settings.api_keys, loaded.settings.admin_password)
        for number in range(3)
        for loaded in [make(tmp_path / f"{number}.toml", Announced())]
    }
    assert len(made) == 3
    assert len({key for key, _ in made}) == len({word for _, word in made}) == 3


def test_a_file_that_is_not_there_is_made_with_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "config.toml"
    loaded = make(path, Announced())
    assert path.stat().st_mode & 0o777 == 0o600
    assert "# Address to listen on." in path.read_text()
    assert tomllib.loads(path.read_text()).keys() == {"api_keys", "admin_password"}
    assert settings_of(path) == loaded


def test_what_is_set_already_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("api_keys = ['mine']\n")
    announced = Announced()
    loaded = make(path, announced)
    assert loaded.settings.api_keys == ("mine",)
    assert loaded.settings.admin_password
    assert "API key" not in announced[0]
    assert "mine" not in announced[0]


def test_a_value_of_the_environment_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    environ = {
        "HOME": str(tmp_path),
        "CYBER_INFERENCE_API_KEYS": "a",
        "CYBER_INFERENCE_ADMIN_PASSWORD": "b",
    }
    assert make(path, Announced(), environ=environ).settings.admin_password == "b"
    assert not path.exists()


def test_a_variable_that_is_an_empty_list_would_hide_what_is_made(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    environ = {"HOME": str(tmp_path), "CYBER_INFERENCE_API_KEYS": "[]"}
    announced = Announced()
    with pytest.raises(ConfigError, match="CYBER_INFERENCE_API_KEYS is empty") as error:
        make(path, announced, environ=environ)
    assert "insecure_no_auth" in error.value.hint
    assert not path.exists()
    assert announced == []


def test_a_file_that_cannot_be_written_is_said_with_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    announced = Announced()
    with pytest.raises(ConfigError) as error:
        make(tmp_path / "file" / "config.toml", announced)
    assert "Other machines can reach 0.0.0.0" in error.value.message
    assert "cannot be written" in error.value.message
    assert "insecure_no_auth = true" in error.value.hint
    assert announced == []


def test_where_it_would_be_kept_nothing_is_revealed(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    announced = Announced()
    loaded = make_credentials(
        settings_of(path),
        "::",
        environ={"HOME": str(tmp_path)},
        flags={},
        announce=announced,
        reveal=False,
    )
    assert loaded.settings.admin_password not in announced[0]
    assert loaded.settings.api_keys[0] not in announced[0]
    assert str(path) in announced[0]


def in_hash(path: Path, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    environ = environ or {"HOME": str(path.parent)}
    return hash_password(settings_of(path, environ), environ=environ, flags={})


@pytest.mark.parametrize(
    "line",
    ["admin_password = 'sesame'  # for home", 'admin_password="sesame" # for home', HAND_WRITTEN],
)
def test_a_plain_password_in_the_file_becomes_a_hash_and_all_else_stays(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"{line}\n{HAND_WRITTEN}" if "sesame" in line else line)
    path.chmod(0o640)
    before = path.read_text()
    loaded = in_hash(path)
    stored = loaded.settings.admin_password
    assert loaded == settings_of(path)
    assert path.stat().st_mode & 0o777 == 0o640
    if "sesame" not in line:
        assert (stored, path.read_text()) == ("", before)
        return
    assert matches("sesame", stored)
    text = path.read_text()
    assert "sesame" not in text
    first, rest = text.split("\n", 1)
    assert first.endswith("# for home")
    assert rest == HAND_WRITTEN
    # The next start finds the hash, and leaves it.
    assert in_hash(path) == loaded
    assert path.read_text() == text


def test_a_password_of_the_environment_stays_plain_and_that_of_the_file_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.toml"
    path.write_text("admin_password = 'of the file'\n")
    environ = {"HOME": str(tmp_path), "CYBER_INFERENCE_ADMIN_PASSWORD": "of the environment"}
    assert in_hash(path, environ).settings.admin_password == "of the environment"
    assert matches("of the file", tomllib.loads(path.read_text())["admin_password"])


def test_a_hash_that_a_person_wrote_is_used(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"admin_password = '{hashed('sesame')}'\n")
    before = path.read_text()
    assert is_hash(in_hash(path).settings.admin_password)
    assert path.read_text() == before


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(HAND_WRITTEN)
    real.chmod(0o644)
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    make(link, Announced())
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert "admin_password" in real.read_text()


def test_a_running_service_keeps_its_guards() -> None:
    guarded = Settings(api_keys=("k",), admin_password="p")
    for lost in (Settings(api_keys=("k",)), Settings(admin_password="p"), Settings()):
        with pytest.raises(ConfigError, match="cannot be empty"):
            check_credentials_kept(guarded, lost, "0.0.0.0")
        check_credentials_kept(guarded, lost, "127.0.0.1")
    check_credentials_kept(
        guarded, Settings(api_keys=("other",), admin_password="other"), "0.0.0.0"
    )
    check_credentials_kept(guarded, Settings(insecure_no_auth=True), "0.0.0.0")
    # A service that was started open stays what it is until its next start.
    check_credentials_kept(Settings(insecure_no_auth=True), Settings(), "0.0.0.0")

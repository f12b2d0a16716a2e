"""``service``: the unit's text, and the calls of a stand-in for systemctl on PATH."""

from __future__ import annotations

import json
import os
import platform
import pwd
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cyber_inference_tui.cli import service_command
from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.cli.unit import UNIT_NAME, Systemd, quoted, unit_text, user_units
from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.service.runtime import DataDirectoryLock
from tests.cli.conftest import CommandLine
from tests.tools import tool


class FakeSystemctl:
    """Records its arguments, and answers as the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.answer("LoadState=not-found", "ActiveState=inactive", "SubState=dead", "MainPID=0")
        program = folder / "systemctl"
        program.write_text(
            f"#!/bin/sh\ncd {folder}\n"
            'echo "$*" >> calls\n'
            '[ -e failure ] && { cat failure >&2; exit 1; }\ncase "$*" in\n'
            "*=Version) echo Version=252 ;;\n*' show '*) cat answer ;;\nesac\n"
        )
        program.chmod(0o755)

    def answer(self, *lines: str) -> None:
        (self.folder / "answer").write_text("\n".join(lines) + "\n")

    def fail(self, message: str) -> None:
        (self.folder / "failure").write_text(message + "\n")

    def calls(self) -> list[str]:
        """Return the arguments since the last call of this, without those that every call has."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.replace("--no-pager ", "") for line in lines]


@pytest.fixture
def systemctl(tmp_path: Path) -> FakeSystemctl:
    return FakeSystemctl(tmp_path / "bin")


@pytest.fixture
def environ(tmp_path: Path, systemctl: FakeSystemctl) -> Mapping[str, str]:
    """A user's environment without any variable of ours."""
    return {"HOME": str(tmp_path), "PATH": f"{systemctl.folder}:{os.environ['PATH']}"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / ".config" / "cyber-inference-tui" / "config.toml"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.fixture
def unit(environ: Mapping[str, str]) -> Path:
    return user_units(environ) / UNIT_NAME


def directives(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")


def test_install_writes_the_unit_and_starts_it(
    call: CommandLine, unit: Path, systemctl: FakeSystemctl, tmp_path: Path
) -> None:
    folder = tmp_path / "my data"
    outcome = call("service", "install", "--data-dir", str(folder), "--demo", "--port", "0")
    assert outcome.code == 0, outcome.err
    assert str(unit) in outcome.out
    assert "loginctl enable-linger" in outcome.out
    assert unit.stat().st_mode & 0o777 == 0o644
    found = directives(unit.read_text())
    program, *arguments = shlex.split(found["ExecStart"])
    assert Path(program).is_absolute()
    assert arguments[-6:] == ["serve", "--data-dir", str(folder), "--port", "0", "--demo"]
    assert found["Type"] == "notify"
    assert found["KillMode"] == "mixed"
    assert found["Restart"] == "on-failure"
    assert found["WantedBy"] == "default.target"
    assert "User" not in found
    assert systemctl.calls() == [
        "--user show --property=Version",
        "--user daemon-reload",
        f"--user enable --now {UNIT_NAME}",
    ]


def test_installing_the_same_again_leaves_it_running(
    call: CommandLine, systemctl: FakeSystemctl, config: Path
) -> None:
    assert call("service", "install").code == 0
    assert call("service", "install").code == 0
    assert f"--user restart {UNIT_NAME}" not in systemctl.calls()
    config.write_text("shutdown_timeout = 100\n")
    assert call("service", "install").code == 0
    assert systemctl.calls()[-1] == f"--user restart {UNIT_NAME}"


def test_the_time_to_stop_follows_the_settings(call: CommandLine, config: Path) -> None:
    config.write_text("shutdown_timeout = 100\nstop_timeout = 7.5\n")
    found = directives(call("service", "install", "--print").out)
    assert int(found["TimeoutStopSec"]) > 107


def test_macos_has_launchd_instead(
    call: CommandLine, systemctl: FakeSystemctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    for command in ("install", "uninstall", "status"):
        done = call("service", command)
        assert done.code == 1
        assert "macOS has no systemd." in done.err
        assert "launchd" in done.err
    assert systemctl.calls() == []


def test_print_changes_nothing(call: CommandLine, unit: Path, systemctl: FakeSystemctl) -> None:
    outcome = call("service", "install", "--print")
    assert outcome.out.startswith("# Written by `cyber-inference-tui service install`")
    assert systemctl.calls() == []
    assert not unit.exists()


def test_the_machines_unit_names_its_user(call: CommandLine) -> None:
    found = directives(call("service", "install", "--system", "--print").out)
    assert found["WantedBy"] == "multi-user.target"
    assert found["User"]
    found = directives(call("service", "install", "--system", "--run-as", "nobody", "--print").out)
    assert found["User"] == "nobody"
    assert call("service", "install", "--run-as", "nobody", "--print").code == 2
    outcome = call("service", "install", "--system", "--run-as", "no-such-user", "--print")
    assert (outcome.code, outcome.err) == (
        4,
        "There is no user no-such-user. Give one with --run-as.\n",
    )


@pytest.mark.parametrize(("options", "most"), [((), 5.0), (("--hardened",), 3.0)])
def test_systemd_finds_the_machines_unit_safe(
    call: CommandLine, tmp_path: Path, options: tuple[str, ...], most: float
) -> None:
    unit = tmp_path / UNIT_NAME
    unit.write_text(call("service", "install", "--system", "--print", *options).out)
    analyze = [tool("systemd-analyze"), "--no-pager"]
    limit = [f"--threshold={most * 10:g}", "security", "--offline=true"]
    done = subprocess.run([*analyze, *limit, unit], capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze does not read files")
    assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run(
        [*analyze, "verify", unit], capture_output=True, text=True, check=False
    )
    assert UNIT_NAME not in checked.stderr, checked.stderr


def test_the_machines_unit_may_write_what_the_service_needs(
    call: CommandLine, config: Path, tmp_path: Path
) -> None:
    config.write_text(f"models_dir = '{tmp_path / 'my models'}'\n")
    text = call("service", "install", "--system", "--print").out
    lines = [line for line in text.splitlines() if line.startswith("ReadWritePaths=")]
    written = [line.partition("=")[2].strip('"') for line in lines]
    assert {f"-{tmp_path / 'my models'}", f"-{config.parent}"} <= set(written)
    assert all(line.startswith("-/") for line in written)
    assert any(line.endswith("/.nv") for line in written)
    own = call("service", "install", "--print").out
    assert "ReadWritePaths" not in own and "NoNewPrivileges" not in own
    assert "NoNewPrivileges" in call("service", "install", "--hardened", "--print").out


def test_folders_of_the_unit_are_made_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    me = pwd.getpwuid(os.geteuid()).pw_name
    new = tmp_path / "a" / "b"
    service_command._make_folders([str(new), str(tmp_path / "file" / "c"), str(tmp_path)], me)
    assert new.is_dir()
    assert "warning: " in capfd.readouterr().err


def test_without_systemd_one_sentence_says_so(
    call: CommandLine, unit: Path, systemctl: FakeSystemctl
) -> None:
    systemctl.fail("Failed to connect to bus: \x1b[31mNo medium found\x1b[0m")
    for action in ("install", "status"):
        outcome = call("service", action)
        assert outcome.code == 1
        assert "failed: Failed to connect to bus: No medium found." in outcome.err
        assert "cyber-inference-tui serve" in outcome.err
    assert not unit.exists()


def test_without_systemctl_one_sentence_says_so(tmp_path: Path) -> None:
    systemd = Systemd(environ={"PATH": str(tmp_path)}, folder=tmp_path)
    with pytest.raises(CyberError, match="There is no systemctl on this machine"):
        systemd.check_there()


def test_uninstall_stops_it_and_removes_the_unit(
    call: CommandLine, unit: Path, systemctl: FakeSystemctl
) -> None:
    outcome = call("service", "uninstall")
    assert (outcome.code, outcome.err) == (4, f"There is no unit {unit}.\n")
    call("service", "install")
    systemctl.calls()
    assert call("service", "uninstall").code == 0
    assert systemctl.calls() == [f"--user disable --now {UNIT_NAME}", "--user daemon-reload"]
    assert not unit.exists()


def test_status_shows_whether_it_runs(
    call: CommandLine, unit: Path, systemctl: FakeSystemctl
) -> None:
    outcome = call("service", "status")
    assert outcome.code == 3
    assert "not installed" in outcome.out
    systemctl.answer(
        *("LoadState=loaded", "ActiveState=active", "SubState=running"),
        *("UnitFileState=enabled", "MainPID=4242"),
    )
    outcome = call("service", "status", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == {
        "unit": UNIT_NAME,
        "path": str(unit),
        "system": False,
        "installed": True,
        "enabled": True,
        "active": True,
        "state": "active (running)",
        "pid": 4242,
    }
    assert "4242" in call("service", "status").out
    assert call("service", "status", "--system", "--json").out.count("/etc/systemd/system/") == 1


def test_install_is_refused_while_another_service_runs(
    call: CommandLine, unit: Path, systemctl: FakeSystemctl, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    with DataDirectoryLock(data_dir):
        outcome = call("service", "install", "--data-dir", str(data_dir))
        assert outcome.code == 1
        assert f"kill {os.getpid()}" in outcome.err
        assert not unit.exists()
        # The unit's own service is allowed.
        systemctl.answer("LoadState=loaded", "ActiveState=active", f"MainPID={os.getpid()}")
        assert call("service", "install", "--data-dir", str(data_dir)).code == 0


def test_install_prints_the_key_and_password_of_an_open_address(
    call: CommandLine, config: Path, systemctl: FakeSystemctl
) -> None:
    config.write_text("host = '0.0.0.0'\n")
    outcome = call("service", "install")
    assert outcome.code == 0
    assert "admin password" in outcome.err
    assert "admin_password" in config.read_text()
    assert "admin password" not in call("service", "install").err


def test_a_broken_configuration_is_not_installed(
    call: CommandLine, config: Path, unit: Path
) -> None:
    config.write_text("prot = 1\n")
    assert call("service", "install").code == 5
    assert not unit.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, systemctl: FakeSystemctl) -> None:
    (tmp_path / "file").touch()
    systemd = Systemd(
        environ={"PATH": f"{systemctl.folder}:{os.environ['PATH']}"}, folder=tmp_path / "file/units"
    )
    with pytest.raises(CyberError, match="cannot be"):
        systemd.install("text")
    with pytest.raises((CyberError, NotFoundError)):
        systemd.uninstall()


def test_variables_of_the_shell_that_lead_elsewhere_become_arguments(tmp_path: Path) -> None:
    config = tmp_path / "xdg" / "cyber-inference-tui" / "config.toml"
    config.parent.mkdir(parents=True)
    environ = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "XDG_DATA_HOME": str(tmp_path / "share"),
    }
    options = GlobalOptions(environ=environ)
    data = ["--data-dir", str(tmp_path / "share" / "cyber-inference-tui")]
    assert service_command.command_of(options, options.load())[-2:] == data
    config.touch()
    command = service_command.command_of(options, options.load())
    assert command[-4:] == ["--config", str(config), *data]
    usual = GlobalOptions(environ={"HOME": str(tmp_path)})
    assert service_command.command_of(usual, usual.load())[-1] == "serve"


def test_other_variables_are_pointed_out(
    tmp_path: Path, systemctl: FakeSystemctl, capfd: pytest.CaptureFixture[str]
) -> None:
    from cyber_inference_tui.cli.main import run

    environ = {
        "HOME": str(tmp_path),
        "PATH": f"{systemctl.folder}:{os.environ['PATH']}",
        "CYBER_INFERENCE_MAX_QUEUE": "3",
        "CYBER_INFERENCE_DATA_DIR": str(tmp_path / "data"),
    }
    assert run(["service", "install"], environ) == 0
    said = capfd.readouterr().err
    assert "CYBER_INFERENCE_MAX_QUEUE" in said
    assert "DATA_DIR" not in said


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("/usr/bin/x", "/usr/bin/x"),
        ("--port", "--port"),
        ("a b", '"a b"'),
        ("", '""'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ('say "hi" \\', '"say \\"hi\\" \\\\"'),
        ("a;b", '"a;b"'),
        ("two\nlines", '"two\\nlines"'),
    ],
)
def test_arguments_are_written_as_systemd_reads_them(text: str, written: str) -> None:
    assert quoted(text) == written


def test_the_text_has_every_section_once() -> None:
    text = unit_text([sys.executable], stop_seconds=59.2, user=None)
    for section in ("[Unit]", "[Service]", "[Install]"):
        assert text.count(section) == 1
    assert "TimeoutStopSec=60\n" in text

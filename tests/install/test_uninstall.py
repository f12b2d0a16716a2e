"""install.sh --uninstall and --purge: the removed files, the kept files, and the messages."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from tests.install.checkout import Checkout, said_on
from tests.install.test_update import running_service
from tests.waiting import LIMIT

UNIT = "# Written by `cyber-inference-tui service install`; …\n[Service]\nExecStart={} serve\n"


def fake_systemctl(bin_dir: Path) -> Path:
    """A ``systemctl`` that records its arguments; its records."""
    calls = bin_dir.parent / "systemctl calls"
    program = bin_dir / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >>"{calls}"\n')
    program.chmod(0o755)
    return calls


@pytest.fixture
def installed(checkout: Checkout) -> Checkout:
    """The program with a model, settings and state, as after some use."""
    checkout.install()
    data = checkout.app.parent
    for file, size in (("models/a.gguf", 3 << 20), ("llama/b/x", 2000), ("logs/service.log", 10)):
        path = data / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    settings = checkout.home / ".config/cyber-inference-tui/config.toml"
    settings.parent.mkdir(parents=True)
    settings.touch()
    return checkout


def below(folder: Path) -> set[str]:
    """Return the files and links in a folder, by their relative paths."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def test_uninstalling_removes_the_program_and_lists_the_rest(installed: Checkout) -> None:
    done = installed.run("--uninstall")
    assert done.returncode == 0, done.stderr
    assert below(installed.home) == {
        ".config/cyber-inference-tui/config.toml",
        ".local/share/cyber-inference-tui/models/a.gguf",
        ".local/share/cyber-inference-tui/llama/b/x",
        ".local/share/cyber-inference-tui/logs/service.log",
    }
    listed = [line.split(maxsplit=3) for line in done.stderr.splitlines() if "iB " in line]
    assert ["models", "3.0", "MiB", f"{installed.app.parent}/models"] in listed
    assert {line[0] for line in listed} == {"models", "llama-server", "settings", "state"}
    assert "There is no program" in installed.run("--uninstall").stderr
    installed.install()
    assert installed.version() == "1"


def test_uninstalling_stops_the_service_and_removes_its_unit(
    installed: Checkout, bin_dir: Path
) -> None:
    calls = fake_systemctl(bin_dir)
    units = installed.home / ".config/systemd/user"
    units.mkdir(parents=True)
    unit = units / "cyber-inference-tui.service"
    unit.write_text(UNIT.format("/opt/another/bin/cyber-inference-tui"))
    installed.run("--uninstall")
    assert unit.exists()
    installed.install()
    unit.write_text(UNIT.format(f'"{installed.app}/bin/cyber-inference-tui"'))
    with running_service(installed) as service:
        done = installed.run("--uninstall")
        assert service.wait(LIMIT) == 0
    assert f"removing the systemd unit {unit}" in done.stderr
    assert f"stopping the service (pid {service.pid})" in done.stderr
    assert not unit.exists()
    assert "--user disable --now cyber-inference-tui.service\n" in calls.read_text()


def test_purging_wants_a_yes_and_removes_everything_of_the_program(installed: Checkout) -> None:
    before = below(installed.home)
    done = installed.run("--purge")
    assert (done.returncode, below(installed.home)) == (1, before)
    assert "--yes" in done.stderr
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    process = installed.start("--purge", stdin=theirs, stderr=theirs)
    os.close(theirs)
    process.communicate(timeout=60)
    said = said_on(ours)
    assert process.returncode == 1
    assert "Remove all this?" in said
    assert f"{installed.app.parent}/models" in said
    assert below(installed.home) == before
    assert installed.run("--uninstall", "--yes").returncode == 2
    mine = installed.app.parent / "notes.txt"
    mine.write_text("mine")
    done = installed.run("--purge", "--yes")
    assert done.returncode == 0, done.stderr
    assert below(installed.home) == {".local/share/cyber-inference-tui/notes.txt"}
    mine.unlink()
    done = installed.run("--purge", "--yes")
    assert (done.returncode, done.stderr) == (0, "There is nothing else to remove.\n")
    assert not mine.parent.exists()


@pytest.mark.parametrize("as_link", [False, True])
def test_models_elsewhere_are_named_and_left(
    installed: Checkout, tmp_path: Path, as_link: bool
) -> None:
    disk = tmp_path / "big disk"
    models = installed.app.parent / "models"
    models.rename(disk)
    if as_link:
        models.symlink_to(disk)
    done = installed.run("--purge", "--yes", **({} if as_link else {"MODELS": str(disk)}))
    assert (disk / "a.gguf").exists()
    assert str(disk) in done.stderr
    assert as_link or f"{disk} (elsewhere: --purge leaves them)" in done.stderr
    assert not models.is_symlink()


def test_foreign_files_stay_and_the_settings_name_the_data(
    installed: Checkout, tmp_path: Path
) -> None:
    (installed.app / "notes.txt").write_text("mine")
    citui = installed.link.with_name("citui")
    citui.unlink()
    citui.write_text("another program")
    data = tmp_path / "other disk"
    (data / "models").mkdir(parents=True)
    (data / "models/a.gguf").touch()
    installed.run("--uninstall")
    assert below(installed.app) == {"notes.txt"}
    assert citui.read_text() == "another program"
    settings = installed.home / ".config/cyber-inference-tui/config.toml"
    settings.write_text(f'port = 8000\ndata_dir = "{data}" # big\n')
    done = installed.run("--purge", "--yes")
    assert (done.returncode, data.exists()) == (0, False), done.stderr


def test_a_home_that_is_the_data_directory_is_not_purged(installed: Checkout) -> None:
    program = installed.root / "cyber_inference_tui/program.py"
    program.write_text(
        program.read_text().replace(
            'data = home / ".local/share/cyber-inference-tui"', "data = home"
        )
    )
    installed.install()
    (installed.home / "logs").mkdir()
    done = installed.run("--purge", "--yes")
    assert done.returncode == 1
    assert (installed.home / "logs").exists()

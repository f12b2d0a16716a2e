"""``install-llama`` as a user types it, with a local server in place of GitHub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyber_inference_tui.cli.main import run
from cyber_inference_tui.llama.install import hardware
from cyber_inference_tui.llama.install.report import read_report
from tests.llama.install_stand_ins import X64
from tests.llama.release_server import ReleaseServer, good_tar

Install = Callable[..., int]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    monkeypatch.setattr(hardware.Platform, "here", classmethod(lambda cls: X64))
    with ReleaseServer() as started:
        started.add("b6543", "llama-b6543-bin-ubuntu-x64.tar.gz", good_tar())
        yield started


@pytest.fixture
def install(server: ReleaseServer, tmp_path: Path) -> Install:
    root = tmp_path / "machine"
    (root / "dev").mkdir(parents=True)
    config = tmp_path / "config.toml"
    config.write_text(f'system_root = "{root}"\n')

    def call(*arguments: str, path: str = "/usr/bin:/bin") -> int:
        return run(
            [
                *("install-llama", "--config", str(config), "--data-dir", str(tmp_path / "data")),
                *("--github-api", server.url, "--github-url", server.url, *arguments),
            ],
            {"PATH": path, "HOME": str(tmp_path)},
        )

    return call


def test_install_prints_version_and_devices(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install() == 0
    captured = capsys.readouterr()
    assert "Installed llama-server b6543 (github)" in captured.out
    assert "Devices: Vulkan0: NVIDIA Thing" in captured.out
    assert "downloading llama-b6543" in captured.err
    assert install() == 0
    assert "Already there: llama-server b6543" in capsys.readouterr().out


def test_json_is_all_that_stdout_gets(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "machine/dev/kfd").touch()
    assert install("--json", "--from", "github") == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert set(record) == {
        "path",
        "version",
        "source",
        "devices",
        "warnings",
        "installed",
        "replaced",
    }
    assert record["source"] == "github"
    assert Path(record["path"]).is_file()
    assert "AMD GPU" in record["warnings"][0]
    assert "Warning: This machine has an AMD GPU" in captured.err


def test_a_llama_server_on_path_is_enough(
    install: Install, server: ReleaseServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'version: 42 (abc)'\n")
    program.chmod(0o755)
    assert install("--json", path=f"{program.parent}:/usr/bin:/bin") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["source"], record["version"], record["path"]) == ("path", "42", str(program))
    assert not server.asked


def test_check(install: Install, server: ReleaseServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert install("--check") == 6
    assert "installed: none" in capsys.readouterr().out
    assert install() == 0
    server.add("b6600", "llama-b6600-bin-ubuntu-x64.tar.gz", good_tar())
    capsys.readouterr()
    assert install("--check", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["installed"]["version"] == "b6543"
    assert record["newest"] == {"version": "b6600", "source": "github"}
    assert record["up_to_date"] is False
    assert install("--force") == 0
    assert install("--check") == 0
    assert "newest:    b6600" in capsys.readouterr().out


def test_a_version(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert install("--from", "github", "--version", "b1") == 1
    assert "knows no such release" in capsys.readouterr().err
    assert install("--from", "github", "--version", "6543") == 0


def test_auto_falls_through_to_debian_and_gives_every_reason(
    install: Install, server: ReleaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/repos/ggml-org/llama.cpp/releases"] = (500, {}, b"")
    # A mirror that answers but has no files.
    assert install("--mirror", server.url) == 1
    error = capsys.readouterr().err
    assert "status 500" in error
    assert "--from source" in error.splitlines()[-1]
    assert "Traceback" not in error


def test_rollback(
    install: Install, server: ReleaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install("--rollback") == 1
    assert "No earlier llama-server" in capsys.readouterr().err
    assert install() == 0
    server.add("b6600", "llama-b6600-bin-ubuntu-x64.tar.gz", good_tar())
    assert install("--from", "github") == 0
    assert "It replaces b6543 (github), which --rollback brings back." in capsys.readouterr().out
    assert install("--rollback") == 0
    output = capsys.readouterr().out
    assert output.startswith("Restored llama-server b6543 (github): ")
    assert "It replaces b6600 (github), which --rollback brings back." in output
    assert install("--rollback") == 0
    assert "Restored llama-server b6600 (github)" in capsys.readouterr().out
    assert install("--rollback", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["version"] == "b6543"
    assert record["replaced"] == {"version": "b6600", "source": "github"}
    assert install("--check") == 0
    assert "installed: b6543 (github)" in capsys.readouterr().out


def test_reports_are_for_another_process(
    install: Install, server: ReleaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install("--json", "--reports") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["version"] == "b6543"
    reports = [read_report(line.encode()) for line in captured.err.split("\n") if line]
    assert all(report is not None and report.source == "github" for report in reports)
    shares = [report.progress for report in reports if report is not None]
    assert shares == sorted(shares, key=lambda share: share or 0.0)
    server.answers["/repos/ggml-org/llama.cpp/releases"] = (500, {}, b"")
    assert install("--from", "github", "--force", "--reports") == 1
    first, *_ = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    report = read_report(first.encode())
    assert report is not None
    assert "status 500" in (report.error or "")


def test_wrong_usage(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert install("--from", "github", "--mirror", "http://m.invalid") == 2
    assert install("--from", "nowhere") == 2
    assert install("--rollback", "--force") == 2
    assert "Traceback" not in capsys.readouterr().err

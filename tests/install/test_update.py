"""install.sh installs each version beside the current one, and switches only to one that runs."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.install.checkout import Checkout, said_on


@contextmanager
def running_service(checkout: Checkout, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The installed program as a running service."""
    with subprocess.Popen(
        [checkout.link, *(arguments or ("serve",))],
        env=checkout.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def held_build(checkout: Checkout, fifo: Path) -> Iterator[subprocess.Popen[str]]:
    """An installation that waits in the middle of its work until ``fifo`` is written to."""
    os.mkfifo(fifo)
    begun = fifo.with_suffix(".begun")
    os.mkfifo(begun)
    checkout.set_version(
        "held", before_build=f"open({str(begun)!r}, 'w').close()\nopen({str(fifo)!r}).read()"
    )
    process = checkout.start("--no-llama", start_new_session=True)
    try:
        begun.read_text()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def test_a_first_installation_has_all_its_parts(checkout: Checkout, python_with_pip: Path) -> None:
    checkout.use_python(python_with_pip)
    done = checkout.run("--no-llama")
    assert done.returncode == 0, done.stderr
    assert "looking for another" not in done.stderr
    assert checkout.version() == "1"
    assert checkout.version(checkout.link.with_name("citui")) == "1"
    share = checkout.home / ".local/share"
    assert (share / "zsh/site-functions/_cyber-inference-tui").exists()
    # bash and fish look for a file with the name of the command, as man does.
    for name in ("cyber-inference-tui", "citui"):
        bash = share / "bash-completion/completions" / name
        assert bash.read_text() == "# completes in bash\n"
        assert (share / f"fish/vendor_completions.d/{name}.fish").exists()
        assert (share / f"man/man1/{name}.1").read_text().startswith(".")
    current = (checkout.app / "current").readlink()
    checkout.install()
    assert (checkout.app / "current").readlink() == current
    assert len(checkout.versions()) == 1


def test_an_update_replaces_it_and_leaves_nothing_behind(checkout: Checkout) -> None:
    checkout.install()
    checkout.set_version("2", names=("cyber-inference-tui",))
    checkout.install()
    assert checkout.version() == "2"
    assert len(checkout.versions()) == 1
    # Files that the new version does not have are removed.
    assert not checkout.link.with_name("citui").is_symlink()


def assert_failed(checkout: Checkout, done: subprocess.CompletedProcess[str]) -> None:
    """Check that an update failed cleanly and left the program unchanged."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("The installed program is unchanged.\n")
    assert checkout.version() == "1"


def test_a_failed_update_keeps_the_program(checkout: Checkout, python_with_pip: Path) -> None:
    checkout.install()
    before = checkout.versions()
    package = checkout.root / "cyber_inference_tui"
    for name, text, why in (
        ("program.py", "def main(:\n", "SyntaxError"),
        (
            *("seldom_used.py", "import no_such_library\n"),
            "seldom_used: ModuleNotFoundError: No module named 'no_such_library'",
        ),
        ("seldom_used.py", "raise SystemExit(0)\n", "seldom_used: SystemExit: 0"),
    ):
        checkout.set_version("2")
        (package / name).write_text(text)
        done = checkout.run("--no-llama")
        assert_failed(checkout, done)
        assert why in done.stderr
        assert checkout.versions() == before
    checkout.set_version("2", before_build="raise SystemExit(3)")
    assert_failed(checkout, checkout.run("--no-llama", PYTHON=str(python_with_pip)))
    assert checkout.versions() == before
    checkout.set_version("3")
    checkout.install()
    assert checkout.version() == "3"


def test_a_killed_update_keeps_the_program_and_the_next_update_cleans_up(
    checkout: Checkout, tmp_path: Path, python: Path, python_with_pip: Path
) -> None:
    checkout.install()
    checkout.use_python(python_with_pip)
    with held_build(checkout, tmp_path / "fifo") as process:
        os.killpg(process.pid, signal.SIGKILL)
    checkout.use_python(python)
    assert checkout.version() == "1"
    assert len(checkout.versions()) == 2
    checkout.set_version("2")
    checkout.install()
    assert checkout.version() == "2"
    assert len(checkout.versions()) == 1


def test_two_at_once_wait_for_each_other(checkout: Checkout, tmp_path: Path) -> None:
    with held_build(checkout, tmp_path / "fifo") as first:
        second = checkout.start("--no-llama")
        assert second.stderr is not None
        assert "waiting for another installation" in second.stderr.readline()
        (tmp_path / "fifo").write_text("go on")
        assert first.wait(60) == 0
        # The same version is installed by then.
        _, err = second.communicate(timeout=60)
        assert (second.returncode, "installing" in err) == (0, False), err
    assert checkout.version() == "held"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_keeps_the_program(checkout: Checkout, python_with_pip: Path) -> None:
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", checkout.home], check=False
    )
    if made.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        checkout.install()
        filler = checkout.home / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(checkout.home).free < 4096
        checkout.set_version("2")
        done = checkout.run("--no-llama", PYTHON=str(python_with_pip))
        assert done.returncode == 1
        assert "There is no room left" in done.stderr
        assert "Traceback" not in done.stderr
        assert checkout.version() == "1"
        filler.unlink()
        checkout.install()
        assert checkout.version() == "2"
    finally:
        subprocess.run(["umount", "--lazy", checkout.home], check=True)


def test_without_a_network_one_sentence_says_so(checkout: Checkout, python_with_pip: Path) -> None:
    checkout.use_python(python_with_pip)
    checkout.set_version("1", requires='"hatchling"')
    environ = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "0"}
    del checkout.environ["PIP_NO_INDEX"]
    done = checkout.run("--no-llama", **environ)
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if "pip" in line]
    assert sentence.startswith("pip could not get hatchling from the package index: ")
    assert "connect this machine to the network" in sentence
    assert "PIP_INDEX_URL" in sentence


def test_a_service_keeps_its_version_until_it_ends(checkout: Checkout) -> None:
    checkout.install()
    with (
        running_service(checkout, "--no-ui", "--background") as service,
        running_service(checkout) as in_foreground,
    ):
        checkout.set_version("2")
        done = checkout.run("--no-llama")
        assert f"A service (pid {service.pid}) still runs" in done.stderr
        assert f"To run the new version: '{checkout.app}/bin/cyber-inf" in done.stderr
        assert "service restart" in done.stderr
        # This service is left to the user who started it.
        assert f"A service (pid {in_foreground.pid}) still runs" in done.stderr
        assert done.stderr.count("start it again where it was started") == 1
        assert len(checkout.versions()) == 2
        assert checkout.version() == "2"
        # The message is repeated while it applies.
        assert f"pid {service.pid}" in checkout.run("--no-llama").stderr
        in_foreground.kill()
        in_foreground.wait()
        # On a terminal it asks whether to restart the service.
        ours, theirs = pty.openpty()
        os.write(ours, b"y\n")
        process = checkout.start("--no-llama", stdin=theirs, stderr=theirs)
        os.close(theirs)
        assert process.wait(60) == 0
        process.communicate()
        said = said_on(ours)
        assert "Restart it now?" in said
        assert "called with service restart" in said
    checkout.install()
    assert len(checkout.versions()) == 1


def test_the_former_layout_is_taken_over(checkout: Checkout) -> None:
    python = checkout.environ["PYTHON"]
    subprocess.run([python, "-m", "venv", "--clear", checkout.app], check=True)
    checkout.install_into_itself()
    program = checkout.app / "bin/cyber-inference-tui"
    checkout.link.parent.mkdir(parents=True, exist_ok=True)
    checkout.link.symlink_to(program)
    with running_service(checkout) as service:
        checkout.set_version("2")
        done = checkout.run("--no-llama")
        assert done.returncode == 0, done.stderr
        assert f"pid {service.pid}" in done.stderr
        assert (checkout.app / "pyvenv.cfg").exists()
        assert checkout.version() == checkout.version(program) == "2"
    checkout.install()
    assert {path.name for path in checkout.app.iterdir()} == {
        *(".cyber-inference-tui", "bin", "current", "files", "versions")
    }
    assert checkout.version() == "2"


def test_without_a_place_for_the_link_it_names_the_program_itself(checkout: Checkout) -> None:
    (checkout.home / ".local").write_text("in the way")
    elsewhere = checkout.home / "elsewhere"
    done = checkout.run("--no-llama", CYBER_INFERENCE_HOME=str(elsewhere))
    assert done.returncode == 0, done.stderr
    program = elsewhere / "bin/cyber-inference-tui"
    assert f"cyber-inference-tui cannot be made: run {program}." in done.stderr
    assert f"  {program} --demo\n" in done.stderr
    assert "mkdir" not in done.stderr


def test_the_links_lead_to_the_installation_made_last(checkout: Checkout) -> None:
    # Another program of that name is neither replaced nor recommended.
    checkout.link.parent.mkdir(parents=True)
    checkout.link.write_text("another program")
    done = checkout.run("--no-llama")
    assert done.returncode == 0, done.stderr
    assert checkout.link.read_text() == "another program"
    assert f"  {checkout.app}/bin/cyber-inference-tui --demo\n" in done.stderr
    checkout.link.unlink()
    second = checkout.home / "second"
    for app in (checkout.app, second):
        assert checkout.run("--no-llama", CYBER_INFERENCE_HOME=str(app)).returncode == 0
        for name in ("cyber-inference-tui", "citui"):
            assert checkout.link.with_name(name).readlink() == app / "bin" / name


def test_a_folder_with_other_things_is_left_alone(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "versions of mine"
    (other / "versions").mkdir(parents=True)
    environ = {"CYBER_INFERENCE_HOME": str(other)}
    assert "not empty and not" in checkout.run("--no-llama", **environ).stderr
    assert "There is no program" in checkout.run("--uninstall", **environ).stderr
    assert [path.name for path in other.iterdir()] == ["versions"]

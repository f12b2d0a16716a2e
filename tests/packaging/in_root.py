"""Installs, uses, removes and purges a Debian package; run by a bare root's own Python as root.

Argument: the package. It prints what it does, and ends with an AssertionError where a step fails.
"""

import json
import os
import pwd
import shlex
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

NAME = "cyber-inference-tui"
USER = "cyber-inference"
STATE = Path("/var/lib/cyber-inference-tui")
SETTINGS = Path("/etc/cyber-inference-tui")
UNIT = Path("/lib/systemd/system/cyber-inference-tui.service")
WANTED = Path("/etc/systemd/system/multi-user.target.wants/cyber-inference-tui.service")


def say(text: str) -> None:
    """A line for whoever has to find out why this failed."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def call(*command: str) -> str:
    """The output of a command that must not fail."""
    say(f"+ {shlex.join(command)}")
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    say(done.stdout)
    assert done.returncode == 0, done.returncode
    return done.stdout


def as_user(*command: str) -> list[str]:
    """The command as sudo or systemd would start it for the package's user."""
    home = pwd.getpwnam(USER).pw_dir
    person = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
    return [*person, "env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", *command]


def installed() -> None:
    """The user, its folders and the unit are there, and nobody else may read the settings."""
    user = pwd.getpwnam(USER)
    assert user.pw_dir == str(STATE) and user.pw_shell == "/usr/sbin/nologin", user
    for path, mode in ((STATE, 0o750), (SETTINGS, 0o750), (SETTINGS / "config.toml", 0o600)):
        found = path.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (user.pw_uid, mode), path
    assert WANTED.is_symlink() and WANTED.resolve() == UNIT.resolve()
    # Without udev there is no group render.
    assert "video" in call("id", "-nG", USER).split()
    completes = "completion" in call(NAME, "--help")
    for path in Path("/usr/lib", NAME, "bin").glob("c*"):
        assert Path("/usr/bin", path.name).resolve() == path
        for extra in ("man/man1/{}.1.gz", "bash-completion/completions/{}"):
            assert Path("/usr/share", extra.format(path.name)).exists() == completes, extra
    assert call(NAME, "--version").split()[-1] == call("dpkg-query", "-W", "-f", "${Version}", NAME)


def serves() -> None:
    """The unit's command, run as the unit's user, answers and ends in good order."""
    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if line[:1].isalpha())
    assert unit["User"] == USER and unit["ProtectHome"] == "read-only", unit
    # The GPU's device files are made before privileges are gone.
    assert "nvidia-modprobe" in unit["ExecStartPre"] and unit["NoNewPrivileges"] == "yes", unit
    service = subprocess.Popen(
        as_user(*shlex.split(unit["ExecStart"])), stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    line = service.stdout.readline()
    assert line.startswith("listening on http://127.0.0.1:8337"), line
    with urllib.request.urlopen("http://127.0.0.1:8337/health", timeout=30) as answer:
        assert json.load(answer) == {"status": "ok"}
    # Without a llama-server it says so, and the settings need no --config.
    status = json.loads(call(*as_user(NAME, "status", "--json")))
    assert status["data_dir"] == str(STATE) and not status["llama_server"]["path"], status
    call(*as_user(NAME, "config", "set", "model_idle_timeout", "600"))
    assert "model_idle_timeout = 600" in (SETTINGS / "config.toml").read_text()
    service.terminate()
    assert service.wait(60) == 0


def main() -> None:
    """All steps, in the order of a package's life."""
    package = sys.argv[1]
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    # Only what the package itself asks for may help it.
    call("dpkg", "--purge", "--force-depends", *BUILD_ONLY)
    call("apt-get", "install", "-y", "--no-install-recommends", package)
    installed()
    serves()

    call("apt-get", "install", "-y", "--reinstall", "--no-install-recommends", package)
    assert "model_idle_timeout = 600" in (SETTINGS / "config.toml").read_text()

    call("apt-get", "remove", "-y", NAME)
    assert not Path("/usr/lib", NAME).exists() and not UNIT.exists()
    assert (SETTINGS / "config.toml").exists() and (STATE / "logs").is_dir()

    call("apt-get", "purge", "-y", NAME)
    left = [path for path in (STATE, SETTINGS, WANTED) if path.exists() or path.is_symlink()]
    assert not left, left
    say("all steps passed")


BUILD_ONLY = (
    "python3-venv",
    "python3.11-venv",
    "python3-pip-whl",
    "python3-setuptools-whl",
    "python3-distutils",
    "python3-lib2to3",
)

if __name__ == "__main__":
    main()

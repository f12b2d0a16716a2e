"""A checkout of a tiny program that install.sh installs in a second, without any network.

Its scripts are the project's own. Its program has just the functions that install.sh uses.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICK_PIP = Path(__file__).with_name("quick_pip.py")

_BACKEND = """
import os, zipfile
NAME, DIST = "cyber_inference_tui-1.0", "cyber_inference_tui-1.0.dist-info"
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
{before}
    wheel = NAME + "-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w") as z:
        for folder, _, names in os.walk("cyber_inference_tui"):
            for name in names:
                z.write(os.path.join(folder, name))
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\\nName: cyber-inference-tui\\nVersion: 1.0\\n"),
            ("WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"),
        ):
            z.writestr(DIST + "/" + name, text)
        z.writestr(DIST + "/entry_points.txt", "[console_scripts]\\n" + "".join(
            name + " = cyber_inference_tui.program:main\\n" for name in {names}))
        z.writestr(DIST + "/RECORD", "")
    return wheel
"""

_PROGRAM = """
import os, signal, sys
from pathlib import Path

def main():
    argv, home = sys.argv[1:], Path(os.environ["HOME"])
    data = home / ".local/share/cyber-inference-tui"
    if argv == ["--version"]:
        print("cyber-inference-tui {version}")
    elif argv[:1] == ["completion"]:
        print("# completes in " + argv[1])
    elif argv[:2] == ["config", "get"]:
        print(os.environ.get("MODELS", data / "models") if argv[2] == "models_dir" else data)
    elif argv == ["config", "path"]:
        print(home / ".config/cyber-inference-tui/config.toml")
    elif "serve" in argv or "--no-ui" in argv:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print("listening", flush=True)
        while True:
            signal.pause()
    else:
        print("called with", *argv)
"""


class Checkout:
    """The checkout, a home to install it into, and the environment for both."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        # Everything has to cope with a space in its path.
        self.root = folder / "a checkout"
        self.home = folder / "my home"
        self.home.mkdir()
        self.app = self.home / ".local/share/cyber-inference-tui/app"
        self.link = self.home / ".local/bin/cyber-inference-tui"
        self.environ = {**environ, "HOME": str(self.home)}
        (self.root / "docs/man").mkdir(parents=True)
        (self.root / "docs/man/cyber-inference-tui.1").write_text(".TH CYBER-INFERENCE-TUI 1\n")
        (self.root / "docs/man/citui.1").write_text(".so man1/cyber-inference-tui.1\n")
        shutil.copy(ROOT / "install.sh", self.root)
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        self.set_version("1")

    def set_version(
        self,
        version: str,
        *,
        before_build: str = "pass",
        requires: str = "",
        names: tuple[str, ...] = ("cyber-inference-tui", "citui"),
    ) -> None:
        """Change the program: ``before_build`` is Python that its build runs first."""
        package = self.root / "cyber_inference_tui"
        shutil.rmtree(package, ignore_errors=True)
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "program.py").write_text(_PROGRAM.replace("{version}", version))
        (self.root / "README.md").touch()
        (self.root / "LICENSE").touch()
        indented = "".join(f"    {line}\n" for line in before_build.splitlines())
        (self.root / "backend.py").write_text(
            _BACKEND.replace("{before}", indented).replace("{names}", repr(names))
        )
        (self.root / "pyproject.toml").write_text(
            f'[build-system]\nrequires = [{requires}]\nbuild-backend = "backend"\n'
            f'backend-path = ["."]\n# {version}\n'
        )

    def use_python(self, python: Path) -> None:
        """Make later installations use this Python, and its pip."""
        self.environ["PYTHON"] = str(python)

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Start ``install.sh``; both of its streams are pipes unless ``options`` say otherwise."""
        given: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.environ,
            **options,
        }
        process: subprocess.Popen[str] = subprocess.Popen(
            [str(self.root / "install.sh"), *arguments],
            text=True,
            **given,  # type: ignore[call-overload]
        )
        return process

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Return the result of ``install.sh``."""
        process = self.start(*arguments, env={**self.environ, **environ})
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def install(self) -> None:
        """Install it, and require success."""
        done = self.run("--no-llama")
        assert done.returncode == 0, done.stderr

    def install_into_itself(self) -> None:
        """Install it as install.sh did before there were versions: ``app`` is the environment."""
        subprocess.run(
            [self.app / "bin/python", "-m", "pip", "install", "--quiet", self.root],
            env=self.environ,
            check=True,
        )
        (self.app / ".installed").write_text("stamp\n")

    def version(self, program: Path | None = None) -> str:
        """Return the version that the installed program prints."""
        done = subprocess.run(
            [program or self.link, "--version"],
            env=self.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.removeprefix("cyber-inference-tui ").strip()

    def versions(self) -> list[Path]:
        """Return the folders of the installed versions."""
        return sorted((self.app / "versions").iterdir())


def quick_python(folder: Path, *, real_pip: bool) -> Path:
    """Return a Python whose ``-m venv`` copies a ready environment, since making one takes seconds.

    That environment has the real pip or quick_pip.py.
    """
    import pip

    folder.mkdir()
    ready = folder / "ready"
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", ready], check=True)
    (site,) = ready.glob("lib/python3*/site-packages")
    if real_pip:
        (site / "pip").symlink_to(Path(pip.__file__).parent)
    else:
        (site / "pip").mkdir()
        (site / "pip/__init__.py").touch()
        shutil.copy(QUICK_PIP, site / "pip/__main__.py")
    program = folder / "python3"
    program.write_text(
        '#!/bin/sh\nif [ "$1 $2 $3" = "-m venv --clear" ]; then\n'
        f'    rm -rf "$4" && mkdir -p "${{4%/*}}" &&\n'
        f'        exec cp -a "{ready}" "$4"\nfi\nexec "{ready}/bin/python" "$@"\n'
    )
    program.chmod(0o755)
    return program


def plain_environ(python: Path | None, path: str) -> dict[str, str]:
    """A user's environment with nothing of this machine's but certificates."""
    kept = {name: os.environ[name] for name in ("PIP_CERT", "SSL_CERT_FILE") if name in os.environ}
    chosen = {} if python is None else {"PYTHON": str(python)}
    return {
        **kept,
        **chosen,
        "PATH": path,
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "LC_ALL": "C",
    }


def said_on(terminal: int) -> str:
    """Return everything that programs which have ended wrote to a terminal; close it."""
    said = b""
    # Linux gives EIO once no process has it open any more.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            said += piece
    os.close(terminal)
    return said.decode()

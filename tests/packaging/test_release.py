"""The files of a release: complete, and the same each time they are made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import date
from email.parser import Parser
from importlib.metadata import Distribution, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cyber_inference_tui import __version__
from tests.packaging.conftest import ROOT

NAME = f"cyber_inference_tui-{__version__}"


def tracked() -> set[str]:
    """What git has or would take of this checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git's")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run(
        [*command, "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive.getmembers() if not member.isdir()]
    assert all(name.startswith(f"{NAME}/") for name in names)
    return {name.removeprefix(f"{NAME}/") for name in names}


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    version, _, day = headings[1].partition(" - ")
    assert version == __version__
    assert date.fromisoformat(day)


def test_the_sdist_has_every_file_and_nothing_else(release: tuple[Path, Path]) -> None:
    assert in_sdist(release[0]) - {"PKG-INFO"} == tracked()


def test_the_wheel_has_every_file_of_the_package(release: tuple[Path, Path]) -> None:
    package = {name for name in in_sdist(release[0]) if name.startswith("cyber_inference_tui/")}
    here = (ROOT / "cyber_inference_tui").rglob("*")
    assert package == {
        str(path.relative_to(ROOT)) for path in here if path.is_file() and path.suffix != ".pyc"
    }
    assert {Path(name).suffix for name in package} >= {".py", ".tcss", ".typed"}
    with zipfile.ZipFile(release[1]) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
        licence = wheel.read(f"{NAME}.dist-info/licenses/LICENSE")
    assert {name for name in names if name.split("/")[0] == "cyber_inference_tui"} == package
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"


def test_an_index_would_take_both(release: tuple[Path, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, release)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_same_files_each_time(release: tuple[Path, Path], tmp_path: Path) -> None:
    """The wheel made from the checkout is also the one made from the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel"]
    subprocess.run(
        [*command, "--outdir", str(tmp_path), str(ROOT)], capture_output=True, check=True
    )
    for made in release:
        assert (tmp_path / made.name).read_bytes() == made.read_bytes(), made.name


def test_the_installed_wheel_runs_without_the_checkout(
    release: tuple[Path, Path], tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-compile", "--target", str(tmp_path), str(release[1])],
        capture_output=True,
        check=True,
    )
    code = (
        "import cyber_inference_tui, runpy, sys; print(cyber_inference_tui.__file__);"
        "sys.argv[1:] = ['--version']; runpy.run_module('cyber_inference_tui', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, version = done.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path)
    assert version.split()[-1] == __version__


def write_bare_wheels(folder: Path) -> None:
    """Everything that the program depends on, as here: wheels without any code."""
    folder.mkdir()
    awaited: list[tuple[str, frozenset[str]]] = [(NAME.partition("-")[0], frozenset())]
    seen = set(awaited)
    while awaited:
        name, extras = awaited.pop()
        for wanted in map(Requirement, requires(name) or []):
            marker = wanted.marker
            if marker is not None and not any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                continue
            found = normal(wanted.name), frozenset(wanted.extras)
            if found not in seen:
                seen.add(found)
                awaited.append(found)
                write_bare_wheel(folder, distribution(wanted.name))


def write_bare_wheel(folder: Path, installed: Distribution) -> None:
    """A wheel with the metadata and licences of what is installed here.

    To validate one address takes a tenth of a second, and most have five.
    """
    stem = f"{normal(installed.name).replace('-', '_')}-{installed.version}"
    facts = (installed.read_text("METADATA") or "").partition("\n\n")[0].splitlines(keepends=True)
    texts = {"METADATA": "".join(line for line in facts if not line.startswith("Project-URL:"))}
    for file in installed.files or []:
        top, _, inside = str(file).partition(".dist-info/")
        if "/" not in top and inside.startswith("licenses/"):
            texts[inside] = file.read_text("utf-8")
    texts["WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    texts["RECORD"] = ""
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(f"{stem}.dist-info/{name}", text)


@pytest.mark.timeout(600)
def test_the_bill_of_materials_names_every_dependency(
    release: tuple[Path, Path], tmp_path: Path
) -> None:
    """The dependencies' metadata is enough for it, and nothing has to be downloaded.

    It takes some seconds: the result is validated, and that is slow.
    """
    write_bare_wheels(tmp_path / "wheels")
    file = tmp_path / "sbom.json"
    tools = Path(sys.executable).parent
    done = subprocess.run(
        [str(ROOT / "scripts/sbom"), str(release[1]), str(file)],
        env={
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": (tmp_path / "wheels").as_uri(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{file}\n"
    bill = json.loads(file.read_bytes())
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("cyber-inference-tui", __version__)
    listed = {normal(component["name"]): component for component in bill["components"]}
    direct = {normal(re.split(r"[^\w.-]", line)[0]) for line in requires(root["name"]) or []}
    assert direct <= set(listed), direct - set(listed)
    assert "pytest" not in listed and "pip" not in listed
    for name, component in listed.items():
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"], name
        # Nothing tells where this machine gets its packages.
        assert not any(
            "distribution" in reference["type"] and "metadata" not in reference.get("comment", "")
            for reference in component.get("externalReferences", [])
        )


def normal(name: str) -> str:
    """A distribution's name as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

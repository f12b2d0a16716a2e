"""Which Pythons and which versions of the dependencies the project is tested with."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = ROOT / ".github/workflows/test.yml"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH on which there is neither a Python nor uv."""
    for name in ("dirname", "env", "id", "sed"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    return tmp_path


def scripts_test(tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", ROOT / "scripts/test", *arguments],
        env={"PATH": str(tools), "HOME": str(tools)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments", [["--python", "3.10"], ["--python=three"], ["--lowest", "--python"], ["--python="]]
)
def test_a_python_that_is_too_old_or_none_is_refused(tools: Path, arguments: list[str]) -> None:
    done = scripts_test(tools, *arguments)
    assert done.returncode == 2
    assert done.stderr == "--python takes a version from 3.11 on, for example --python 3.13.\n"


def test_a_python_that_is_not_there_is_named_with_the_way_out(tools: Path) -> None:
    done = scripts_test(tools, "--python", "3.99")
    assert done.returncode == 2
    assert done.stderr.startswith("There is no Python 3.99 with its venv module on PATH")
    assert done.stderr.endswith("or install uv, which brings it.\n")
    assert done.stderr.count("\n") == 1
    assert not (ROOT / ".venv-3.99").exists()


def test_a_uv_that_cannot_bring_the_python_ends_the_run(tools: Path) -> None:
    (tools / "uv").write_text("#!/bin/sh\necho 'error: No interpreter found' >&2\nexit 2\n")
    (tools / "uv").chmod(0o755)
    done = scripts_test(tools, "--python", "3.99")
    assert done.returncode == 2
    assert done.stderr.endswith("uv has no Python 3.99 here and could not fetch it.\n")


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_a_dependency_begins_with_its_lowest_version(line: str) -> None:
    # scripts/test --lowest reads the first bound.
    found = re.match(r"([\w.-]+)>=([\w.]+)", line)
    assert found is not None
    name, lowest = found.groups()
    requirement = Requirement(line)
    assert requirement.name == name
    assert requirement.specifier.contains(lowest)


def test_the_workflow_tests_each_python_that_the_package_names() -> None:
    minor = "Programming Language :: Python :: 3."
    named = {line.removeprefix(minor) for line in PROJECT["classifiers"] if line.startswith(minor)}
    tested = set(re.findall(r"--python 3\.(\d+)", WORKFLOW.read_text()))
    assert named == tested
    assert f">=3.{min(named)}" == PROJECT["requires-python"]


def test_the_workflow_runs_scripts_that_are_there() -> None:
    commands = re.findall(r"run: ([.\w]+/\w+)", WORKFLOW.read_text())
    assert set(commands) == {".ci/run", "scripts/test"}
    assert all(os.access(ROOT / command, os.X_OK) for command in commands)

"""The part of ``pip install FOLDER`` that install.sh needs, without pip's start-up time.

It runs as the package ``pip`` of an environment, so it cannot import anything of the tests.
"""

from __future__ import annotations

import configparser
import importlib
import os
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

_SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from {module} import {function}
sys.exit({function}())
"""


def _install(wheel: Path) -> None:
    library = Path(sysconfig.get_path("purelib"))
    entries = configparser.ConfigParser(delimiters="=")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(library)
        for name in file.namelist():
            if name.endswith(".dist-info/entry_points.txt"):
                entries.read_string(file.read(name).decode())
    for name, target in entries["console_scripts"].items():
        module, _, function = target.partition(":")
        script = Path(sysconfig.get_path("scripts"), name)
        script.write_text(_SCRIPT.format(python=sys.executable, module=module, function=function))
        script.chmod(0o755)


def _main(source: str) -> None:
    os.chdir(source)
    sys.path.insert(0, source)
    with tempfile.TemporaryDirectory() as folder:
        _install(Path(folder, importlib.import_module("backend").build_wheel(folder)))


if __name__ == "__main__":
    _main(sys.argv[-1])

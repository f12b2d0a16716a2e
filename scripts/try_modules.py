"""Import every module of the installed program: install.sh switches to it only if that works."""

import importlib
import pkgutil
import sys

import cyber_inference_tui

for module in pkgutil.walk_packages(cyber_inference_tui.__path__, "cyber_inference_tui."):
    if not module.name.endswith(".__main__"):
        try:
            importlib.import_module(module.name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it does not run
            sys.exit(f"{module.name}: {type(error).__name__}: {error}")

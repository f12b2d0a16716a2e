"""httpx, loaded when something of it is used for the first time: no screen has to wait for it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def _late(name: str) -> ModuleType:
    """The module ``name``, whose code runs when something is read from it."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# The command line of httpx is its greatest part: it brings Pygments and half of Rich with it. None
# stands for a module that cannot be imported, and httpx does without.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
httpx = _late("httpx")

"""httpx, imported at its first use, so that no screen waits for the import."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def _lazy(name: str) -> ModuleType:
    """Return the module ``name``. Its code runs when an attribute is first read."""
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


# httpx's own command line imports Pygments and half of Rich. With None the module cannot be
# imported, and httpx works without it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
httpx = _lazy("httpx")

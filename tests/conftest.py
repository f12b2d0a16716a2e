"""What holds for every test: Hypothesis' profile, what children inherit, garbage collection."""

from __future__ import annotations

import gc
import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine takes any time for an example; tests that suppress other checks have to name
# `too_slow`, too. `--hypothesis-profile=thorough` looks for longer.
_NO_CLOCK = settings(
    settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("quick", _NO_CLOCK, max_examples=40)
settings.register_profile("thorough", _NO_CLOCK, max_examples=1000)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Give children the default signals and compiled modules, whatever this process inherited.

    Without .pyc files each of hundreds of programs would compile all of its modules, and each
    worker all of the tests.

    A child inherits a signal that is ignored (``nohup``, a background job of a script) or
    blocked, but not a handler. A handler that does nothing keeps this process as immune as it was.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    starts_workers = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if starts_workers:
        return  # they do it themselves
    gc.disable()  # collecting makes a million objects, and all of them stay
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every search for garbage."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()

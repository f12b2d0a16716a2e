"""Runs a command line of the service that splits a model over a link of any speed.

Two busy cores send less than a link has to carry, which is none of what the tests are about:
``any_link.py PYTHON -m cyber_inference_tui ARGUMENTS``.
"""

from __future__ import annotations

import runpy
import sys

from cyber_inference_tui.peers import link

if __name__ == "__main__":
    link.LEAST_GBIT = 0.0
    del sys.path[0]  # this folder
    _, _, _, package, *arguments = sys.argv
    sys.argv = [package, *arguments]
    runpy.run_module(package, run_name="__main__", alter_sys=True)

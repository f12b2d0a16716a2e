"""The property tests of all that reads bytes from outside, for as long as wished."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/fuzz",
    "tests/http/test_framing.py",  # servers' answers
    "tests/http/test_lean_path.py",  # heads and bodies of requests
    "tests/http/test_body_fields.py",
    "tests/gguf/test_reader.py",
    "tests/settings/test_load.py",
    "tests/settings/test_positions.py",
    "tests/settings/test_edit.py",
    "tests/llama/test_archive.py",
    "tests/llama/test_slots.py",
    "tests/llama/test_log_lines.py",
)


def run(seconds: float, seed: int) -> int:
    """Run them with ever new seeds, beginning with ``seed``; return the first failure's code."""
    began = time.monotonic()
    rounds = 0
    while not rounds or time.monotonic() - began < seconds:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=0", "-m", "not real"]
        command += ["--hypothesis-profile=thorough", f"--hypothesis-seed={seed + rounds}"]
        done = subprocess.run([*command, *TESTS], cwd=ROOT, check=False)
        rounds += 1
        spent = time.monotonic() - began
        sys.stdout.write(f"{spent / 60:.0f} min: {rounds} rounds, from seed {seed}\n")
        sys.stdout.flush()
        if done.returncode:
            return done.returncode
    return 0

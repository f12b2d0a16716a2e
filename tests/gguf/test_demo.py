"""The demo model's file; tests/real tests its answers on a real llama-server."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from cyber_inference_tui.gguf.demo import CHAT_TEMPLATE, DEMO_ID, write_demo
from cyber_inference_tui.gguf.demo_text import TOPICS
from cyber_inference_tui.gguf.metadata import read_metadata

from .demo_file import demo_bytes


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.gguf"
    write_demo(path)
    assert path.stat().st_size <= 6_000_000
    assert [file.name for file in path.parent.iterdir()] == ["demo.gguf"]
    facts = read_metadata(path)
    assert DEMO_ID == "demo"
    assert facts.architecture == "llama"
    assert facts.chat_template == CHAT_TEMPLATE
    assert facts.quantization == "Q8_0"
    assert facts.context_length == 32768
    written = path.stat().st_ino
    write_demo(path)
    assert path.stat().st_ino == written  # the constants about it are true
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    write_demo(path)
    assert path.read_bytes() == demo_bytes()


def test_it_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib, sys; from cyber_inference_tui.gguf.demo import demo_bytes;"
        "print(hashlib.sha256(demo_bytes()).hexdigest(), 'numpy' in sys.modules)"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "1"},
    ).stdout
    assert there.split() == [hashlib.sha256(demo_bytes()).hexdigest(), "False"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "demo.gguf"
    target.mkdir()
    try:
        write_demo(target)
    except OSError:
        pass
    else:
        raise AssertionError("a directory was replaced by a file")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.gguf"]


def test_each_text_begins_with_a_word_of_its_own() -> None:
    first = [topic.text.split()[0].rstrip("!,") for topic in TOPICS]
    assert len(set(first)) == len(first)
    assert len(demo_bytes()) > 0

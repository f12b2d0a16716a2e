"""The demo model's file; what it says on a real llama-server is tested in tests/real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cyber_inference_tui.gguf.demo import CHAT_TEMPLATE, DEMO_ID, demo_bytes, write_demo
from cyber_inference_tui.gguf.demo_text import TOPICS
from cyber_inference_tui.gguf.metadata import read_metadata


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
    before = path.read_bytes()
    write_demo(path)
    assert path.read_bytes() == before


def test_it_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib, sys; from cyber_inference_tui.gguf.demo import demo_bytes;"
        "print(hashlib.sha256(demo_bytes()).hexdigest(), 'numpy' in sys.modules)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().split()[1] == b"False"


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

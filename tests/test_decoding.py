"""Types decoded by several threads at once, the first time too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cyber_inference_tui

# Types made for each round, that several threads meet at once: without ``thread_safe`` the process
# dies of a segmentation fault, which only another process can tell of.
_MEET = """
import sys, threading, msgspec
from cyber_inference_tui.decoding import thread_safe

sys.setswitchinterval(1e-6)
FIELDS = [(f"field{number}", int) for number in range(30)]
for _ in range(100):
    inner = msgspec.defstruct("Inner", FIELDS)
    outer = msgspec.defstruct("Outer", [("inner", inner), ("more", list[inner] | None, None)])
    data = msgspec.json.encode({"inner": {name: 1 for name, _ in FIELDS}})
    start = threading.Barrier(8)
    found = []

    def meet():
        start.wait()
        found.append(msgspec.json.decode(data, type=thread_safe(outer)).inner.field29)

    threads = [threading.Thread(target=meet) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8
print("fine")
"""


def test_threads_that_meet_a_type_for_the_first_time_all_decode_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEET], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def typed_decoding(tree: ast.AST) -> list[tuple[int, ast.expr]]:
    """The types, with their lines, of all that decodes with msgspec into one."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        named = [keyword.value for keyword in node.keywords if keyword.arg == "type"]
        if name == "msgspec.json.decode":
            types = named
        elif name == "msgspec.json.Decoder":
            types = named or node.args[:1]
        elif name == "msgspec.convert":
            types = named or node.args[1:2]
        else:
            continue
        found += [(node.lineno, one) for one in types]
    return found


def not_thread_safe(text: str) -> list[int]:
    """The lines that decode into a type that is not ``thread_safe``."""
    return [
        line
        for line, kind in typed_decoding(ast.parse(text))
        if not (isinstance(kind, ast.Call) and ast.unparse(kind.func) == "thread_safe")
    ]


def test_everything_decoded_is_thread_safe() -> None:
    package = Path(cyber_inference_tui.__file__).parent
    left = [
        f"{path.relative_to(package)}:{line}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "decoding.py"
        for line in not_thread_safe(path.read_text())
    ]
    assert left == []


def test_the_check_can_fail() -> None:
    text = """
msgspec.json.decode(data)
msgspec.json.decode(data, type=thread_safe(Kind))
msgspec.json.decode(data, type=Kind)
msgspec.json.Decoder(Kind)
msgspec.convert(value, Kind, strict=False)
"""
    assert not_thread_safe(text) == [4, 5, 6]

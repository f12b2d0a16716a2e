"""What the stand-in for llama-server says of itself, and the options that it takes."""

from __future__ import annotations

import os
import sys

VERSION = "version: 0.7.0 (build 11669, commit fake)\nbuilt with a stand-in for tests"
_NO_VALUE = frozenset(
    {"--offline", "--no-webui", "--no-ui", "--embedding", "--embeddings", "--metrics", "--slots"}
    | {"--no-slots", "--jinja", "--no-jinja", "--mlock", "--no-mmap", "--reranking", "--verbose"}
)
_WITH_VALUE = frozenset(
    {"--host", "--port", "-m", "--model", "-a", "--alias", "-c", "--ctx-size", "-ngl"}
    | {"--gpu-layers", "--n-gpu-layers", "-t", "--threads", "-np", "--parallel", "--cache-ram"}
    | {
        "-lv",
        "--verbosity",
        "--threads-http",
        "--log-colors",
        "--mmproj",
        "--pooling",
        "--fit",
        "--fit-target",
        "--cache-type-k",
        "--cache-type-v",
        "--model-draft",
        "--spec-draft-n-max",
        "--spec-type",
    }
    | {"-fa", "--flash-attn", "-b", "--batch-size", "-ub", "--ubatch-size", "--timeout"}
)


def answer_questions(argv: list[str]) -> None:
    """Answer what is asked of a program that is not to run, and end; else do nothing."""
    if "--version" in argv:
        sys.stderr.write(f"{VERSION}\n")
        sys.exit(0)
    if "--help" in argv:
        sys.stdout.write("----- common params -----\n\n")
        for name in sorted(_NO_VALUE | _WITH_VALUE):
            value = " N" if name in _WITH_VALUE else ""
            value = " none,draft-simple" if name == "--spec-type" else value
            sys.stdout.write(f"{name}{value}    an option of the stand-in\n")
        sys.exit(0)
    if "--list-devices" in argv:
        sys.stdout.write("Available devices:\n  (none)\n")
        sys.exit(0)


def parse(argv: list[str]) -> dict[str, str]:
    """llama-server's options by their long names; exits with 1 on one that it does not know."""
    names = {"-m": "--model", "-a": "--alias"}
    options = {"host": "127.0.0.1", "port": "8080"}
    words = iter(argv)
    for word in words:
        if word in _WITH_VALUE:
            options[names.get(word, word).removeprefix("--")] = next(words, "")
        elif word not in _NO_VALUE:
            os.write(2, f"error: invalid argument: {word}\n".encode())
            os._exit(1)
    return options

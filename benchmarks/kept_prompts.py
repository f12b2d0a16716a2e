"""``python -m benchmarks.kept_prompts``: two models in turn with long prompts, room for one.

Two services run side by side, one with ``keep_prompts`` and one without. In each round both models
of the first get their long prompts again, and those of the second a short one: the time to its
first token is what the swap itself takes. Prints a Markdown table of the medians and their ratios
to that. The long prompts are new once for each model. Needs a llama-server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks import programs
from benchmarks.big_model import write_models

MODELS = ("one", "two")
SHORT = "hello"
_WORD = "a page to read "
_CONTEXT = 16_384


def first_token(port: int, model: str, prompt: str) -> tuple[float, float]:
    """Return the seconds until the first token, and the share of the prompt that was cached."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": 4,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, cached = 0.0, 0.0
    began = time.perf_counter()
    url = f"http://127.0.0.1:{port}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=600, trust_env=False) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(line)
            first = first or time.perf_counter() - began
            if usage := event.get("usage"):
                cached = usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"]
    return first, cached


def long_prompt(port: int, tokens: int) -> str:
    """Return a text of about so many tokens."""
    url = f"http://127.0.0.1:{port}/tokenize"
    body = {"model": MODELS[0], "content": _WORD * 100}
    answer = httpx.post(url, json=body, timeout=60, trust_env=False)
    return _WORD * (100 * tokens // len(answer.json()["tokens"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    parser.add_argument("--tokens", type=int, default=8192, help="of the long prompt")
    parser.add_argument("--megabytes", type=int, default=100, help="of each model")
    parser.add_argument("--rounds", type=int, default=5, help="of both models")
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    # Ended by SIGTERM, it ends what it started as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    swaps: list[float] = []
    kept: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="cyber-kept-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_models(folder, options.megabytes)
        files = dict.fromkeys(MODELS, folder / "big.gguf")
        ports = []
        for keeps in (True, False):
            config = {
                "llama_server_path": str(Path(options.llama_server).resolve()),
                "max_loaded_models": 1,
                "default_context_size": _CONTEXT,
                "keep_prompts": keeps,
            }
            started = programs.service(folder / f"keeps-{keeps}", config, files)
            ports.append(stack.enter_context(started).port)
        keeper, other = ports
        prompt = long_prompt(keeper, options.tokens)
        unknown = [first_token(keeper, model, prompt) for model in MODELS]
        # This swap proves that it works, and the next ones only use it.
        first_token(keeper, MODELS[0], prompt)
        first_token(other, MODELS[1], SHORT)
        for number in range(options.rounds):
            kept += [first_token(keeper, model, prompt) for model in reversed(MODELS)]
            swaps += [first_token(other, model, SHORT)[0] for model in MODELS]
            print(f"round {number + 1}", file=sys.stderr)
    swap = statistics.median(swaps)
    print(f"{options.tokens} tokens, two models of {options.megabytes} MB, room for one;", end=" ")
    print(f"medians of {len(kept)} swaps\n")
    print("| | first token | ratio to the swap | cached |")
    print("|---|---:|---:|---:|")
    print(f"| short prompt: the swap itself | {swap:.2f} s | 1.00 | |")
    for which, found in (("long prompt, kept", kept), ("long prompt, new", unknown)):
        seconds, share = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {which} | {seconds:.2f} s | {seconds / swap:.2f} | {share:.0%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

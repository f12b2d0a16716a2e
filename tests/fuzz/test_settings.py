"""A config file with a few wrong bytes is read, or each mistake has its line."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.load import load_text
from tests.fuzz.damage import Change, changes, damaged

GOOD = """# mine
port = 8337
api_keys = ["one", "two"]
llama_args = ["--threads-http", "20"]
extra_ports = [11434]
log_level = "info"

[models."a/b-Q4_K_M"]
aliases = { fast = { request_overrides = { temperature = 0.1 } } }
context_size = 4096  # tokens
request_defaults = { top_k = 1, stop = ["x"] }
env = { FAKE = "1" }

[models.other]
command = ["/bin/server", "--port", "{port}"]
pinned = true
"""


@given(changes(6))
def test_damaged_settings_are_settings_or_mistakes(done: list[Change]) -> None:
    text = damaged(GOOD.encode(), done).decode(errors="replace")
    try:
        load_text(text, Path("/c/config.toml"), environ={"HOME": "/home/x"}, flags={})
    except ConfigError as error:
        assert re.search(r":\d+: ", str(error)), str(error)

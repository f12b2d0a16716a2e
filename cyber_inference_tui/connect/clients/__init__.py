"""The clients, each in a file of its own."""

from __future__ import annotations

from cyber_inference_tui.connect.client import Client
from cyber_inference_tui.connect.clients import (
    aider,
    claude_code,
    codex,
    continue_,
    crush,
    env,
    goose,
    home_assistant,
    llm,
    open_webui,
    opencode,
    pi,
    vscode,
    zed,
)

CLIENTS: dict[str, Client] = {
    module.CLIENT.name: module.CLIENT
    for module in (
        claude_code,
        codex,
        opencode,
        aider,
        continue_,
        zed,
        vscode,
        pi,
        goose,
        crush,
        llm,
        env,
        open_webui,
        home_assistant,
    )
}
"""Every client by its name, in the order of lists."""

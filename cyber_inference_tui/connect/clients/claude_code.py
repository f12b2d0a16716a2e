"""Claude Code: variables in ``settings.json`` (https://code.claude.com/docs/en/env-vars)."""

from __future__ import annotations

from cyber_inference_tui.connect.client import JSON, Api, Client, ClientFile, Home
from cyber_inference_tui.connect.connection import PATIENCE, Connection


def variables(connection: Connection) -> dict[str, str]:
    """Return the variables that Claude Code reads."""
    strong, fast = connection.model, connection.fast
    return {
        "ANTHROPIC_BASE_URL": connection.url,
        "ANTHROPIC_AUTH_TOKEN": connection.any_key,
        "ANTHROPIC_MODEL": strong.id,
        "ANTHROPIC_DEFAULT_FABLE_MODEL": strong.id,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": strong.id,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": strong.id,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": fast.id,
        # It does not know the model, and would fill 200,000 tokens.
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(strong.context),
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(strong.context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(strong.output),
        "API_TIMEOUT_MS": str(PATIENCE * 1000),
        # Else it gives up after 300 s without a token: a long prompt on a small machine.
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": str(PATIENCE * 1000),
        # This header changes with each request, and begins the prompt: no cache would match.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }


def _files(connection: Connection, home: Home) -> tuple[ClientFile, ...]:
    folder = home.folder("CLAUDE_CONFIG_DIR", home.path / ".claude")
    return (ClientFile(folder / "settings.json", JSON, {"env": variables(connection)}),)


CLIENT = Client(
    name="claude-code",
    title="Claude Code",
    api=Api.MESSAGES,
    programs=("claude",),
    files=_files,
    least_context=65536,  # its instructions and tools alone take about 23,000 tokens
)

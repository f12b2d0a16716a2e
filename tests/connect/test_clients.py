"""Each client gets its settings, and a user's file keeps the rest."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyber_inference_tui.connect.client import Home
from cyber_inference_tui.connect.clients import CLIENTS
from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.errors import ConflictError

STRONG = Model("Qwen3-30B", 65536, images=True, thinking=True)
FAST = Model("qwen-small", 32768, tools=False)
CONNECTION = Connection("http://127.0.0.1:8337", "", STRONG, FAST, (STRONG, FAST))
WITH_KEY = Connection("http://box:8337", "sk-$key", STRONG, FAST, (STRONG, FAST))
URL = "http://127.0.0.1:8337/v1"

FILED = [name for name, client in CLIENTS.items() if client.printed is None]
PRINTED = [name for name, client in CLIENTS.items() if client.printed is not None]


def written(name: str, tmp_path: Path, connection: Connection = CONNECTION) -> dict[str, Any]:
    """The data of a client's files by their paths below the home directory."""
    readers = {".json": json.loads, ".toml": tomllib.loads}
    return {
        str(file.path.relative_to(tmp_path)): readers.get(file.path.suffix, yaml.safe_load)(
            file.after("")
        )
        for file in CLIENTS[name].files(connection, Home(tmp_path, {}, "linux"))
    }


def test_claude_code(tmp_path: Path) -> None:
    variables = written("claude-code", tmp_path)[".claude/settings.json"]["env"]
    assert variables["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8337"
    assert variables["ANTHROPIC_MODEL"] == "Qwen3-30B"
    assert variables["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "qwen-small"
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert variables["CLAUDE_STREAM_IDLE_TIMEOUT_MS"] == "1800000"
    assert variables["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert all(isinstance(value, str) for value in variables.values())
    secret = written("claude-code", tmp_path, WITH_KEY)[".claude/settings.json"]["env"]
    assert secret["ANTHROPIC_AUTH_TOKEN"] == "sk-$key"


def test_codex(tmp_path: Path) -> None:
    data = written("codex", tmp_path)[".codex/config.toml"]
    assert data["model"] == "Qwen3-30B"
    assert data["model_context_window"] == 65536
    provider = data["model_providers"][data["model_provider"]]
    assert provider["base_url"] == URL
    assert "experimental_bearer_token" not in provider
    keyed = written("codex", tmp_path, WITH_KEY)[".codex/config.toml"]["model_providers"]
    assert keyed["cyber-inference"]["experimental_bearer_token"] == "sk-$key"


def test_opencode(tmp_path: Path) -> None:
    data = written("opencode", tmp_path)[".config/opencode/opencode.json"]
    assert data["model"] == "cyber-inference/Qwen3-30B"
    assert data["small_model"] == "cyber-inference/qwen-small"
    assert data["provider"]["cyber-inference"]["options"]["chunkTimeout"] == 1800000
    models = data["provider"]["cyber-inference"]["models"]
    assert list(models) == ["Qwen3-30B", "qwen-small"]
    assert models["Qwen3-30B"]["limit"] == {"context": 65536, "output": 16384}
    assert models["Qwen3-30B"]["modalities"]["input"] == ["text", "image"]
    assert (models["Qwen3-30B"]["tool_call"], models["Qwen3-30B"]["reasoning"]) == (True, True)
    assert (models["qwen-small"]["tool_call"], models["qwen-small"]["reasoning"]) == (False, False)
    (tmp_path / ".config/opencode").mkdir(parents=True)
    (tmp_path / ".config/opencode/opencode.jsonc").write_text("{}")
    assert list(written("opencode", tmp_path)) == [".config/opencode/opencode.jsonc"]


def test_aider(tmp_path: Path) -> None:
    data = written("aider", tmp_path)
    assert data[".aider.conf.yml"] == {
        "model": "openai/Qwen3-30B",
        "weak-model": "openai/qwen-small",
        "openai-api-base": URL,
        "openai-api-key": "none",
        "timeout": 1800,
    }
    sizes = data[".aider.model.metadata.json"]
    assert sizes["openai/qwen-small"]["max_input_tokens"] == 32768


def test_continue(tmp_path: Path) -> None:
    data = written("continue", tmp_path)[".continue/config.yaml"]
    assert {"name", "version", "schema"} < set(data)
    assert [model["name"] for model in data["models"]] == ["Qwen3-30B", "qwen-small"]
    assert data["models"][0]["apiBase"] == URL
    assert data["models"][0]["capabilities"] == ["tool_use", "image_input"]
    assert data["models"][1]["capabilities"] == []
    assert data["models"][1]["defaultCompletionOptions"]["contextLength"] == 32768
    (file,) = CLIENTS["continue"].files(CONNECTION, Home(tmp_path, {}, "linux"))
    assert file.after("name: Mine\nversion: 2.0.0\nschema: v1\n").startswith("name: Mine\n")


def test_editors(tmp_path: Path) -> None:
    zed = written("zed", tmp_path)[".config/zed/settings.json"]
    provider = zed["language_models"]["openai_compatible"]["citui"]
    assert provider["api_url"] == URL
    assert provider["available_models"][0]["max_tokens"] == 65536
    assert provider["available_models"][0]["capabilities"]["images"] is True
    assert provider["available_models"][1]["capabilities"]["tools"] is False
    (group,) = written("vscode", tmp_path)[".config/Code/User/chatLanguageModels.json"]
    assert group["models"][0]["url"] == f"{URL}/chat/completions"
    assert [model["thinking"] for model in group["models"]] == [True, False]
    assert group["models"][0]["maxInputTokens"] + group["models"][0]["maxOutputTokens"] == 65536
    (tmp_path / ".config/VSCodium/User").mkdir(parents=True)
    assert list(written("vscode", tmp_path)) == [".config/VSCodium/User/chatLanguageModels.json"]


def test_pi_goose_crush_and_llm(tmp_path: Path) -> None:
    pi = written("pi", tmp_path, WITH_KEY)
    provider = pi[".pi/agent/models.json"]["providers"]["cyber-inference"]
    assert provider["apiKey"] == "sk-$$key"
    assert provider["models"][0]["contextWindow"] == 65536
    assert [model["reasoning"] for model in provider["models"]] == [True, False]
    assert pi[".pi/agent/settings.json"]["defaultModel"] == "Qwen3-30B"
    goose = written("goose", tmp_path, WITH_KEY)
    own = goose[".config/goose/custom_providers/custom_cyber-inference.json"]
    assert own["headers"] == {"Authorization": "Bearer sk-$key"}
    assert own["models"][0] == {"name": "Qwen3-30B", "context_limit": 65536}
    assert goose[".config/goose/config.yaml"]["active_provider"] == own["name"]
    crush = written("crush", tmp_path)[".config/crush/crush.json"]
    assert crush["models"]["small"] == {"provider": "cyber-inference", "model": "qwen-small"}
    llm = written("llm", tmp_path, WITH_KEY)
    entry = llm[".config/io.datasette.llm/extra-openai-models.yaml"][0]
    keys = llm[".config/io.datasette.llm/keys.json"]
    assert keys[entry["api_key_name"]] == "sk-$key"


@pytest.mark.parametrize("name", PRINTED)
def test_printed_values_name_address_and_model(name: str) -> None:
    printed = CLIENTS[name].printed
    assert printed is not None
    text = printed(WITH_KEY)
    assert "http://box:8337" in text
    assert "Qwen3-30B" in text
    assert "sk-$key" in text


def test_the_library_of_ollama_gets_a_key_if_there_is_one() -> None:
    printed = CLIENTS["env"].printed
    assert printed is not None
    assert "export OLLAMA_API_KEY='sk-$key'\n" in printed(WITH_KEY)
    assert "OLLAMA_API_KEY" not in printed(CONNECTION)


@pytest.mark.parametrize("name", FILED)
def test_a_second_time_changes_nothing(name: str, tmp_path: Path) -> None:
    for file in CLIENTS[name].files(CONNECTION, Home(tmp_path, {}, "linux")):
        text = file.after("")
        assert file.after(text) == text
        assert file.differences(text) == []
        assert file.differences("") != []


@pytest.mark.parametrize("name", FILED)
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    for file in CLIENTS[name].files(CONNECTION, Home(tmp_path, {}, "linux")):
        with pytest.raises(ConflictError, match="cannot be changed"):
            file.after("{ [")


def test_folders_of_variables_and_other_systems() -> None:
    home = Home(
        Path("/home/me"),
        {"CLAUDE_CONFIG_DIR": "/c", "CODEX_HOME": "/x", "XDG_CONFIG_HOME": "/xdg"},
        "linux",
    )
    paths = [file.path for name in FILED for file in CLIENTS[name].files(CONNECTION, home)]
    assert {Path("/c/settings.json"), Path("/x/config.toml")} < set(paths)
    assert Path("/xdg/zed/settings.json") in paths
    mac = Home(Path("/Users/me"), {}, "darwin")
    (file,) = CLIENTS["vscode"].files(CONNECTION, mac)
    assert file.path.parts[3:5] == ("Library", "Application Support")

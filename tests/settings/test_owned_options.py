from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.edit import set_value
from cyber_inference_tui.settings.load import check_value, load_text

OWNED = [
    *("--port", "--reuse-port", "--host", "--api-key", "--api-key-file", "--api-prefix"),
    *("--ssl-key-file", "--ssl-cert-file", "--models-dir", "--models-preset", "--models-max"),
    *("--models-autoload", "--no-models-autoload", "-h", "--help", "--usage", "--version"),
    *("-cl", "--cache-list", "--list-devices", "--completion-bash"),
    # llama-server takes these as well.
    *("--api_key", "--ssl_cert-file", "--models_max"),
    # It takes none of these; they mean the same.
    *("--port=1", "--port 1", "--api-key sk-hidden", "--host ::"),
]
TAKEN = [
    *("-c", "512", "--alias", "--model", "--no-mmap", "--metrics", "--path", "--rpc", "--timeout"),
    *("--models", "--portable", "--hostile", "-hf", "-hft", "-host", "port", "8080", "0.0.0.0", ""),
    *("{{ --port }}", "--chat-template", "a --port 1", "---port", "--HOST"),
]
FILE = Path("/etc/program/config.toml")


def mistake(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(text, FILE, environ=environ, flags={})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("word", OWNED)
def test_what_the_service_owns_is_refused_wherever_arguments_stand(word: str) -> None:
    option = word.partition("=")[0].split()[0]
    text = f'port = 1\nllama_args = [\n  "-c", "1",\n  {word!r},\n]\n'
    message = mistake(text)
    assert message.startswith(f"{FILE}:4: llama_args: item 3: {option} is refused: ")
    assert "sk-hidden" not in message
    own = mistake(f'[models."a/b"]\n\nargs = [{word!r}]\n')
    assert own.startswith(f'{FILE}:3: models."a/b".args: item 1: {option} is refused: ')
    variable = mistake("", CYBER_INFERENCE_LLAMA_ARGS=f"-c,1,{word}")
    assert variable.startswith(f"CYBER_INFERENCE_LLAMA_ARGS: item 3: {option} is refused: ")
    with pytest.raises(ConfigError, match=f"^llama_args: item 1: {option} is refused: "):
        check_value("llama_args", [word])


@pytest.mark.parametrize("word", TAKEN)
def test_everything_else_is_llama_servers_business(word: str) -> None:
    words = [word]
    text = f"llama_args = {words}\n[models.m]\nargs = {words}\n"
    settings = load_text(text, FILE, environ={}, flags={}).settings
    assert settings.llama_args == settings.models["m"].args == (word,)


@pytest.mark.parametrize(
    "name",
    [
        *("LLAMA_ARG_PORT", "LLAMA_ARG_REUSE_PORT", "LLAMA_ARG_HOST", "LLAMA_API_KEY"),
        *("LLAMA_ARG_API_KEY", "LLAMA_ARG_API_KEY_FILE", "LLAMA_ARG_API_PREFIX"),
        *("LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE", "LLAMA_ARG_MODELS_DIR"),
        *("LLAMA_ARG_MODELS_MAX", "LLAMA_ARG_MODELS_AUTOLOAD", "LLAMA_ARG_NO_MODELS_AUTOLOAD"),
    ],
)
def test_its_variables_are_refused_in_the_environment_of_a_model(name: str, tmp_path: Path) -> None:
    message = mistake(f'[models.m]\nargs = []\nenv.A = "1"\nenv.{name} = "sk-hidden"\n')
    assert message.startswith(f'{FILE}:4: models."m".env: {name} is refused: ')
    assert "sk-hidden" not in message
    config = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match=f"env: {name} is refused: "):
        set_value(config, "models.m.env", {name: "sk-hidden"})
    assert not config.exists()


def test_other_variables_and_those_of_another_program_are_taken() -> None:
    names = ("LLAMA_ARG_THREADS", "LLAMA_ARG_POOLING", "LLAMA_CACHE", "PORT", "HOST", "API_KEY")
    variables = ", ".join(f'{name} = "1"' for name in names)
    text = f"[models.m]\nenv = {{ {variables} }}\n"
    assert tuple(load_text(text, FILE, environ={}, flags={}).settings.models["m"].env) == names
    other = '[models.m]\ncommand = ["server", "--port", "{port}", "--host={host}"]\n'
    other += 'env = { LLAMA_ARG_MODELS_MAX = "2", LLAMA_API_KEY = "k" }\n'
    settings = load_text(other, FILE, environ={}, flags={}).settings
    assert settings.models["m"].command[1] == "--port"
    assert len(settings.models["m"].env) == 2


def test_every_refused_item_is_reported_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        text = (
            'llama_args = ["--port", "1",\n "-c", "1",\n "--host", "h"]\nallowed_hosts = [1, ""]\n'
        )
        load_text(text, FILE, environ={}, flags={})
    lines = [one.partition(" is ")[0] for one in str(caught.value).splitlines()]
    assert lines[:2] == [
        f"{FILE}:1: llama_args: item 1: --port",
        f"{FILE}:3: llama_args: item 5: --host",
    ]
    assert lines[2].startswith(f"{FILE}:4: allowed_hosts: ")


def test_a_reason_names_the_way_out() -> None:
    assert mistake('llama_args = ["--port", "1"]').endswith(
        "--port is refused: the service gives each model's server its own port; port sets the "
        "service's, and llama_server_base_port the first of the servers'"
    )


def test_options_in_the_services_own_environment_are_a_warning() -> None:
    environ = {"LLAMA_ARG_THREADS": "4", "LLAMA_ARG_PORT": "secret", "LLAMA_CACHE": "/c"}
    loaded = load_text("", FILE, environ=environ, flags={})
    assert loaded.warnings == (
        "LLAMA_ARG_PORT, LLAMA_ARG_THREADS: not passed on to the models' servers; "
        "use llama_args, or a model's args and env",
    )

"""The configuration file as a whole: secrets stay, mistakes are all told, nothing is lost."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import ConfigError, ConflictError
from cyber_inference_tui.settings.document import (
    masked,
    read_document,
    unmasked,
    write_document,
)
from cyber_inference_tui.settings.schema import Settings

SECRETS = ("sk-one", "sk-two", "hunter2", "hf_abc", "tok-env", "old-tok", "inner")
TEXT = """\
# Mine.
host = "127.0.0.1" # here
api_keys = [
  "sk-one", # laptop
  'sk-two',
]
admin_password = "hunter2"
# hf_token = "old-tok"
hf_token = 'hf_abc'

[models."a/b.c".env]
TOKEN = "tok-env"
EMPTY = ""

[models.z]
env = { X = "inner" }
args = ["--lora", "x"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def write(path: Path, text: str, digest: str | None = None, **more: Any) -> None:
    known = read_document(path).digest if digest is None else digest
    check = more.get("check", lambda settings: None)
    environ = more.get("environ", {})
    write_document(path, text, known, environ=environ, flags={}, check=check)


def test_no_secret_is_shown_and_the_rest_is(config: Path) -> None:
    text = read_document(config).text
    assert not [secret for secret in SECRETS if secret in text]
    assert text.count("********") == len(SECRETS)
    for kept in ("# Mine.", 'host = "127.0.0.1" # here', "# laptop", 'EMPTY = ""', '"--lora"'):
        assert kept in text


def test_masks_that_come_back_keep_what_they_hide(config: Path) -> None:
    write(config, read_document(config).text)
    assert config.read_text() == TEXT
    text = (
        read_document(config).text.replace("# Mine.", "# Ours.").replace("[models.z]", "[models.y]")
    )
    write(config, text)
    assert config.read_text() == TEXT.replace("Mine", "Ours").replace("models.z", "models.y")
    assert stat.S_IMODE(config.stat().st_mode) == 0o640


def test_a_removed_secret_does_not_shift_the_others(config: Path) -> None:
    text = read_document(config).text
    (first,) = [line for line in text.splitlines() if "# laptop" in line]
    write(config, text.replace(first + "\n", ""))
    assert "sk-one" not in config.read_text()
    assert "'sk-two'" in config.read_text()


def test_a_mask_cannot_be_moved_to_where_it_would_be_shown(config: Path) -> None:
    text = read_document(config).text
    with pytest.raises(ConfigError) as caught:
        write(config, text + '\n[models.new]\naliases = ["********1"]\n')
    line = text.count("\n") + 3
    assert f'{config}:{line}: models."new".aliases: this mask' in caught.value.message
    for made_up in ("********99", "********"):
        with pytest.raises(ConfigError, match="hf_token: this mask stands for no value"):
            write(config, f'hf_token = "{made_up}"\n')
    assert config.read_text() == TEXT


def test_every_mistake_is_told_with_its_line_and_nothing_is_written(config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write(config, 'port = "x"\nhosst = "a"\n[models.a]\ncontext_size = -1\n')
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{config}:1", "port"],
        [f"{config}:2", "hosst"],
        [f"{config}:4", 'models."a".context_size'],
    ]
    with pytest.raises(ConfigError, match=f"{config}:2"):
        write(config, "port = 1\nport = = 2\n")
    assert config.read_text() == TEXT


def test_a_file_that_changed_meanwhile_is_left_alone(config: Path) -> None:
    digest = read_document(config).digest
    config.write_text("port = 1\n")
    with pytest.raises(ConflictError, match="has changed"):
        write(config, "port = 2\n", digest)
    assert config.read_text() == "port = 1\n"


def test_no_file_is_an_empty_text(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    document = read_document(path)
    assert document.text == ""
    write(path, "port = 1\n", document.digest)
    assert path.read_text() == "port = 1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_broken_file_is_not_shown(config: Path) -> None:
    config.write_text('port = = 1\nhf_token = "hf_abc"\n')
    with pytest.raises(ConfigError) as caught:
        read_document(config)
    assert f"{config}:1" in caught.value.message
    assert "hf_abc" not in caught.value.message
    # A wrong value is no reason to hide the text in which it can be corrected.
    config.write_text('port = "x"\n')
    assert read_document(config).text == 'port = "x"\n'


names = st.sampled_from(["api_keys", "hf_token", "theme", "x"])
values = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)


@given(st.lists(st.tuples(names, values, st.sampled_from(["", "# ", " # t"])), max_size=6))
def test_masking_and_back_gives_the_same_text(rows: list[tuple[str, str, str]]) -> None:
    quoted = [
        (f"{name}.k{n}", value.replace("'", ""), how) for n, (name, value, how) in enumerate(rows)
    ]
    text = "".join(
        f"{how if how == '# ' else ''}{name} = '{value}'{how if how != '# ' else ''}\n"
        for name, value, how in quoted
        if not value.startswith("********")
    )
    back, mistakes = unmasked(masked(text), text, Path("c"))
    assert (back, mistakes) == (text, [])


def test_what_the_check_refuses_is_not_written(config: Path) -> None:
    def check(settings: Settings) -> None:
        assert settings.port == 1234
        raise ConfigError("not here")

    with pytest.raises(ConfigError, match="not here"):
        write(config, "port = 1234\n", check=check)
    assert config.read_text() == TEXT


ARGUMENTS = """\
llama_args = ["--a-token", "sk-one", '-hft=hf-one', "-c", "5"]
# llama_args = ["--hf-token", "hf-old"]
#env = { A_TOKEN = "t-one", GGML_X = "1", "B_SECRET" = "t-two" }

[models.m]
args = [
  "--a-token=sk-\\u0074wo", # mine
  '--hf-token', 'hf-two',
]
command = ["serve", "--tok\\u0065n=hf-three"]
"""
HIDDEN = ("sk-one", "hf-one", "hf-old", "t-one", "t-two", "sk-", "hf-two", "hf-three")


def test_secrets_among_arguments_are_hidden_and_kept(config: Path) -> None:
    config.write_text(ARGUMENTS)
    text = read_document(config).text
    assert not [secret for secret in HIDDEN if secret in text]
    for kept in ('"--a-token", ', "'-hft=********", '"-c", "5"', 'GGML_X = "1"', "# mine"):
        assert kept in text
    write(config, text)
    assert tomllib.loads(config.read_text()) == tomllib.loads(ARGUMENTS)
    assert config.read_text().splitlines()[:3] == ARGUMENTS.splitlines()[:3]
    # In another notation, and for another model.
    number = text.split("'-hft=********")[1][0]
    write(config, f'[models.n]\nargs = ["-hft", "********{number}"]\n')
    assert tomllib.loads(config.read_text())["models"]["n"]["args"] == ["-hft", "hf-one"]


@pytest.mark.parametrize("words", ['"--lora", "********1"', '"--lora=********1"', '"********1"'])
def test_a_mask_among_arguments_stands_only_where_a_secret_does(config: Path, words: str) -> None:
    config.write_text(ARGUMENTS)
    with pytest.raises(ConfigError, match=r"config.toml:1: llama_args: this mask stands for no"):
        write(config, f"llama_args = [{words}]\n")
    assert config.read_text() == ARGUMENTS

from __future__ import annotations

import math
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import ConfigError, NotFoundError
from cyber_inference_tui.settings.edit import set_value
from cyber_inference_tui.settings.load import (
    LoadedSettings,
    SettingSource,
    check_value,
    config_path,
    load,
    load_if_there,
    load_text,
)
from cyber_inference_tui.settings.schema import KEYS, MASK, MODEL_KEYS, TABLES, Settings

FILE = Path("/etc/program/config.toml")
HOME = {"HOME": "/home/me"}


def read(text: str, environ: Mapping[str, str] = HOME, **flags: Any) -> LoadedSettings:
    return load_text(text, FILE, environ=environ, flags=flags)


def mistakes(text: str, environ: Mapping[str, str] = HOME, **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, environ, **flags)
    assert caught.value.exit_code == 5
    return [line.removeprefix(f"{FILE}:") for line in str(caught.value).splitlines()]


# Sources


def test_a_later_source_wins_and_is_named() -> None:
    loaded = read(
        "port = 1\nlog_level = 'error'\nmax_queue = 3",
        {**HOME, "CYBER_INFERENCE_PORT": "2", "CYBER_INFERENCE_LOG_LEVEL": "debug"},
        port=4,
    )
    assert (loaded.settings.port, loaded.settings.log_level) == (4, "debug")
    assert loaded.sources["port"] is SettingSource.FLAG
    assert loaded.sources["log_level"] is SettingSource.ENV
    assert loaded.sources["max_queue"] is SettingSource.FILE
    assert loaded.sources["host"] is SettingSource.DEFAULT
    assert set(loaded.sources) == set(KEYS)


def test_the_defaults_are_the_contract() -> None:
    settings = read("").settings
    expected = {
        "host": "127.0.0.1",
        "port": 8337,
        "log_level": "info",
        "default_context_size": 8192,
        "max_context_size": 32768,
        "model_idle_timeout": 300,
        "max_loaded_models": 0,
        "max_memory_percent": 80,
        "max_gpu_memory_percent": 90,
        "llama_server_path": "",
        "llama_server_base_port": 8338,
        "llama_gpu_layers": -1,
        "llama_threads": 0,
        "llama_parallel": 0,
        "load_timeout": 300,
        "stop_timeout": 10,
        "shutdown_timeout": 30,
        "max_queue": 128,
        "queue_timeout": 600,
        "max_body_size": 67108864,
        "admin_password": "",
        "insecure_no_auth": False,
        "system_root": Path("/"),
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    empty = {"model_dirs", "llama_args", "api_keys", "allowed_hosts", "cors_origins"}
    assert {getattr(settings, name) for name in empty} == {()}
    assert set(KEYS) | set(TABLES) == set(Settings.__struct_fields__)


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have other folders")
def test_folders_are_those_of_the_environment_that_is_given() -> None:
    folder = "cyber-inference-tui"
    xdg = {"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d"}
    assert config_path(None, xdg) == Path("/c", folder, "config.toml")
    assert read("", xdg).settings.data_dir == Path("/d", folder)
    assert config_path(None, {**xdg, "CYBER_INFERENCE_CONFIG": "~/x"}) == Path("/h/x")
    assert config_path(Path("y"), {**xdg, "CYBER_INFERENCE_CONFIG": "~/x"}) == Path.cwd() / "y"


def test_models_follow_the_data_folder() -> None:
    assert read("data_dir = '/d'").settings.models_dir == Path("/d/models")
    assert read("data_dir = '/d'\nmodels_dir = '/m'").settings.models_dir == Path("/m")
    settings = read("", {**HOME, "XDG_DATA_HOME": "/x"}).settings
    assert settings.models_dir == settings.data_dir / "models"
    records = {one.key: one for one in read("data_dir = '/d'\nmodels_dir = '/m'").records()}
    assert (records["models_dir"].value, records["models_dir"].default) == ("/m", "/d/models")


def test_paths_count_from_where_they_are_written() -> None:
    text = """
    models_dir = "models"
    model_dirs = ["~/a", "../b", "/c"]
    llama_server_path = "bin/llama-server"
    [models.x]
    path = "x.gguf"
    mmproj = "~/p.gguf"
    """
    settings = read(text).settings
    assert settings.models_dir == FILE.parent / "models"
    assert settings.model_dirs == (Path("/home/me/a"), FILE.parent / "../b", Path("/c"))
    assert settings.llama_server_path == str(FILE.parent / "bin/llama-server")
    assert settings.models["x"].path == FILE.parent / "x.gguf"
    assert settings.models["x"].mmproj == Path("/home/me/p.gguf")

    settings = read("", {**HOME, "CYBER_INFERENCE_MODEL_DIRS": "a,~/b"}, data_dir="d").settings
    assert settings.model_dirs == (Path.cwd() / "a", Path("/home/me/b"))
    assert settings.data_dir == Path.cwd() / "d"
    args = read("llama_args = ['--x', '~/y', 'a~/b', '~']\n[models.m]\ncommand = ['~/z']").settings
    assert args.llama_args == ("--x", "/home/me/y", "a~/b", "~")
    assert args.models["m"].command == ("/home/me/z",)
    # A bare name is looked for on PATH.
    assert read("llama_server_path = 'llama-server'").settings.llama_server_path == "llama-server"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("api_keys", "a, b,", ("a", "b")),
        ("api_keys", '["a", "b,c"]', ("a", "b,c")),
        ("api_keys", "['a']", ("a",)),
        ("llama_args", '["--a", "b\\/c"]', ("--a", "b/c")),
        ("extra_ports", "11434, 8080,", (11434, 8080)),
        ("extra_ports", "[11434]", (11434,)),
        ("insecure_no_auth", "Yes", True),
        ("insecure_no_auth", "0", False),
        ("port", " 80 ", 80),
        ("load_timeout", "1.5", 1.5),
        ("load_timeout", "60", 60.0),
        ("host", "true", "true"),
        ("admin_password", "[12, 3]", "[12, 3]"),
    ],
)
def test_variables_are_text_for_any_type(key: str, text: str, value: object) -> None:
    loaded = read("", {**HOME, f"CYBER_INFERENCE_{key.upper()}": text})
    assert getattr(loaded.settings, key) == value
    assert type(getattr(loaded.settings, key)) is type(value)
    assert check_value(key, text) == value


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ("0", "0"),
        ("65536", "65536"),
        ("-1", "-1"),
        ("true", "true"),
        ("'80'", '"80"'),
        ("8.5", "8.5"),
    ],
)
def test_a_port_in_a_list_is_checked(item: str, found: str) -> None:
    said = f"item 2: expected a port from 1 to 65535, found {found}"
    assert mistakes(f"extra_ports = [80, {item}]", HOME)[0].endswith(said)


@pytest.mark.parametrize("text", ["80 81", "9" * 5000, "x", "²"])
def test_a_variable_with_ports_is_checked(text: str) -> None:
    (said,) = mistakes("", {**HOME, "CYBER_INFERENCE_EXTRA_PORTS": text})
    assert "item 1: expected a port from 1 to 65535" in said


@pytest.mark.parametrize("blank", ["", " ", "\t\r\n", '""', "''", '" "'])
def test_a_variable_that_is_set_to_nothing_is_not_set(blank: str) -> None:
    text = """
    api_keys = ["k"]
    admin_password = "p"
    hf_token = "t"
    max_queue = 3
    """
    blanks = {f"CYBER_INFERENCE_{name.upper()}": blank for name in KEYS}
    loaded = read(text, {**HOME, **blanks, "CYBER_INFERENCE_NO_SETTING": blank})
    plain = read(text)
    assert loaded.settings == plain.settings
    assert loaded.sources == plain.sources
    named = {**HOME, "CYBER_INFERENCE_CONFIG": blank, "XDG_CONFIG_HOME": blank}
    assert config_path(None, named) == config_path(None, HOME)


@pytest.mark.parametrize("blank", [",", " , ,", '"",""', '","'])
def test_a_list_of_variables_that_are_all_empty_is_not_set(blank: str) -> None:
    settings = read("api_keys = ['k']", {**HOME, "CYBER_INFERENCE_API_KEYS": blank}).settings
    assert settings.api_keys == ("k",)


def test_an_empty_array_empties_a_list() -> None:
    environ = {**HOME, "CYBER_INFERENCE_MODEL_DIRS": "[]"}
    assert read("model_dirs = ['/a']", environ).settings.model_dirs == ()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("port", '"9000"', 9000),
        ("port", " '9000' ", 9000),
        ("insecure_no_auth", '"yes"', True),
        ("log_level", "'DEBUG'", "debug"),
        ("data_dir", '"/d"', Path("/d")),
        ("api_keys", '"abc"', ("abc",)),
        ("api_keys", '"a,b"', ("a", "b")),
        ("api_keys", '"a","b"', ("a", "b")),
        ("api_keys", ',"",a', ("a",)),
        ("api_keys", """'["a", "b,c"]'""", ("a", "b,c")),
        ("api_keys", '"["a"]"', ("a",)),
        ("admin_password", """ '"p"' """, '"p"'),
        ("admin_password", 'p"', 'p"'),
        ("admin_password", '"', '"'),
        ("admin_password", " p ", " p "),
        ("llama_args", "'--a,\"b\"'", ("--a", "b")),
        ("host", "0.0.0.0\r", "0.0.0.0"),
        ("data_dir", '"/d"\r', Path("/d")),
    ],
)
def test_quotes_around_a_variable_are_no_part_of_it(key: str, text: str, value: object) -> None:
    loaded = read("", {**HOME, f"CYBER_INFERENCE_{key.upper()}": text})
    assert getattr(loaded.settings, key) == value


def test_removed_quotes_are_reported_without_the_value() -> None:
    environ = {**HOME, "CYBER_INFERENCE_API_KEYS": '"sk-1"', "CYBER_INFERENCE_PORT": "1"}
    environ |= {"CYBER_INFERENCE_CONFIG": "'/x'", "HF_TOKEN": '"hf_x"', "OTHER": '"y"'}
    assert read("", environ).warnings == (
        "CYBER_INFERENCE_API_KEYS: the quotes around its value were removed",
        "CYBER_INFERENCE_CONFIG: the quotes around its value were removed",
        "HF_TOKEN: the quotes around its value were removed",
    )
    assert config_path(None, environ) == Path("/x")


def test_a_level_that_is_spelt_otherwise_gets_the_nearest() -> None:
    said = "expected a string (debug, info, warning, error), found"
    assert mistakes("", {**HOME, "CYBER_INFERENCE_LOG_LEVEL": "WARN"}) == [
        f'CYBER_INFERENCE_LOG_LEVEL: {said} "WARN"; did you mean warning?'
    ]
    assert mistakes("log_level = 'trace'") == [f'1: log_level: {said} "trace"']


def test_an_unknown_variable_is_a_warning() -> None:
    loaded = read("", {**HOME, "CYBER_INFERENCE_PROT": "1", "CYBER_INFERENCE_CONFIG": "/x"})
    assert loaded.warnings == (
        "CYBER_INFERENCE_PROT: unknown setting; did you mean CYBER_INFERENCE_PORT?",
    )


def test_tokens_of_the_hub_are_not_settings() -> None:
    assert read("", {**HOME, "HF_TOKEN": "hf_x"}).settings.hf_token == ""


# A machine without a home


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "rel"}])
def test_what_is_given_needs_no_home(environ: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.touch()
    flags = {"data_dir": "/d"}
    settings = load(config=config, environ=environ, flags=flags).settings
    assert (settings.data_dir, settings.models_dir) == (Path("/d"), Path("/d/models"))
    given = {**environ, "CYBER_INFERENCE_CONFIG": str(config), "CYBER_INFERENCE_DATA_DIR": "/d"}
    assert load(config=None, environ=given, flags={}).settings.data_dir == Path("/d")
    xdg = {**environ, "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": "/x"}
    assert load(config=None, environ=xdg, flags={}).settings.data_dir.parent == Path("/x")
    # A file that is looked at alone, before it is written, needs none either.
    set_value(config, "port", 1)
    assert config.read_text() == "port = 1\n"


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "rel"}])
def test_without_a_home_one_sentence_says_what_to_give(
    environ: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.touch()
    said = "There is no home directory. Give --config and --data-dir, or set HOME."
    for flags, path in (({}, config), ({"data_dir": "/d"}, None)):
        with pytest.raises(ConfigError) as caught:
            load(config=path, environ=environ, flags=flags)
        assert str(caught.value) == said
    with pytest.raises(ConfigError, match="data-dir: expected a path, but there is no home"):
        load(config=config, environ=environ, flags={"data_dir": "~/d"})


def test_a_relative_home_is_none() -> None:
    assert read("", {"HOME": "rel"}).settings.data_dir == read("", {}).settings.data_dir


# Files


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_file_is_said_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            listener.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(ConfigError) as caught:
            load(config=path, environ=HOME, flags={})
    assert str(caught.value) == f"{path}: cannot be read: it is a {kind}, not a file."


def test_no_settings_at_all_may_be_asked_for() -> None:
    assert load(config=Path("/dev/null"), environ=HOME, flags={}).settings.port == 8337


def test_only_a_named_file_has_to_exist(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "config.toml"
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    assert load(config=None, environ=environ, flags={}).settings.port == 8337
    assert load_if_there(missing, environ=environ, flags={}).settings.port == 8337
    for config, extra, init in (
        (missing, {}, f"init --config {missing}"),
        (None, {"CYBER_INFERENCE_CONFIG": str(missing)}, "init"),
    ):
        with pytest.raises(ConfigError, match="there is no such file") as caught:
            load(config=config, environ={**environ, **extra}, flags={})
        assert f"`cyber-inference-tui {init}`" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"port = 1\nhost = '\xff'", ":2: is not UTF-8"),
        (b"#" * (1 << 20) + b"#", "larger than 1048576 bytes"),
    ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path: Path, data: bytes, said: str) -> None:
    config = tmp_path / "c.toml"
    config.write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        load(config=config, environ=HOME, flags={})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(config=tmp_path, environ=HOME, flags={})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_bytes(b"\xef\xbb\xbfport = 1\r\n")
    assert load(config=config, environ=HOME, flags={}).settings.port == 1


# Mistakes


def test_all_mistakes_come_at_once_each_with_its_place() -> None:
    text = """# settings
prot = 1
port = 70_000
api_keys = [
  "good",  # with a comment ]
  7,
]
[models."a # b"]
context_size = "4k"
ctx_size = 1
port = 2
[models.plain.env]
A = 1
[zzz.table]
x = 1
"""
    environ = {
        **HOME,
        "CYBER_INFERENCE_MAX_QUEUE": "many",
        "CYBER_INFERENCE_DEFAULT_CONTEXT_SIZE": "auto",
    }
    assert mistakes(text, environ, log_level="loud") == [
        "2: prot: unknown setting; did you mean port?",
        "3: port: expected a whole number of at least 0 and at most 65535, found 70000",
        "6: api_keys: expected a list of strings, but item 2 is a number, not a string",
        '9: models."a # b".context_size: expected a whole number of at least 0 and at most'
        ' 2147483647, or "auto", found "4k"',
        '10: models."a # b".ctx_size: unknown setting; did you mean context_size?',
        '11: models."a # b".port: unknown setting; it is a setting of the whole service',
        '12: models."plain".env: A: expected a string in quotes',
        "14: zzz: unknown setting",
        "CYBER_INFERENCE_DEFAULT_CONTEXT_SIZE: expected a whole number of at least 0 and at most"
        ' 2147483647, found "auto"; it belongs into a model\'s own table, as context_size',
        "CYBER_INFERENCE_MAX_QUEUE: expected a whole number of at least 0 and at most 2147483647,"
        ' found "many"',
        '--log-level: expected a string (debug, info, warning, error), found "loud"',
    ]


def test_broken_toml_has_its_line_and_does_not_hide_the_rest() -> None:
    first, second = mistakes("port = 1\nhost = \n", {**HOME, "CYBER_INFERENCE_PORT": "x"})
    assert first.startswith("2: ")
    assert second.startswith("CYBER_INFERENCE_PORT: ")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_lines_are_counted_in_any_editor(ends: str) -> None:
    text = ends.join(["# one", "", '[models."x"]', 'path = """', "", '"""', "threads = -1", ""])
    assert [one.split(": ")[:2] for one in mistakes(text)] == [["7", 'models."x".threads']]


@pytest.mark.parametrize(
    "line",
    [
        "port = true",
        "port = 80.0",
        "port = '80'",
        "port = " + "1" * 40,
        "insecure_no_auth = 1",
        "load_timeout = nan",
        "load_timeout = inf",
        "load_timeout = 1e300",
        "load_timeout = true",
        "host = ['a']",
        "host = 1",
        "host = 'a b'",
        "data_dir = ''",
        "data_dir = '~nobody-of-this-name/x'",
        'data_dir = "a\\u0000"',
        "model_dirs = 'a'",
        "model_dirs = ['']",
        "api_keys = ['']",
        "api_keys = ['a b']",
        'llama_args = ["a\\u0000"]',
        "hf_endpoint = 'huggingface.co'",
        "cors_origins = ['example.org']",
        "trusted_proxies = ['proxy.example.org']",
        "trusted_proxies = ['10.0.0.0/99']",
        "log_level = 2020-01-01",
        "models = 1",
        "models = [1]",
        "models.x = 1",
        "models.x.aliases = ['']",
        'models.x.aliases = ["a\\n"]',
        "models.x.env = {'A=B' = '1'}",
        "models.x.env = {'' = '1'}",
        'models.x.env = {A = "a\\u0000"}',
        "models.x.request_defaults = {a = [2020-01-01]}",
        "models.x.request_defaults = {a = {b = nan}}",
        "models.x.request_defaults = {a = 99999999999999999999}",
        "models.x.request_defaults = 'a'",
        "models.x.idle_timeout = -1",
        "models.'' = {}",
        'models."a\\tb" = {}',
        "x = " + "9" * 5000,
    ],
)
def test_what_does_not_fit_is_refused_on_its_line(line: str) -> None:
    (mistake,) = mistakes(f"\n{line}")
    assert mistake.startswith("2: ")


def test_endless_nesting_is_a_sentence() -> None:
    assert "nested too deeply" in mistakes("x = " + "[" * 20_000)[0]
    assert mistakes("", {**HOME, "CYBER_INFERENCE_API_KEYS": "[" * 20_000})


@pytest.mark.parametrize(
    "line",
    [
        "api_keys = 'hunter2'",
        "api_keys = ['hun ter2', 'hunter2']",
        "admin_password = ['hunter2']",
        "hf_token = 'my hunter2'",
        "models.x.env = {TOKEN = ['hunter2']}",
    ],
)
def test_no_message_repeats_a_secret(line: str) -> None:
    assert all("ter2" not in one for one in mistakes(line))


def test_a_name_from_the_file_cannot_write_to_the_terminal() -> None:
    (mistake,) = mistakes('"a\\u001b[31mb\\nc" = 1')
    assert mistake == "1: abc: unknown setting"


def test_no_name_means_two_models() -> None:
    text = """
[models.a]
aliases = ["x", "b", "a"]
[models.b]
aliases = [
  "y",
  "x",
]
"""
    assert mistakes(text) == [
        '3: models."a".aliases: "b" names the model "b" already',
        '7: models."b".aliases: "x" names the model "a" already',
    ]


@given(st.text())
def test_any_text_is_settings_or_mistakes(text: str) -> None:
    try:
        read(text)
    except ConfigError as error:
        assert str(error)


# One value


def test_checking_a_value() -> None:
    assert check_value("port", 80) == 80
    with pytest.raises(NotFoundError, match="did you mean port"):
        check_value("prot", 1)
    unfits: list[object] = [None, True, 1.5, [], {}, "x", math.inf]
    for unfit in unfits:
        with pytest.raises(ConfigError, match="port: expected a whole number"):
            check_value("port", unfit)


# Shown


def test_records_name_sources_and_mask_secrets() -> None:
    loaded = read(
        'api_keys = ["sk-1"]\n[models.\'a"b\']\nenv = {TOKEN = "t"}\npath = "/p"',
        {**HOME, "CYBER_INFERENCE_HF_TOKEN": "hf_x"},
    )
    records = {record.key: record for record in loaded.records()}
    assert set(KEYS) <= set(records)
    assert (records["api_keys"].value, records["api_keys"].source) == (MASK, "file")
    assert (records["hf_token"].value, records["hf_token"].source) == (MASK, "env")
    assert records["admin_password"].value == ""
    assert records["system_root"].value == "/"
    assert records['models."a\\"b".env'].value == {"TOKEN": MASK}
    assert records['models."a\\"b".path'].value == "/p"
    assert not records["port"].live
    revealed = loaded.record(KEYS["api_keys"], reveal=True)
    assert revealed.value == ["sk-1"]
    unset = loaded.record(MODEL_KEYS["threads"], ("models", "unknown"))
    assert (unset.value, unset.source) == (None, "default")


def test_reading_settings_does_not_load_the_editor() -> None:
    program = (
        "import sys, cyber_inference_tui.settings.load, cyber_inference_tui.settings.edit;"
        "print(sorted({'tomlkit', 'aiohttp', 'httpx', 'asyncio'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_names_of_levels_may_be_in_any_case() -> None:
    environ = {**HOME, "CYBER_INFERENCE_LOG_LEVEL": "WARNING"}
    assert read("log_level = 'Debug'").settings.log_level == "debug"
    assert read("", environ).settings.log_level == "warning"


def test_wrong_texts_are_reported_on_one_harmless_line() -> None:
    with pytest.raises(ConfigError, match=r'^theme: expected a name, found "ab"\.$'):
        check_value("theme", "\x1b[31ma\nb")
    with pytest.raises(ConfigError, match="host: expected a string that is not empty, found"):
        check_value("host", "")


def test_a_key_that_is_there_twice_is_named() -> None:
    assert mistakes("port = 1\n\nport = 2 # again\n") == ["3: port: is set a second time"]
    twice = "[models.a]\nenv.X = '1'\n  env . 'X' = '2'\n"
    assert mistakes(twice) == ["3: env . 'X': is set a second time"]

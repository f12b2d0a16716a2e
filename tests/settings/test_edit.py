from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyber_inference_tui.errors import (
    ConfigError,
    ConfigWriteError,
    ConflictError,
    NotFoundError,
)
from cyber_inference_tui.settings import edit
from cyber_inference_tui.settings.edit import (
    set_value,
    set_values,
    split_key,
    unset_value,
    write_default,
)
from cyber_inference_tui.settings.example import render, toml_key
from cyber_inference_tui.settings.load import MAX_FILE, load
from cyber_inference_tui.settings.password_hash import matches
from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS
from tests.waiting import LIMIT

OWN = """\
# My settings.
host = "127.0.0.1"   # only me
#port = 8337
api_keys = [
  "sk-1", # laptop
  "sk-2",
]

[models."b/Name-Q4_K_M"] # the big one
aliases = ["big"]

# the small one
[models.small]
path = "small.gguf"
[models.small.env]
A = "1"
"""


def written(path: Path, text: str, key: str, value: Any) -> str:
    path.write_bytes(text.encode())
    set_value(path, key, value)
    return path.read_bytes().decode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("key", "value", "gone", "new"),
    [
        ("host", "::1", 'host = "127.0.0.1"   # only me', 'host = "::1"   # only me'),
        ("port", "9000", None, "port = 9000"),
        ("max_queue", 3, None, "max_queue = 3"),
        ("insecure_no_auth", "yes", None, "insecure_no_auth = true"),
        ("models_dir", "~/m", None, 'models_dir = "~/m"'),
        ("load_timeout", 2.5, None, "load_timeout = 2.5"),
        ("load_timeout", 60.0, None, "load_timeout = 60"),
        ("allowed_hosts", "a,b", None, 'allowed_hosts = ["a", "b"]'),
        ('models."b/Name-Q4_K_M".threads', 4, None, "threads = 4"),
        ("models.small.path", "s.gguf", 'path = "small.gguf"', 'path = "s.gguf"'),
        ("models.small.request_defaults", {"a": [1]}, None, "request_defaults = { a = [1] }"),
    ],
)
def test_one_value_changes_and_every_other_line_stays(
    config: Path, key: str, value: Any, gone: str | None, new: str
) -> None:
    text = written(config, OWN, key, value)
    before, after = OWN.split("\n"), text.split("\n")
    kept = [line for line in before if line != gone]
    assert [line for line in after if line != new and line.strip()] == [
        line for line in kept if line.strip()
    ]
    assert new in after
    load(config=config, environ={}, flags={})


def test_a_new_value_stands_under_its_commented_default(config: Path) -> None:
    write_default(config)
    for key, value in (("port", 1), ("api_keys", "k"), ("theme", "dark")):
        set_value(config, key, value)
    lines = config.read_text("utf-8").split("\n")
    assert lines[lines.index("#port = 8337") + 1] == "port = 1"
    assert lines[lines.index("#api_keys = []") + 1] == 'api_keys = ["k"]'
    assert [line for line in lines if line and not line.startswith("#")] == [
        "port = 1",
        'api_keys = ["k"]',
        'theme = "dark"',
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "port"),
        ("# only a comment", "port"),
        ('admin_password = """\n#port = 1\n"""', "port"),
        ('llama_args = [\n["x"],\n]'.replace('["x"],', '"[x]",'), "port"),
        ("host = 'a'\r\n[models.x]\r\n", "port"),
        ("# \u2028 #port = \x85\n[models.x]", "port"),
        ("models = {x = {threads = 1}}", "models.y.threads"),
        ("models = {x = {threads = 1}}", "models.x.parallel"),
        ("models.x.threads = 1", "models.x.parallel"),
        ("models.x.threads = 1", "models.y.parallel"),
        ("[models]\nx.threads = 1", "models.y.parallel"),
        ("[models.a]\n[models.b]\n[models.a.env]\n", "models.a.threads"),
        ("[models.a.env]\nX = '1'", "models.a.threads"),
        ("[models.a]", "models.a.presets.long.threads"),
        ("[models.a.presets.long]\n[models.b]", "models.a.presets.long.threads"),
        ("[models.a]\npresets.long.parallel = 1", "models.a.presets.long.threads"),
        ("[models.a]\npresets.long = { parallel = 1 }\n", "models.a.presets.long.threads"),
        ("[models.a]\npresets.long = { parallel = 1 }\n", "models.a.presets.other.threads"),
        ("models = {x = {threads = 1}}", "models.x.presets.long.threads"),
        ("port = 1", "models.a.presets.'1.5'.threads"),
        ("[models.a]", "models.'b \"c\" [d] #'.threads"),
    ],
)
def test_whatever_the_file_looks_like(config: Path, text: str, key: str) -> None:
    after = tomllib.loads(written(config, text, key, 7))
    path, known = split_key(key)
    table = after
    for name in path:
        table = table[name]
    assert table.pop(known.name) == 7
    assert _filled(after) == _filled(tomllib.loads(text))


def _filled(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table without the empty tables in it."""
    inner = {name: _filled(one) if isinstance(one, dict) else one for name, one in table.items()}
    return {name: one for name, one in inner.items() if one != {}}


def test_line_ends_of_windows_stay(config: Path) -> None:
    text = written(config, "# a\r\nport = 1\r\n", "host", "h")
    assert text == '# a\r\nport = 1\r\nhost = "h"\r\n'


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("prot", 1, NotFoundError),
        ("models.x.prot", 1, NotFoundError),
        ("models.x", 1, NotFoundError),
        ("models.x.env.A", "1", NotFoundError),
        ("port = 1 #", 1, NotFoundError),
        ("port\nhost", 1, NotFoundError),
        ("", 1, NotFoundError),
        ("port", "many", ConfigError),
        ("port", None, ConfigError),
        ("admin_password", "\udcff", ConfigError),
        ('models."b/Name-Q4_K_M".aliases', ["small"], ConfigError),
        ('models."".threads', 1, ConfigError),
        ('models."a\\nb".threads', 1, ConfigError),
    ],
)
def test_what_is_refused_changes_nothing(
    config: Path, key: str, value: Any, error: type[Exception]
) -> None:
    config.write_text(OWN)
    before = config.stat()
    with pytest.raises(error):
        set_value(config, key, value)
    assert config.read_text() == OWN
    assert config.stat().st_ino == before.st_ino
    assert list(config.parent.iterdir()) == [config]


def test_a_broken_file_is_not_touched(config: Path) -> None:
    config.write_text("port = 1\nprot = 2\n")
    with pytest.raises(ConfigError, match=":2: prot"):
        set_value(config, "host", "h")
    assert config.read_text() == "port = 1\nprot = 2\n"


def test_a_mistake_in_the_file_can_be_mended(config: Path) -> None:
    config.write_text('port = "many"\n# mine\n')
    set_value(config, "port", 8080)
    assert config.read_text() == "port = 8080\n# mine\n"
    config.write_text('port = "many"\nhost = "h"\n')
    unset_value(config, "port")
    assert config.read_text() == 'host = "h"\n'


def test_a_text_that_is_no_toml_is_not_touched(config: Path) -> None:
    config.write_text("port = \n")
    with pytest.raises(ConfigError, match=":1:"):
        set_value(config, "port", 8080)
    assert config.read_text() == "port = \n"


def test_the_nearest_key_is_named() -> None:
    with pytest.raises(NotFoundError, match="did you mean context_size"):
        split_key("models.x.context_sise")


def test_a_new_file_is_its_owners_only_and_an_old_mode_stays(config: Path) -> None:
    set_value(config, "port", 1)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    config.chmod(0o644)
    set_value(config, "port", 2)
    assert stat.S_IMODE(config.stat().st_mode) == 0o644
    assert list(config.parent.iterdir()) == [config]


def test_a_symbolic_link_stays_one(config: Path) -> None:
    real = config.parent / "dotfiles" / "real.toml"
    config.symlink_to(real)
    set_value(config, "port", 1)
    set_value(config, "host", "h")
    assert config.is_symlink()
    assert tomllib.loads(real.read_text()) == {"port": 1, "host": "h"}
    assert list(real.parent.iterdir()) == [real]


def test_a_failed_write_leaves_the_old_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 1\n")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        set_value(config, "port", 2)
    assert config.read_text() == "port = 1\n"
    assert list(config.parent.iterdir()) == [config]


def test_a_file_that_cannot_be_replaced_is_written_in_place(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a file that a container mounts alone: rename(2) fails with EBUSY."""
    config.write_text("port = 1\n# a comment\n" + "#" * 100 + "\n")
    inode = config.stat().st_ino

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    set_value(config, "port", 22)
    unset_value(config, "port")
    set_value(config, "host", "h")
    assert tomllib.loads(config.read_text()) == {"host": "h"}
    assert "# a comment\n" in config.read_text()
    assert config.stat().st_ino == inode
    assert list(config.parent.iterdir()) == [config]


def test_in_place_a_full_disk_brings_the_old_text_back(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("port = 1\n")
    failures = iter([OSError(errno.EBUSY, "busy"), OSError(errno.ENOSPC, "No space left")])
    syncs = os.fsync

    def sync(file: int) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        syncs(file)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(ConfigWriteError, match="cannot be written: No space left"):
        set_value(config, "port", 2)
    assert config.read_text() == "port = 1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_that_is_a_mount_of_its_own_can_be_changed(config: Path) -> None:
    config.write_text("port = 1\n")
    elsewhere = config.with_name("host.toml")
    elsewhere.write_text("port = 1\n")
    change = (
        "from pathlib import Path\n"
        "from cyber_inference_tui.settings.edit import set_value\n"
        f"set_value(Path({str(config)!r}), 'port', 2)\n"
    )
    script = f'mount --bind "{elsewhere}" "{config}" || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, change],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode in {1, 77} and "set_value" not in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")
    assert elsewhere.read_text() == "port = 2\n"


def test_two_at_once_lose_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy disk may take seconds for each.
    monkeypatch.setattr(edit, "_LOCK_TIMEOUT", LIMIT)
    names = [f"m{number}" for number in range(12)]
    start = threading.Barrier(len(names))

    def change(name: str) -> None:
        start.wait(LIMIT)
        set_value(config, f"models.{name}.threads", 1)

    threads = [threading.Thread(target=change, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert set(tomllib.loads(config.read_text())["models"]) == set(names)


def test_a_lock_that_is_never_given_back_is_a_sentence(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "_LOCK_TIMEOUT", 0.05)
    holder = os.open(config.parent, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(ConflictError, match="has been changing"):
        set_value(config, "port", 1)
    os.close(holder)
    set_value(config, "port", 1)


def test_the_commented_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "config.toml"
    assert write_default(path)
    assert path.read_text("utf-8") == render()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("mine")
    assert not write_default(path)
    assert path.read_text() == "mine"


# Any value that is valid comes back equal, whatever the file is.

plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        plain_text,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(plain_text, inner, max_size=3)
    ),
    max_leaves=6,
)
# Hypothesis also tries texts of our code, such as options that the service gives itself.
arguments = plain_text.filter(lambda text: not text.startswith("-"))
seconds = st.floats(0, 31_536_000)
tokens = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
ids = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
CHANGES = st.one_of(
    st.tuples(st.just("port"), st.integers(0, 65535)),
    st.tuples(st.just("max_queue"), st.integers(0, 2**31 - 1)),
    st.tuples(st.just("insecure_no_auth"), st.booleans()),
    st.tuples(st.just("queue_timeout"), seconds),
    st.tuples(st.just("admin_password"), plain_text),
    st.tuples(st.just("api_keys"), st.lists(tokens, max_size=4)),
    st.tuples(st.just("llama_args"), st.lists(arguments, max_size=4)),
    st.tuples(
        ids.map(lambda one: f"models.{toml_key(one)}.idle_timeout"),
        seconds,
    ),
    st.tuples(
        st.tuples(ids, st.from_regex(r"[a-z0-9._-]{1,6}", fullmatch=True)).map(
            lambda names: f"models.{toml_key(names[0])}.presets.{toml_key(names[1])}.parallel"
        ),
        st.integers(0, 256),
    ),
    st.tuples(
        st.sampled_from(["models.small", 'models."b/Name-Q4_K_M"', "models.new"]).map(
            lambda table: f"{table}.request_defaults"
        ),
        st.dictionaries(plain_text, json_values, max_size=3),
    ),
    st.tuples(
        st.sampled_from(["models.small.env", "models.new.env"]),
        st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), plain_text, max_size=3),
    ),
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.sampled_from([OWN, OWN.replace("\n", "\r\n"), render(), ""]), CHANGES)
def test_what_is_set_is_read_back(tmp_path: Path, text: str, change: tuple[str, Any]) -> None:
    key, value = change
    config = tmp_path / "config.toml"
    after = written(config, text, key, value)
    table, known = split_key(key)
    got = load(config=config, environ={}, flags={}).value(known, table)
    if key == "admin_password" and value:
        assert matches(value, got)
    else:
        assert (list(got) if isinstance(got, tuple) else got) == value
    comments = [line for line in text.splitlines() if line.strip().startswith("#")]
    kept = iter(after.splitlines())
    assert all(comment in kept for comment in comments), "a comment is gone or moved"
    assert set(KEYS) | set(MODEL_KEYS) >= {known.name}


def test_a_file_that_could_not_be_read_again_is_not_written(config: Path) -> None:
    config.write_text(OWN)
    with pytest.raises(ConfigError, match="would be larger than"):
        set_value(config, "models.small.request_defaults", {"x": "y" * MAX_FILE})
    assert config.read_text() == OWN


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("host", 'host = "127.0.0.1"   # only me\n'),
        ('models."b/Name-Q4_K_M".aliases', 'aliases = ["big"]\n'),
        ("models.small.path", 'path = "small.gguf"\n'),
    ],
)
def test_a_key_is_taken_out_and_nothing_else(config: Path, key: str, gone: str) -> None:
    config.write_text(OWN)
    unset_value(config, key)
    assert config.read_text() == OWN.replace(gone, "", 1)


def test_a_key_of_several_lines_is_taken_out(config: Path) -> None:
    config.write_text(OWN)
    unset_value(config, "api_keys")
    unset_value(config, "models.small.env")
    left = config.read_text()
    assert tomllib.loads(left) == {
        "host": "127.0.0.1",
        "models": {"b/Name-Q4_K_M": {"aliases": ["big"]}, "small": {"path": "small.gguf"}},
    }
    assert "# the small one" in left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('models."a.b/c \\"d\\"".threads = 2\nport = 1\n', "port = 1\n"),
        (
            'models = { "a.b/c \\"d\\"" = { threads = 2, parallel = 3 } }\n',
            'models = { "a.b/c \\"d\\"" = { parallel = 3 } }\n',
        ),
    ],
)
def test_odd_ids_and_other_notations(config: Path, text: str, left: str) -> None:
    config.write_text(text)
    unset_value(config, 'models."a.b/c \\"d\\"".threads')
    assert tomllib.loads(config.read_text()) == tomllib.loads(left)


def test_what_is_not_there_is_taken_out_without_a_trace(config: Path) -> None:
    unset_value(config, "port")
    assert not config.exists()
    config.write_text(OWN)
    before = config.stat().st_mtime_ns
    unset_value(config, "port")
    unset_value(config, "models.new.path")
    assert (config.read_text(), config.stat().st_mtime_ns) == (OWN, before)
    with pytest.raises(NotFoundError):
        unset_value(config, "prot")
    config.write_text("port = x\n")
    with pytest.raises(ConfigError):
        unset_value(config, "port")


MARK = "Tuned on "


def test_several_keys_are_set_with_a_comment_that_replaces_the_former_one(config: Path) -> None:
    config.write_text(OWN)
    set_values(config, {"models.small.threads": 2}, comment="Tuned on Monday", mark=MARK)
    values = {"models.small.threads": 4, "models.small.args": ["--no-mmap"]}
    set_values(config, values, comment="Tuned on Tuesday", mark=MARK)
    text = config.read_text()
    table = tomllib.loads(text)["models"]["small"]
    assert (table["threads"], table["args"]) == (4, ["--no-mmap"])
    assert "# Tuned on Tuesday\nthreads = 4\n" in text
    assert "Monday" not in text

    taken_back = dict.fromkeys(values)
    set_values(config, taken_back, comment="", mark=MARK)
    # tomlkit may leave a blank line.
    assert config.read_text().split() == OWN.split()


@pytest.mark.parametrize(
    "text",
    [
        'models = { small = { path = "small.gguf" } }\n',
        'models.small.path = "small.gguf"\n',
        '[models]\nsmall.path = "small.gguf"\r\n',
        '[models.small]\npath = """\n# Tuned on Sunday"""\nthreads = 2\n',
        '[models.small]\n  path = "small.gguf"\n  args = [\n    "-ub", "128",\n  ]\n',
    ],
)
def test_a_comment_never_changes_what_the_file_says(config: Path, text: str) -> None:
    config.write_text(text)
    values = {"models.small.args": ["-ub", "256"], "models.small.threads": 4}
    set_values(config, values, comment="Tuned on Monday", mark=MARK)
    wanted = tomllib.loads(text)
    wanted["models"]["small"] |= {"args": ["-ub", "256"], "threads": 4}
    assert tomllib.loads(config.read_text()) == wanted
    assert "# Tuned on Monday" in config.read_text()


def test_a_mistake_in_one_of_several_keys_changes_nothing(config: Path) -> None:
    config.write_text(OWN)
    with pytest.raises(ConfigError):
        set_values(
            config,
            {"models.small.threads": 4, "models.small.parallel": -3},
            comment="Tuned on Monday",
            mark=MARK,
        )
    assert config.read_text() == OWN

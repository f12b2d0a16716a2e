from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui import __version__, errors
from cyber_inference_tui.cli import app_command, main, serve_command
from cyber_inference_tui.cli.options import LOG_LEVELS, GlobalOptions
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.llama.log_files import file_stem
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ClientRecord,
    LogEvent,
    LogLine,
    ModelRecord,
    ModelStatus,
    PhaseName,
    PhaseRecord,
    PortRecord,
    ProblemRecord,
    RequestPhase,
    RequestRecord,
    RequestWhy,
)
from cyber_inference_tui.service.runtime import (
    DataDirectoryLock,
    RuntimeRecord,
    write_runtime_file,
)
from cyber_inference_tui.settings.schema import Settings
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn

LOADED = ModelRecord(
    id="sub/Tiny-Q4_K_M",
    aliases=("tiny",),
    size_bytes=4_500_000_000,
    quantization="Q4_K_M",
    context_length=131072,
    status=ModelStatus.LOADED,
    port=8338,
    in_flight=2,
    memory_bytes=5_000_000_000,
    last_used_at=datetime.now(UTC) - timedelta(days=3),
)
BROKEN = ModelRecord(id="broken", status=ModelStatus.FAILED, error="Its file ends too early.")


@pytest.fixture
def at(stand_in: StandIn) -> list[str]:
    """Options for the stand-in's address."""
    stand_in.models = {LOADED.id: LOADED, BROKEN.id: BROKEN, "other": ModelRecord(id="other")}
    return ["--port", str(stand_in.port)]


@pytest.fixture
def nowhere() -> list[str]:
    """Options for a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ["--port", str(probe.getsockname()[1])]


def test_list_models_in_a_pipe_is_a_plain_table(call: CommandLine, at: list[str]) -> None:
    outcome = call("list-models", *at)
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.splitlines() == [
        "ID               STATE     QUANT       SIZE  CONTEXT    MEMORY  ORIGIN      LAST USED"
        "  PROBLEM",
        "sub/Tiny-Q4_K_M  loaded    Q4_K_M  4.19 GiB     128K  4.66 GiB  models_dir    3 d ago",
        "broken           failed    -              -        -         -  models_dir          -"
        "  Its file ends too early.",
        "other            unloaded  -              -        -         -  models_dir          -",
    ]


def unusable(stand_in: StandIn) -> None:
    stand_in.answers["GET", "/admin/problems"] = [
        ProblemRecord(where="/m/lora\x1b[31m.gguf", reason="it is an adapter")
    ]


def test_list_models_shows_unusable_files_below(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    unusable(stand_in)
    lines = call("list-models", *at).out.splitlines()
    assert lines[4:] == ["", "CANNOT BE USED", "/m/lora.gguf", "  it is an adapter"]
    stand_in.models.clear()
    assert call("list-models", *at).out.splitlines() == lines[5:]


def test_list_models_says_when_there_are_none(
    call: CommandLine, at: list[str], nowhere: list[str], stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.models.clear()
    folder = tmp_path / "data" / "models"
    for place in (at, nowhere):
        outcome = call("list-models", *place)
        assert (outcome.code, outcome.out) == (0, "")
        assert outcome.err.startswith(f"There are no models in {folder} yet: ")
        assert "download-model" in outcome.err
        assert outcome.err.count("\n") == 1
        outcome = call("list-models", "--json", *place)
        assert (outcome.out, outcome.err) == ("[]\n", "")


def test_list_models_as_json_holds_models_only(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    unusable(stand_in)
    outcome = call("list-models", "--json", *at)
    assert [record["id"] for record in json.loads(outcome.out)] == [LOADED.id, "broken", "other"]
    assert outcome.err == "/m/lora.gguf: it is an adapter\n"


def test_list_models_without_a_service_shows_them_too(
    call: CommandLine, nowhere: list[str], tmp_path: Path
) -> None:
    (tmp_path / "half.gguf.part").touch()
    outcome = call("list-models", *nowhere, "--models-dir", str(tmp_path))
    assert outcome.out.splitlines() == [
        "CANNOT BE USED",
        str(tmp_path / "half.gguf.part"),
        "  it is an unfinished download",
    ]


def test_list_models_as_json_is_the_records(call: CommandLine, at: list[str]) -> None:
    records = json.loads(call("list-models", "--json", *at).out)
    assert [record["id"] for record in records] == [LOADED.id, "broken", "other"]
    assert records[0]["size_bytes"] == 4_500_000_000
    assert set(records[0]) == set(ModelRecord.__struct_fields__)


def test_status_shows_the_service_and_its_busy_models(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    outcome = call("status", *at)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[:4] == [
        f"service       {stand_in.url}, version 9.9.9, pid 4242, up 2 h 5 min",
        "llama-server  b9999, /opt/llama-server",
        "models        1 loaded",
        "requests      3 in flight, 1 waiting",
    ]
    assert lines[6].split()[:4] == ["sub/Tiny-Q4_K_M", "loaded", "2", "0"]
    assert lines[6].endswith(" ago")
    assert "other" not in outcome.out


def test_status_shows_open_ports_and_their_clients(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.extra_ports = (PortRecord(port=11434), PortRecord(port=8080, problem="in use by x"))
    stand_in.clients = [
        ClientRecord(
            user_agent=user_agent,
            key_name=None,
            client="127.0.0.1",
            port=port,
            requests=1,
            last_used_at=datetime.now(UTC),
        )
        for user_agent, port in (("curl/8.5.0", stand_in.port), ("ollama/0.9 (x)", 11434))
    ]
    lines = call("status", *at).out.splitlines()
    own = f"port {stand_in.port}"
    assert lines[4:7] == [
        f"{own:<14}open, used by curl",
        "port 11434    open, used by ollama",
        "port 8080     not open: in use by x",
    ]
    facts = json.loads(call("status", "--json", *at).out)
    assert facts["extra_ports"][1] == {"port": 8080, "problem": "in use by x"}
    assert facts["clients"][1]["user_agent"] == "ollama/0.9 (x)"


def test_requests_show_their_clients(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    when = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    record = RequestRecord(
        at=when,
        id=41,
        model="tiny",
        path="/v1/chat/completions",
        status=200,
        tokens_out=12,
        duration_seconds=1.5,
        client="127.0.0.1",
        user_agent="claude-cli/2.0.1 (external)",
        key_name="2",
        port=11434,
    )
    refused = RequestRecord(at=when, model="", path="/v1", status=404, duration_seconds=0.0)
    running = ActiveRequestRecord(
        number=3, at=when, model="tiny", path="/v1/x", phase=RequestPhase.WAITING, port=8337
    )
    stand_in.answers["GET", "/admin/requests?limit=20"] = [record, refused]
    stand_in.answers["GET", "/admin/requests/active"] = [running]
    outcome = call("requests", *at)
    assert outcome.code == 0
    header, active, first, second = outcome.out.splitlines()
    assert header.split()[:2] == ["NUMBER", "TIME"]
    assert "waiting" in active
    assert first.split()[0] == "41"
    assert "claude-cli (key 2)" in first
    assert "12" in first.split()
    assert second.split()[3] == "-"
    assert json.loads(call("requests", "--running", "--json", *at).out)[0]["number"] == 3
    rows = json.loads(call("requests", "--json", *at).out)
    assert set(rows[0]) == set(RequestRecord.__struct_fields__)
    assert (rows[0]["user_agent"], rows[0]["key_name"]) == (record.user_agent, "2")
    assert "ENERGY" not in header
    metered = msgspec.structs.replace(record, energy_j=87.43)
    stand_in.answers["GET", "/admin/requests?limit=20"] = [metered, refused]
    header, _, first, second = call("requests", *at).out.splitlines()
    assert header.split()[-3:] == ["ENERGY", "CLIENT", "PORT"]
    assert "1.50 s  87.4 J  claude-cli" in first
    assert second.split()[-3:] == ["s", "-", "-"]
    stand_in.answers["GET", "/admin/requests?limit=5&model=x&failed=1"] = []
    empty = call("requests", "-n", "5", "--model", "x", "--failed", *at)
    assert (empty.code, empty.out) == (0, "")
    assert "no such requests" in empty.err
    assert call("requests", "-n", "0", *at).code == 2


def test_a_slow_request_is_explained(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    record = RequestRecord(
        id=41,
        at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        model="tiny",
        path="/v1/chat/completions",
        status=200,
        duration_seconds=31.4,
    )
    why = RequestWhy(
        request=record,
        phases=(
            PhaseRecord(name=PhaseName.LOAD, seconds=4.1, usual_seconds=0.0),
            PhaseRecord(
                name=PhaseName.PROMPT,
                seconds=24.9,
                tokens=28104,
                tokens_cached=0,
                tokens_per_second=1128.0,
            ),
            PhaseRecord(name=PhaseName.WRITING, seconds=2.4),
        ),
        usual_seconds=10.0,
        compared=9,
        cause="a cold prompt",
        explanation=("It is so.", "Do that."),
    )
    stand_in.answers["GET", "/admin/requests/41/why"] = why
    lines = call("requests", "--why", "41", *at).out.splitlines()
    assert lines[0].endswith("3.1 times its usual time: a cold prompt")
    load, prompt, writing = lines[2:5]
    assert "28,104 new tokens, 0 cached, 1,128.0/s" in prompt
    # The bars follow each other, and their lengths are the parts of the time.
    bars = [line[21:61] for line in (load, prompt, writing)]
    assert [len(bar.strip()) for bar in bars] == [5, 32, 3]
    assert [len(bar) - len(bar.lstrip()) for bar in bars] == [0, 5, 37]
    assert lines[-2:] == ["It is so.", "Do that."]
    assert json.loads(call("requests", "--why", "41", "--json", *at).out)["compared"] == 9


def test_status_shows_that_the_gpus_are_unknown(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.devices_problem = "it did not end within 10 s."
    line = call("status", *at).out.splitlines()[1]
    assert line.endswith("/opt/llama-server; its GPUs are unknown: it did not end within 10 s.")


def test_status_as_json(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    facts = json.loads(call("status", "--json", *at).out)
    assert facts["url"] == stand_in.url
    assert facts["llama_server"] == {
        "path": "/opt/llama-server",
        "version": "b9999",
        "build": None,
        "problem": None,
        "devices_problem": None,
    }
    assert [model["id"] for model in facts["models"]] == [LOADED.id, "broken"]


@pytest.mark.parametrize(
    "command", [["status"], ["load", "x"], ["unload", "x"], ["logs", "x", "-f"]]
)
def test_without_a_service_the_exit_code_is_3(
    call: CommandLine, nowhere: list[str], command: list[str]
) -> None:
    outcome = call(*nowhere, *command)
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err == (
        f"No service answers at http://127.0.0.1:{nowhere[1]} (connection refused). "
        "Start one with 'cyber-inference-tui serve'.\n"
    )


def test_a_service_of_this_directory_on_another_port_is_pointed_out(
    call: CommandLine, nowhere: list[str], environ: dict[str, str], stand_in: StandIn
) -> None:
    data_dir = Path(environ["CYBER_INFERENCE_DATA_DIR"])
    data_dir.mkdir()
    (data_dir / "service.json").write_text(
        json.dumps(
            {"pid": 1, "url": stand_in.url, "version": "1", "started_at": "2024-01-01T00:00:00Z"}
        )
    )
    outcome = call("status", *nowhere)
    assert outcome.code == 3
    assert f"listened at {stand_in.url}" in outcome.err
    # With port 0 the kernel chose the port, and only that file has it.
    assert call("status", "--port", "0").code == 0


def test_port_0_without_a_service_is_3(call: CommandLine) -> None:
    outcome = call("status", "--port", "0")
    assert outcome.code == 3
    assert "No service runs in" in outcome.err


def test_load_and_unload(call: CommandLine, at: list[str]) -> None:
    assert call("load", "other", *at).out == "other is loaded on port 8338.\n"
    assert call("unload", "other", *at).out == "other is unloaded.\n"
    record = json.loads(call("load", "sub/Tiny-Q4_K_M", "--json", *at).out)
    assert record["status"] == "loaded"


HOSTILE = "a\x1b]0;x\x07\x9b31m\u202eb"
"""A name that sets a terminal's title, its colours and the direction of text."""


@pytest.mark.parametrize("command", ["load a", "unload a", "list-models", "status"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_names_from_a_service_do_nothing_to_the_terminal(
    call: CommandLine, at: list[str], stand_in: StandIn, command: str, more: list[str]
) -> None:
    path = f"/m/{HOSTILE}.gguf"
    record = ModelRecord(id=HOSTILE, path=path, status=ModelStatus.LOADED)
    stand_in.models = {"a": record}
    outcome = call(*command.split(), *more, *at)
    assert outcome.code == 0
    assert not set(outcome.out + outcome.err) & set(HOSTILE) - set("ab]0;x31m")
    if more:
        # Nothing is lost in JSON.
        assert repr(HOSTILE) in str(json.loads(outcome.out))


def test_an_unknown_model_is_4(call: CommandLine, at: list[str]) -> None:
    for command in ("load", "unload", "logs"):
        outcome = call(command, "nope", *at)
        assert (outcome.code, outcome.out) == (4, "")
        assert outcome.err == "There is no model nope.\n"


def test_a_name_with_a_line_break_is_shown_on_one_line(call: CommandLine, at: list[str]) -> None:
    outcome = call("--config", "/no\nwhere", "status")
    assert outcome.err.startswith("/no\\nwhere: there is no such file.")
    assert (outcome.code, outcome.err.count("\n")) == (5, 1)
    outcome = call("config", "get", "a\nb")
    assert outcome.err.startswith("There is no setting 'a\\nb'.")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)


def test_a_failed_load_shows_the_reason_and_the_end_of_its_log(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.load_error = errors.ModelLoadError(
        "The server of other ended (exit code 1).",
        log_tail=("error: unknown argument: --foo", "usage"),
    )
    outcome = call("load", "other", *at)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "The server of other ended (exit code 1).\n  error: unknown argument: --foo\n  usage\n"
    )


def test_a_load_without_llama_server_is_6(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.load_error = errors.NoLlamaServerError("No llama-server.")
    stand_in.llama_path = None
    assert call("load", "other", *at).code == 6


def test_the_password_of_the_settings_is_used_if_needed(
    call: CommandLine, at: list[str], stand_in: StandIn, config: Path
) -> None:
    stand_in.password = "sesame"
    config.write_text('api_keys = ["sk-one"]\n')
    outcome = call("status", *at)
    assert outcome.code == 1
    assert outcome.err == (
        f"The service at {stand_in.url} needs its admin password. Give it as "
        "CYBER_INFERENCE_ADMIN_PASSWORD.\n"
    )
    assert not [path for _, path, _, _ in stand_in.requests if path == "/admin/login"]
    config.write_text('admin_password = "another"\n')
    outcome = call("status", *at)
    assert (outcome.code, "a different admin password" in outcome.err) == (1, True)
    config.write_text('admin_password = "sesame"\n')
    assert call("status", *at).code == 0
    # A hash is none.
    assert call("config", "set", "admin_password", "sesame").code == 0
    outcome = call("status", *at)
    assert (outcome.code, "needs its admin password" in outcome.err) == (1, True)


def test_the_password_is_not_sent_to_a_service_that_wants_none(
    call: CommandLine, at: list[str], stand_in: StandIn, config: Path
) -> None:
    config.write_text('admin_password = "sesame"\n')
    assert call("status", *at).code == 0
    assert not any("Authorization" in headers for _, _, headers, _ in stand_in.requests)
    assert all(path != "/admin/login" for _, path, _, _ in stand_in.requests)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "192.0.2.7", "[::]"])
def test_the_token_goes_only_to_its_own_service(
    call: CommandLine, at: list[str], stand_in: StandIn, tmp_path: Path, host: str
) -> None:
    same = host in {"0.0.0.0", "127.0.0.1"}
    stand_in.password = "sesame"
    stand_in.tokens = ["of-the-process"]
    (tmp_path / "data").mkdir()
    record = RuntimeRecord(
        pid=1,
        url=f"http://{host}:{stand_in.port}",
        version="1",
        started_at=datetime.now(UTC),
        token="of-the-process",
    )
    write_runtime_file(tmp_path / "data", record)
    outcome = call("status", *at)
    assert outcome.code == (0 if same else 1), outcome.err
    sent = [headers.get("Authorization") for _, _, headers, _ in stand_in.requests]
    assert ("Bearer of-the-process" in sent) == same


def test_logs_shows_the_last_lines(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    stand_in.logs["service"] = "".join(f"line {n}\n" for n in range(150))
    assert call("logs", "service", *at).out.count("\n") == 100
    assert call("logs", "service", "-n", "2", *at).out == "line 148\nline 149\n"
    assert call("logs", "service", "-n", "0", *at).out == ""
    stand_in.logs["service"] = "\x1b[31mred\x1b[0m\n"
    assert call("logs", "service", *at).out == "red\n"


def test_logs_as_json_is_one_object_a_line(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.logs[LOADED.id] = "a\nb\n"
    lines = call("logs", "TINY", "--json", *at).out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": LOADED.id, "at": None, "text": "a"},
        {"id": LOADED.id, "at": None, "text": "b"},
    ]


def test_following_a_log_loses_and_repeats_nothing(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    def line(text: str) -> LogLine:
        return LogLine(at=datetime(2024, 1, 1, tzinfo=UTC), text=text)

    # The tail holds the lines published before; the rest arrives as events, over two connections.
    stand_in.logs[LOADED.id] = "old\n"
    stand_in.publish("log", LogEvent(id=LOADED.id, lines=(line("old"),)))

    def publish_news() -> None:
        stand_in.publish("log", LogEvent(id=LOADED.id, lines=(line("new 1"), line("new 2"))))
        stand_in.publish("log", LogEvent(id="another", lines=(line("not this"),)))
        stand_in.publish("gap", {"missed": 3, "topic": "log"})
        stand_in.publish("log", {"from": "a later version"})
        stand_in.publish("log", LogEvent(id=LOADED.id, lines=(line("new 3"),)))

    stand_in.on_log = publish_news
    stand_in.drop_after = 2
    stand_in.end_with = (404, "not_found", "Enough.")
    stand_in.end_after = 2
    outcome = call("logs", "tiny", "-f", *at)
    assert outcome.out == "old\nnew 1\nnew 2\nnew 3\n"
    assert outcome.err.splitlines() == [
        "The connection to the service was lost; trying again.",
        "Some lines are missing here: the service no longer has them.",
        "The connection to the service was lost; trying again.",
        "Enough.",
    ]
    assert outcome.code == 4


@pytest.fixture
def log_folder(environ: dict[str, str]) -> Path:
    folder = Path(environ["CYBER_INFERENCE_DATA_DIR"]) / "logs"
    folder.mkdir(parents=True)
    return folder


def log_text(*texts: str) -> str:
    return "".join(f"2024-01-01T00:00:00.000000Z {text}\n" for text in texts)


def test_logs_without_a_service_come_from_the_files(
    call: CommandLine, nowhere: list[str], log_folder: Path
) -> None:
    (log_folder / "service.000000000.log").write_text(log_text("one", "two"))
    (log_folder / "service.000000002.log").write_text(log_text("three", "four\x1b[31m"))
    outcome = call("logs", "service", *nowhere)
    assert (outcome.code, outcome.out) == (0, "one\ntwo\nthree\nfour\n")
    assert outcome.err == (
        f"No service answers at http://127.0.0.1:{nowhere[1]} (connection refused). "
        f"These lines are from {log_folder / 'service.000000002.log'}.\n"
    )
    assert call("logs", "service", "-n", "3", *nowhere).out == "two\nthree\nfour\n"
    followed = call("logs", "service", "-n", "1", "-f", *nowhere)
    assert (followed.code, followed.out) == (0, "four\n")
    assert "there is nothing to follow" in followed.err
    [line] = call("logs", "service", "-n", "1", "--json", *nowhere).out.splitlines()
    assert json.loads(line) == {"id": "service", "at": "2024-01-01T00:00:00Z", "text": "four"}
    # Another machine's log is not on this disk.
    away = call("logs", "service", "--host", "192.0.2.1.invalid", *nowhere)
    assert (away.code, away.out) == (3, "")


def test_a_log_without_a_service_that_has_no_lines_is_there_all_the_same(
    call: CommandLine, nowhere: list[str], log_folder: Path
) -> None:
    (log_folder / "empty.000000000.log").touch()
    (log_folder / "service.000000000.log").write_text(log_text("before"))
    for argv in (["empty"], ["service", "-n", "0"]):
        outcome = call("logs", *argv, *nowhere)
        assert (outcome.code, outcome.out) == (0, "")
        path = log_folder / f"{argv[0]}.000000000.log"
        assert outcome.err.endswith(f"No lines are shown of {path}.\n")
    assert call("logs", "service", *nowhere).out == "before\n"
    assert call("logs", "another", "-n", "0", *nowhere).code == 3


def test_a_models_log_without_a_service(
    call: CommandLine, nowhere: list[str], log_folder: Path, config: Path
) -> None:
    write_demo(log_folder.parent / "models" / "sub" / "Tiny-Q8_0.gguf")
    config.write_text('[models."Tiny-Q8_0"]\naliases = ["tiny"]\n')
    (log_folder / "Tiny-Q8_0.000000000.log").write_text(log_text("it ran"))
    (log_folder / f"{file_stem('org/gone')}.000000000.log").write_text(log_text("it was here"))
    for name in ("Tiny-Q8_0", "tiny-q8_0", "TINY"):
        assert call("logs", name, *nowhere).out == "it ran\n"
    assert call("logs", "org/gone", *nowhere).out == "it was here\n"
    for name in ("another", "service"):
        assert call("logs", name, *nowhere).code == 3


def test_an_empty_log_has_a_note(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    stand_in.logs["other"] = ""
    outcome = call("logs", "other", *at)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "The log of other is empty.\n")
    assert call("logs", "other", "--json", *at).err == ""


# The command line itself


def test_global_options_stand_before_or_after_the_command(
    call: CommandLine, at: list[str], tmp_path: Path
) -> None:
    assert call(*at, "status").code == 0
    assert call("status", *at).code == 0
    assert call("--port", "1", "status", *at).code == 0, "the later one wins"


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["serve", "--port", "9000", "--demo"], "run"),
        (["--demo", "--no-ui", "--port", "9000"], "run"),
        (["--no-ui", "--port=9000", "--demo", "serve"], "run"),
        (["--port", "9000", "--demo"], "app"),
    ],
)
def test_the_ways_to_start_the_service(
    call: CommandLine, monkeypatch: pytest.MonkeyPatch, argv: list[str], what: str
) -> None:
    seen: list[tuple[str, GlobalOptions]] = []

    def note(name: str, options: GlobalOptions) -> int:
        seen.append((name, options))
        return 0

    def run_service(options: GlobalOptions, *, background: bool = False) -> int:
        assert not background
        return note("run", options)

    def open_app(options: GlobalOptions, *, readonly: bool) -> int:
        assert not readonly
        return note("app", options)

    monkeypatch.setattr(serve_command, "run_service", run_service)
    monkeypatch.setattr(app_command, "open_app", open_app)
    assert call(*argv).code == 0
    [(name, options)] = seen
    assert (name, options.demo, options.flags) == (what, True, {"port": 9000})


def test_a_theme_is_saved_here_and_says_if_the_environment_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# mine\nport = 9000\n")
    environ = {"HOME": str(tmp_path)}
    loaded = GlobalOptions(config=path, environ=environ).load()
    save = app_command.app_options(loaded, readonly=True, attached=True).save_theme
    assert save is not None
    save("nord")
    assert path.read_text() == '# mine\nport = 9000\ntheme = "nord"\n'
    environ["CYBER_INFERENCE_THEME"] = "dracula"
    loaded = GlobalOptions(config=path, environ=environ).load()
    save = app_command.app_options(loaded, readonly=False).save_theme
    assert save is not None
    with pytest.raises(errors.ConflictError, match="CYBER_INFERENCE_THEME overrides"):
        save("gruvbox")
    assert "gruvbox" in path.read_text()
    # Without --attach the file is the service's, too.
    assert app_command.app_options(loaded, readonly=True).save_theme is None


def test_the_app_needs_a_terminal(call: CommandLine) -> None:
    for argv in ((), ("--attach", "http://elsewhere:8337")):
        outcome = call(*argv)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert "'cyber-inference-tui serve'" in outcome.err
        assert "'cyber-inference-tui status'" in outcome.err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["lod"], "There is no command 'lod'. Did you mean 'load'? See"),
        (["load"], "Missing argument 'ID'. See 'cyber-inference-tui load --help'."),
        (["status", "--prot", "1"], "There is no option"),
        (["--port", "99999", "status"], "Invalid value for '--port'"),
        (["--no-ui", "status"], "--no-ui goes without a command."),
        (["--attach", "http://x", "--no-ui"], "--attach opens the terminal app"),
        (["--readonly", "status"], "--readonly is for the terminal app"),
        (["logs", "x", "-n", "-1"], "Invalid value for '-n'"),
        # The value of a script's unset variable.
        (["unload", ""], "Invalid value for 'ID': it is empty."),
        (["logs", " "], "Invalid value for 'ID': it is empty."),
        (["--config", "", "status"], "Invalid value for '--config': it is empty."),
        (["--data-dir", "", "status"], "Invalid value for '--data-dir': it is empty."),
        (["status", "--host", ""], "Invalid value for '--host': it is empty."),
        (["download-model", ""], "Invalid value for 'REPO[:QUANT]': it is empty."),
        (["search-models", ""], "Invalid value for 'QUERY': it is empty."),
        (["search-models", " \t"], "Invalid value for 'QUERY': it is empty."),
        (["search-models", "x" * 257], "Invalid value for 'QUERY': it has more than 256 charac"),
        (["load", "x" * 9000], "Invalid value for 'ID': it has more than 2,000 characters."),
        (["connect", ""], "Invalid value for 'CLIENT': it is empty."),
        (["config", "get", ""], "Invalid value for 'KEY': it is empty."),
        (["config", "set", "", "1"], "Invalid value for 'KEY': it is empty."),
        (["--attach", ""], "Invalid value for '--attach': it is empty."),
        (["load", "\udcff"], "Invalid value for 'ID': it is not UTF-8 text."),
        (["status", ""], "An empty argument is too much. See 'cyber-inference-tui status --help'."),
        (["load", "a", "b\nc"], "The argument 'b\\nc' is too much. See"),
        (["logs", "x", "-n", "many"], "Invalid value for '-n' / '--lines': 'many' is not a whole"),
        (["search-models", "x", "--limit", "0"], "Invalid value for '--limit': '0' is not a whole"),
        (["--port"], "The option '--port' needs a value."),
        (["--demo=yes", "status"], "The option '--demo' takes no value."),
        (["--hots", "x"], "There is no option '--hots'. Did you mean '--host'? See"),
        (["config", "shw"], "There is no command 'shw'. Did you mean 'show'? See"),
        (["lo\nad"], "There is no command 'lo\\nad'."),
        (["completion"], "Missing argument 'SHELL'. Choose from: bash, zsh, fish. See"),
        (["--models-dir", "~no-such-user/m", "status"], "Invalid value for '--models-dir': there"),
    ],
)
def test_wrong_usage_gives_exit_code_2(call: CommandLine, argv: list[str], sentence: str) -> None:
    outcome = call(*argv)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(sentence)
    assert outcome.err.count("\n") == 1


def test_a_broken_configuration_is_5(call: CommandLine, config: Path) -> None:
    config.write_text("port = 'many'\n")
    for command in (["status"], ["list-models"], ["serve"]):
        outcome = call(*command)
        assert (outcome.code, outcome.out) == (5, "")
        assert f"{config}:1" in outcome.err


def test_version(call: CommandLine) -> None:
    assert call("--version").out.startswith("cyber-inference-tui ")


def test_help_shows_the_name_it_was_called_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cyber_inference_tui.storage.end_process_within", lambda *_: None)
    names = (("/usr/bin/citui", "citui"), ("/x/__main__.py", "cyber-inference-tui"))
    for called, name in names:
        monkeypatch.setattr(sys, "argv", [called, "load", "--help"])
        with pytest.raises(SystemExit):
            main.main()
        assert capsys.readouterr().out.startswith(f"Usage: {name} load ")
        monkeypatch.setattr(sys, "argv", [called, "--version"])
        with pytest.raises(SystemExit):
            main.main()
        assert capsys.readouterr().out == f"cyber-inference-tui {__version__}\n"


def test_help_is_ordered_by_use(call: CommandLine) -> None:
    lines = call("--help").out.splitlines()
    headings = [line[:-1] for line in lines if line.endswith(":") and line[0] != " "]
    assert headings == [*main.SECTIONS, "Options"]
    rows = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].islower()]
    commands = [name for name in rows if name in main.COMMANDS]
    assert commands == list(main.COMMANDS)
    assert commands[0] == "serve"


def test_no_summary_is_cut_off(call: CommandLine) -> None:
    for words in ([], ["config"], ["service"]):
        text = call(*words, "--help").out.partition("[ARGS]...")[2]
        assert "-h, --help" in text
        assert "..." not in text


@pytest.mark.parametrize("columns", ["30", "50", "80", "200"])
def test_a_group_shows_whole_summaries_at_every_width(
    call: CommandLine, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = " ".join(call("config", "--help").out.split())
    assert "path Print the path of the configuration file." in text
    text = " ".join(call("service", "--help").out.split())
    assert "status Show whether the unit is installed and runs." in text


def test_help_has_no_inner_words(call: CommandLine) -> None:
    for name in main.COMMANDS:
        text = call(name, "--help").out
        assert "RANGE" not in text
        assert "<=x<=" not in text


def test_the_log_levels_are_those_of_the_settings() -> None:
    assert Settings().log_level in LOG_LEVELS


def test_every_error_prints_as_a_sentence_and_its_exit_code(
    call: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: BaseException) -> CommandLine:
        def run_service(options: GlobalOptions) -> int:
            raise error

        monkeypatch.setattr(serve_command, "run_service", run_service)
        return call

    outcome = fails(errors.NoLlamaServerError("No llama-server.", hint="Get one."))("serve")
    assert (outcome.code, outcome.err) == (6, "No llama-server. Get one.\n")
    outcome = fails(PermissionError(13, "Permission denied", "/root/x"))("serve")
    assert (outcome.code, outcome.err) == (1, "/root/x: Permission denied.\n")
    outcome = fails(ValueError("what\x1b[2J"))("serve")
    assert outcome.code == 1
    assert outcome.err.startswith("Something unexpected went wrong (ValueError: what).")
    assert fails(KeyboardInterrupt())("serve").code == main.INTERRUPTED


def test_every_command_in_the_table_exists_and_has_help(call: CommandLine) -> None:
    for name in main.COMMANDS:
        outcome = call(name, "--help")
        assert outcome.code == 0, outcome.err
        assert f"cyber-inference-tui {name}" in outcome.out


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "words",
    [["status"], ["load", "m"], ["unload", "m"], ["logs", "m"], ["logs", "-f", "m"]],
)
def test_a_port_that_never_answers_is_no_service(
    call: CommandLine, silent_port: int, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyber_inference_tui.cli.service_calls.ANSWER_LIMIT", 0.2)
    outcome = call(*words, "--port", str(silent_port))
    assert outcome.code == 3
    assert outcome.err == (
        f"What listens at http://127.0.0.1:{silent_port} does not answer. "
        "Stop that program, or choose another address with --host and --port.\n"
    )


def test_nothing_is_deleted_behind_a_service_that_does_not_answer(
    call: CommandLine, silent_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyber_inference_tui.cli.service_calls.ANSWER_LIMIT", 0.2)
    with DataDirectoryLock(tmp_path / "data"):
        outcome = call("delete-model", "m", "--yes", "--port", str(silent_port))
    assert outcome.code == 1
    assert f"A service runs in {tmp_path / 'data'}" in outcome.err


def test_a_login_error_explains_a_missing_token(
    call: CommandLine, stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.password = "sesame"
    with DataDirectoryLock(tmp_path / "data"):
        outcome = call("status", "--port", str(stand_in.port))
    assert outcome.code == 1
    assert f"Without {tmp_path / 'data' / 'service.json'} commands have no token" in outcome.err
    assert "service.json" not in call("status", "--port", str(stand_in.port)).err

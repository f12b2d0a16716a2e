"""Connected clients, as the doctor judges them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cyber_inference_tui.connect.client import Api, Home
from cyber_inference_tui.connect.clients import CLIENTS
from cyber_inference_tui.connect.connected import ConnectedRecord
from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.doctor.clients import check_client
from cyber_inference_tui.errors import CyberError, ModelNotFoundError

CLIENT = CLIENTS["claude-code"]
RECORD = ConnectedRecord(
    client="claude-code", url="http://x", model="m", at=datetime.now(UTC), files=()
)


def facts(context: int = 65536) -> Connection:
    model = Model("m", context)
    return Connection("http://x", "", model, model, (model,))


def levels(
    home: Path, connect: Callable[[str], Connection], failure: CyberError | None = None
) -> list[tuple[str, str, str]]:
    def ask(api: Api, connection: Connection) -> None:
        assert (api, connection.model.id) == (Api.MESSAGES, "m")
        if failure is not None:
            raise failure

    found = check_client(CLIENT, RECORD, connect, Home(home, {}), ask)
    return [(one.level.value, one.message, one.fix or "") for one in found]


def write(home: Path, connection: Connection) -> None:
    (file,) = CLIENT.files(connection, Home(home, {}))
    file.path.parent.mkdir()
    file.path.write_text(file.after(""))


def test_a_model_that_is_gone_is_an_error_and_nothing_is_sent(tmp_path: Path) -> None:
    def connect(name: str) -> Connection:
        raise ModelNotFoundError(f"There is no {name}.")

    ((level, message, fix),) = levels(tmp_path, connect)
    assert (level, message) == ("error", "Claude Code: There is no m.")
    assert "connect claude-code --model ID" in fix


def test_another_context_since_the_connection_is_named(tmp_path: Path) -> None:
    write(tmp_path, facts())
    assert [level for level, _, _ in levels(tmp_path, lambda _: facts())] == ["ok"]
    warning, hint, answer = levels(tmp_path, lambda _: facts(8192))
    assert warning[0] == "warning"
    assert "env.CLAUDE_CODE_MAX_CONTEXT_TOKENS in" in warning[1]
    assert "connect claude-code --model m` again" in warning[2]
    assert hint[:2] == (
        "hint",
        "Claude Code needs about 65,536 tokens of context; m has 8,192.",
    )
    assert answer[0] == "ok"


def test_a_damaged_file_and_a_refusal_are_named(tmp_path: Path) -> None:
    write(tmp_path, facts())
    (tmp_path / ".claude/settings.json").write_text("{")
    warning, answer = levels(
        tmp_path, lambda _: facts(), CyberError("The service answered 401: Wrong key.")
    )
    assert "settings.json (line 1:" in warning[1]
    assert answer[:2] == ("error", "Claude Code: The service answered 401: Wrong key.")
    assert "logs m" in answer[2]

"""The configuration of a service: previews of changes, and their effects."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import ConfigError, GuardedSettingError, NotFoundError
from cyber_inference_tui.records import SettingEffect
from cyber_inference_tui.service.audit_log import AuditLog, Caller, acting
from cyber_inference_tui.service.configuration import Configuration, reconfigured
from cyber_inference_tui.settings.edit import split_key
from cyber_inference_tui.settings.example import toml_value
from cyber_inference_tui.settings.load import CurrentSettings, load_if_there
from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS, Settings
from cyber_inference_tui.settings.watch import FileWatch
from tests.scheduler.virtual import model
from tests.waiting import LIMIT

ODD = 'a.b/c "d" e'


class Desk:
    """A configuration over a file, with the applied settings and the published events."""

    def __init__(
        self,
        path: Path,
        *,
        text: str = "",
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
        restarts: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        if text:
            path.write_text(text)
        self.applied: list[Settings] = []
        self.published: list[str | None] = []
        self.current = CurrentSettings(
            load_if_there(path, environ=environ or {}, flags=flags or {})
        )
        self.audit_file = path.with_name("audit.log")
        self.configuration = Configuration(
            self.current,
            bound_host=lambda: "127.0.0.1",
            environ=environ or {},
            flags=flags or {},
            apply=self._apply,
            publish=lambda data: self.published.append(data["error"]),
            would_restart=lambda *_: list(restarts),
            audit=AuditLog(self.audit_file),
        )

    def audited(self) -> list[dict[str, Any]]:
        """Return the events of the audit log, without their times."""
        if not self.audit_file.exists():
            return []
        events = [json.loads(line) for line in self.audit_file.read_text().splitlines()]
        return [{name: event[name] for name in event if name != "at"} for event in events]

    async def _apply(self, settings: Settings) -> None:
        self.applied.append(settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("key", "value", "restarts", "effect"),
    [
        ("max_queue", 64, (), SettingEffect.NOTHING),
        ("max_queue", 65, (), SettingEffect.NOW),
        ("max_queue", "65", (), SettingEffect.NOW),
        ("default_context_size", 4096, ("m",), SettingEffect.RESTARTS_MODELS),
        ("port", 9999, (), SettingEffect.RESTARTS_SERVICE),
        ("host", "127.0.0.1", (), SettingEffect.NOTHING),
        ("log_level", "debug", (), SettingEffect.OVERRIDDEN),
        ("log_level", "error", (), SettingEffect.NOTHING),
        ("refresh_rate", 2, (), SettingEffect.OVERRIDDEN),
        ('models."m".threads', 2, ("m",), SettingEffect.RESTARTS_MODELS),
        ('models."m".threads', 3, (), SettingEffect.NOTHING),
        ('models."m".pinned', True, (), SettingEffect.NOW),
        ('models."m".preload', True, (), SettingEffect.RESTARTS_SERVICE),
    ],
)
async def test_what_a_change_would_do(
    path: Path, key: str, value: Any, restarts: tuple[str, ...], effect: SettingEffect
) -> None:
    text = "max_queue = 64\n[models.m]\nthreads = 3\n"
    desk = Desk(
        path,
        text=text,
        environ={"CYBER_INFERENCE_LOG_LEVEL": "error"},
        flags={"refresh_rate": 3.0},
        restarts=restarts,
    )
    record = await desk.configuration.check(key, value)
    assert (record.key, record.effect, record.models) == (key, effect, restarts)
    assert record.value == (65 if value == "65" else value)
    assert path.read_text() == text
    assert (desk.applied, desk.published) == ([], [])


async def test_a_check_refuses_what_a_change_refuses(path: Path) -> None:
    desk = Desk(path, text="max_queue = 64\n")
    for key, value, error in (
        ("max_queue", "x", ConfigError),
        ("max_queue", -1, ConfigError),
        ("max_quue", 1, NotFoundError),
        ('models."m".nothing', 1, NotFoundError),
    ):
        with pytest.raises(error):
            await desk.configuration.check(key, value)
        with pytest.raises(error):
            await desk.configuration.set(key, value)
    assert path.read_text() == "max_queue = 64\n"


async def test_a_key_is_set_and_taken_out_again(path: Path) -> None:
    desk = Desk(path, text="# mine\nmax_queue = 64\n")
    record = await desk.configuration.set("max_queue", 3)
    assert (record.value, record.source) == (3, "file")
    record = await desk.configuration.unset("max_queue")
    assert (record.value, record.source) == (128, "default")
    assert path.read_text() == "# mine\n"
    assert [one.max_queue for one in desk.applied] == [3, 128]
    assert desk.published == [None, None]
    record = await desk.configuration.unset("max_queue")
    assert record.source == "default"


async def test_a_table_of_any_name_is_edited(path: Path) -> None:
    desk = Desk(path)
    key = 'models."a.b/c \\"d\\" e".context_size'
    record = await desk.configuration.set(key, 512)
    assert (record.key, record.value) == (key, 512)
    assert desk.configuration.loaded.settings.models[ODD].context_size == 512
    assert key in {one.key for one in desk.configuration.values()}
    record = await desk.configuration.unset(key)
    assert record.value is None
    assert key not in {one.key for one in desk.configuration.values()}


async def test_a_table_that_differs_in_case_stays_the_models(path: Path) -> None:
    desk = Desk(path, text='[models."Tiny"]\nthreads = 2\n')
    record = await desk.configuration.set('models."tiny".parallel', 3)
    assert record.key == 'models."Tiny".parallel'
    assert list(desk.configuration.loaded.settings.models) == ["Tiny"]


async def test_masks_of_secrets_stand_for_what_they_hide(path: Path) -> None:
    desk = Desk(
        path,
        text='hf_token = "hf_abc"\n[models.m.env]\nA = "secret"\nB = "2"\n',
    )
    key = 'models."m".env'
    check = await desk.configuration.check(key, {"A": "********", "C": "3"}, by_owner=True)
    assert check.value == {"A": "********", "C": "********"}
    await desk.configuration.set(key, {"A": "********", "C": "3"}, by_owner=True)
    assert desk.configuration.loaded.settings.models["m"].env == {"A": "secret", "C": "3"}
    await desk.configuration.set("hf_token", "********")
    assert desk.configuration.loaded.settings.hf_token == "hf_abc"
    for secret, value in (
        ("admin_password", "********"),
        ("api_keys", ["********"]),
        (key, {"D": "********"}),
        (key, 'A = "********"'),
    ):
        with pytest.raises(ConfigError, match="replaces no secret"):
            await desk.configuration.set(secret, value)


@pytest.mark.parametrize(
    "key",
    [
        *(key.name for key in KEYS.values() if key.guarded),
        *(f'models."m".{key.name}' for key in MODEL_KEYS.values() if key.guarded),
        'models."m".presets.long.args',
        'models."m".presets.long.lora',
    ],
)
async def test_only_the_owner_changes_what_the_service_runs(path: Path, key: str) -> None:
    text = "max_queue = 64\n"
    desk = Desk(path, text=text)
    table, known = split_key(key)
    value: Any = {"A": "b"} if known.is_table else ["/x"] if known.is_list else "/x"
    value = False if known.bare_type is bool else value
    value = "https://x.example" if known.form == "url" else value
    for change in (
        desk.configuration.set(key, value),
        desk.configuration.check(key, value),
        desk.configuration.unset(key),
    ):
        with pytest.raises(GuardedSettingError, match="only its owner"):
            await change
    assert path.read_text() == text
    await desk.configuration.check(key, value, by_owner=True)
    await desk.configuration.set(key, value, by_owner=True)
    assert desk.configuration.loaded.record(known, table).source == "file"
    await desk.configuration.unset(key, by_owner=True)
    assert desk.configuration.loaded.record(known, table).source == "default"


def test_every_setting_that_names_a_program_or_a_path_is_guarded() -> None:
    """A new setting of such a kind has to be marked."""
    for key in (*KEYS.values(), *MODEL_KEYS.values()):
        names = key.is_path or key.is_arguments or key.form in {"program", "url", "variable"}
        assert key.guarded or not names, key.name


async def test_what_needs_a_restart_stays_in_force_until_then(path: Path) -> None:
    desk = Desk(path, text='data_dir = "/one"\nport = 1\n')
    desk.path.write_text('data_dir = "/two"\nport = 2\nmax_queue = 3\n')
    await desk.configuration.reload()
    (applied,) = desk.applied
    assert (applied.data_dir, applied.port, applied.max_queue) == (Path("/one"), 1, 3)
    assert applied.models_dir == Path("/one/models")
    assert desk.current.settings == applied
    # The value that is returned applies from then on.
    values = {one.key: one.value for one in desk.configuration.values()}
    assert (values["data_dir"], values["models_dir"], values["port"]) == ("/two", "/two/models", 2)


@pytest.mark.parametrize("key", ["admin_password", "llama_args"])
async def test_a_secret_of_a_variable_never_goes_to_the_file(path: Path, key: str) -> None:
    environ = {
        "CYBER_INFERENCE_ADMIN_PASSWORD": "hidden",
        "CYBER_INFERENCE_LLAMA_ARGS": "--hf-token,hidden",
    }
    desk = Desk(path, text="port = 1\n", environ=environ)
    shown = next(one.value for one in desk.configuration.values() if one.key == key)
    with pytest.raises(ConfigError, match="replaces no secret"):
        await desk.configuration.set(key, shown)
    assert path.read_text() == "port = 1\n"


async def test_secrets_among_arguments_are_masked_and_kept(path: Path) -> None:
    desk = Desk(path, text='llama_args = ["--hf-token", "sk-1", "-c", "1"]\n')
    (shown,) = [one for one in desk.configuration.values() if one.key == "llama_args"]
    assert shown.value == ["--hf-token", "********", "-c", "1"]
    words = ["-c", "2", "--hf-token", "********"]
    check = await desk.configuration.check("llama_args", words, by_owner=True)
    assert check.value == words
    await desk.configuration.set("llama_args", words, by_owner=True)
    assert desk.configuration.loaded.settings.llama_args == ("-c", "2", "--hf-token", "sk-1")
    with pytest.raises(ConfigError, match="replaces no secret"):
        await desk.configuration.set('models."m".args', ["--hf-token", "********"])


def test_a_model_as_other_settings_would_have_it(tmp_path: Path) -> None:
    text = '[models."M"]\nthreads = 2\nmmproj = "p.gguf"\n'
    settings = load_if_there(tmp_path / "none", environ={}, flags={}).settings
    with_table = Desk(tmp_path / "config.toml", text=text).configuration.loaded.settings
    changed = reconfigured(model("m"), with_table)
    assert changed.settings.threads == 2
    assert changed.mmproj == tmp_path / "p.gguf"
    back = reconfigured(changed, settings)
    assert (back.settings.threads, back.mmproj) == (None, None)


def test_a_preset_as_other_settings_would_have_it(tmp_path: Path) -> None:
    text = '[models."M"]\nthreads = 2\npresets.long.parallel = 1\n'
    settings = Desk(tmp_path / "config.toml", text=text).configuration.loaded.settings
    long = msgspec.structs.replace(model("m:long"), preset_of="m")
    changed = reconfigured(long, settings).settings
    assert (changed.threads, changed.parallel) == (2, 1)
    gone = msgspec.structs.replace(model("m:gone"), preset_of="m")
    assert reconfigured(gone, settings) == gone


GUARDED = """\
port = 1234
api_keys = ["k"]
admin_password = "pw"
log_level = "debug"
"""


def _gone(path: Path) -> None:
    path.rename(path.with_name("config.bak"))


def _emptied(path: Path) -> None:
    path.write_text("")


def _blank(path: Path) -> None:
    path.write_text("\n \n")


def _cut_in_a_line(path: Path) -> None:
    path.write_text(GUARDED[: GUARDED.index('el = "debug"')] + "el")


def _cut_before_the_keys(path: Path) -> None:
    path.write_text(GUARDED.splitlines(keepends=True)[0])


def _only_comments(path: Path) -> None:
    path.write_text('# Settings.\n#api_keys = ["k"]\n')


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _utf16(path: Path) -> None:
    path.write_text(GUARDED, encoding="utf-16")


def _zeros(path: Path) -> None:
    path.write_bytes(b"\0" * 4096)


@pytest.mark.parametrize(
    "damage",
    [
        _gone,
        _emptied,
        _blank,
        _cut_in_a_line,
        _cut_before_the_keys,
        _only_comments,
        _a_folder,
        _utf16,
        _zeros,
    ],
)
async def test_a_file_that_is_gone_or_damaged_opens_nothing(
    path: Path, damage: Callable[[Path], None]
) -> None:
    desk = Desk(path, text=GUARDED)
    damage(path)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        await desk.configuration.reload()
    assert desk.current.settings.api_keys == ("k",)
    assert desk.applied == []


@pytest.mark.parametrize("damage", [_gone, _emptied])
async def test_nothing_is_written_into_the_place_of_a_file_that_is_gone(
    path: Path, damage: Callable[[Path], None]
) -> None:
    desk = Desk(path, text=GUARDED)
    damage(path)
    before = path.exists()
    for change in (
        desk.configuration.set("log_level", "info"),
        desk.configuration.unset("port"),
        desk.configuration.check("log_level", "info"),
    ):
        with pytest.raises(ConfigError, match="Put it back"):
            await change
    assert path.exists() is before
    assert not before or path.read_text() == ""
    # It comes back with another value.
    path.write_text(GUARDED.replace("debug", "error"))
    await desk.configuration.reload()
    assert [one.log_level for one in desk.applied] == ["error"]


@pytest.mark.parametrize("damage", [_gone, _emptied])
async def test_a_file_that_was_gone_comes_back_with_its_keys(
    path: Path, damage: Callable[[Path], None]
) -> None:
    desk = Desk(path, text=GUARDED)
    damage(path)
    with pytest.raises(ConfigError):
        await desk.configuration.reload()
    # What `config set` writes meanwhile, without a look at the service.
    path.write_text('log_level = "info"\n')
    for change in (desk.configuration.reload(), desk.configuration.set("log_level", "error")):
        with pytest.raises(ConfigError, match="without api_keys and admin_password"):
            await change
    assert path.read_text() == 'log_level = "info"\n'
    assert desk.applied == []
    path.write_text('api_keys = []\nadmin_password = ""\n')
    await desk.configuration.reload()
    assert [one.api_keys for one in desk.applied] == [()]


@pytest.mark.parametrize("before", ["", "port = 1\n", "# Settings.\n"])
async def test_a_key_may_be_taken_out_by_name_wherever_it_stands(path: Path, before: str) -> None:
    desk = Desk(path, text=f'{before}api_keys = ["k"]\n')
    await desk.configuration.unset("api_keys")
    assert [one.api_keys for one in desk.applied] == [()]
    # The next change finds a file that may be empty by now.
    await desk.configuration.set("log_level", "error")
    assert desk.applied[-1].log_level == "error"


async def test_a_person_may_take_out_what_stands_last(path: Path) -> None:
    desk = Desk(path, text='api_keys = ["k"]\n[models.m]\nthreads = 2\n')
    path.write_text('api_keys = ["k"]\n')
    await desk.configuration.reload()
    path.write_text("api_keys = []\n")
    await desk.configuration.reload()
    assert [one.api_keys for one in desk.applied] == [("k",), ()]


async def test_a_service_without_a_file_runs_without_it(path: Path) -> None:
    desk = Desk(path)
    await desk.configuration.reload()
    await desk.configuration.set("log_level", "error")
    assert path.read_text() == 'log_level = "error"\n'
    assert [one.log_level for one in desk.applied] == ["error"]


async def test_a_file_is_read_when_its_writer_is_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(path, text=GUARDED)
    changed = GUARDED.replace("debug", "error")
    pieces = [changed[:20], changed[:45], changed]
    looks = iter([True, True, True, False])

    def look(_: FileWatch) -> bool:
        found = next(looks, False)
        if found and pieces:
            path.write_text(pieces.pop(0))
        return found

    monkeypatch.setattr(FileWatch, "changed", look)
    watching = asyncio.ensure_future(desk.configuration.watch())
    async with asyncio.timeout(LIMIT):
        while not desk.published:
            await asyncio.sleep(0.01)
    watching.cancel()
    assert desk.published == [None]
    assert [one.log_level for one in desk.applied] == ["error"]


async def test_who_changed_what_is_on_record(path: Path) -> None:
    desk = Desk(path, text=GUARDED, environ={"CYBER_INFERENCE_MAX_QUEUE": "7"})
    change = desk.configuration
    with acting(Caller("login 1", "192.0.2.7")):
        await change.set("port", "4321")
        await change.set("port", 4321)
        await change.set("admin_password", "another")
        await change.set("llama_args", ["--hf-token", "secret", "-x"], by_owner=True)
        # It only takes effect where the variable is not set.
        await change.set("max_queue", 9)
        await change.set(f"models.{toml_value(ODD)}.threads", 2)
        await change.unset("port")
        with pytest.raises(ConfigError):
            await change.set("port", "many")
    path.write_text(path.read_text().replace("max_queue = 9", "max_queue = 10"))
    await change.reload()
    by_login = {"event": "setting_changed", "by": "login 1", "address": "192.0.2.7"}
    by_hand = {"event": "setting_changed", "by": "configuration file", "address": None}
    assert desk.audited() == [
        {**by_login, "key": "port", "before": 1234, "value": 4321},
        {**by_login, "key": "admin_password", "before": "********", "value": "********"},
        {**by_login, "key": "llama_args", "before": [], "value": ["--hf-token", "********", "-x"]},
        {**by_login, "key": "max_queue", "before": 128, "value": 9},
        {**by_login, "key": f"models.{toml_value(ODD)}.threads", "before": None, "value": 2},
        {**by_login, "key": "port", "before": 4321, "value": 8337},
        {**by_hand, "key": "max_queue", "before": 9, "value": 10},
    ]


async def test_a_change_whose_client_leaves_is_made_and_on_record(path: Path) -> None:
    desk = Desk(path, text=GUARDED)
    changing = asyncio.create_task(desk.configuration.set("port", 4321))
    await asyncio.sleep(0)
    changing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert desk.configuration.loaded.settings.port == 4321
    assert [event["key"] for event in desk.audited()] == ["port"]


async def test_a_refused_file_has_changed_nothing(path: Path) -> None:
    desk = Desk(path, text=GUARDED)
    path.write_text(GUARDED + "prot = 1\n")
    with pytest.raises(ConfigError):
        await desk.configuration.reload()
    assert desk.audited() == []

"""Read models and logs from the disk, for commands that find no running service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from cyber_inference_tui.cli.service_calls import Housekeeper
from cyber_inference_tui.client.service_url import base_url
from cyber_inference_tui.errors import ConflictError, ModelNotFoundError
from cyber_inference_tui.files import write_problem
from cyber_inference_tui.gguf.demo import DEMO_ID
from cyber_inference_tui.hub.journal import JOURNAL, Journal
from cyber_inference_tui.hub.staging import staged_by
from cyber_inference_tui.library.catalog import Origin
from cyber_inference_tui.llama.log_files import LogLimits, open_log
from cyber_inference_tui.llama.log_reading import read_lines
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records import (
    CreatedKey,
    KeyRecord,
    ModelRecord,
    NewKey,
    ProblemRecord,
)
from cyber_inference_tui.records.gc import GcPlan, GcQuery
from cyber_inference_tui.service.audit_log import AUDIT_FILE, AuditLog, Caller
from cyber_inference_tui.service.history import HISTORY_FILE, History
from cyber_inference_tui.service.history_file import read_last_uses
from cyber_inference_tui.service.housekeeping import Housekeeping
from cyber_inference_tui.service.key_file import (
    read_keys,
    record_of,
    with_new,
    without,
    write_keys,
)
from cyber_inference_tui.service.listing import library_for, problem_records, unloaded_record
from cyber_inference_tui.service.logs import LOGS, stem_of
from cyber_inference_tui.service.runtime import DataDirectoryLock, data_directory_holder
from cyber_inference_tui.service.shared_files import SharedFiles
from cyber_inference_tui.settings.load import SettingSource
from cyber_inference_tui.sockets import is_loopback

if TYPE_CHECKING:
    from cyber_inference_tui.settings.load import LoadedSettings
    from cyber_inference_tui.settings.schema import Settings


T = TypeVar("T")


class LocalLog(NamedTuple):
    """The end of a log, read from its files; ``path`` is the newest."""

    id: str
    path: Path
    lines: list[tuple[datetime, str]]


def local_records(
    settings: Settings, *, demo: bool, environ: Mapping[str, str]
) -> tuple[list[ModelRecord], list[ProblemRecord]]:
    """Scan the model directories: return the models, all unloaded, and the unusable files."""
    catalog = library_for(settings, demo=demo, environ=environ).scan()
    uses = read_last_uses(settings.data_dir / HISTORY_FILE, _now())
    records = {
        model_id: msgspec.structs.replace(
            unloaded_record(model, resolve(model, settings)), last_used_at=uses.get(model_id)
        )
        for model_id, model in catalog.models.items()
    }
    if demo and DEMO_ID not in records:
        # The service makes its file when it starts.
        records[DEMO_ID] = ModelRecord(id=DEMO_ID, origin=Origin.DEMO.value)
    return [record for _, record in sorted(records.items())], problem_records(catalog)


def local_deletion(
    settings: Settings, model_id: str, *, demo: bool, environ: Mapping[str, str]
) -> tuple[ModelRecord, Callable[[], ModelRecord]]:
    """Return the record of a model on disk, and a function that deletes its files.

    Raises ``ModelNotFoundError``, and ``ConflictError`` while a service that does not answer uses
    the files. The function raises ``ConflictError`` where the model cannot be deleted.
    """
    _check_no_service(settings)
    library = library_for(settings, demo=demo, environ=environ)
    catalog = library.scan()
    model = catalog.resolve(model_id)
    record = unloaded_record(model, resolve(model, settings))

    def delete() -> ModelRecord:
        library.delete(catalog, record.id)
        note_offline(settings, "model_deleted", model=record.id)
        return record

    return record, delete


def local_housekeeper(settings: Settings, *, demo: bool, environ: Mapping[str, str]) -> Housekeeper:
    """Return a housekeeper that reads and deletes in this process.

    It raises ``ConflictError`` while a service that does not answer uses the data directory.
    """

    async def carry_out(work: Callable[[Housekeeping, SharedFiles], Awaitable[T]]) -> T:
        history = History(settings.data_dir / HISTORY_FILE, now=_now)
        shared_files = SharedFiles(settings.data_dir, dict)
        await history.start()
        try:
            uses = await history.last_uses()
            catalog = library_for(settings, demo=demo, environ=environ).scan()
            staged = staged_by(Journal(settings.data_dir / JOURNAL).load())
            keeping = Housekeeping(
                settings=lambda: settings,
                environ=environ,
                catalog=lambda: catalog,
                in_use=lambda model_id: "",
                files_in_use=list,
                last_uses=lambda: uses,
                staged=lambda: staged,
                shared_files=shared_files,
                on_deleted=note_deleted,
                now=_now,
            )
            return await work(keeping, shared_files)
        finally:
            await shared_files.close()
            await history.stop()

    async def note_deleted(names: list[str]) -> None:
        note_offline(settings, "gc", deleted=names)

    def run(work: Callable[[Housekeeping, SharedFiles], Awaitable[T]]) -> T:
        _check_no_service(settings)
        with DataDirectoryLock(settings.data_dir):
            return asyncio.run(carry_out(work))

    async def whole_plan(keeping: Housekeeping, files: SharedFiles, query: GcQuery) -> GcPlan:
        plan = await keeping.plan(query)
        if plan.hashing:
            await files.settled()
            plan = await keeping.plan(query)
        return plan

    return Housekeeper(
        lambda query: run(lambda keeping, files: whole_plan(keeping, files, query)),
        lambda order: run(lambda keeping, _: keeping.delete(order)),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _check_no_service(settings: Settings) -> None:
    """Raise ``ConflictError`` while a service that does not answer uses the files."""
    holder = data_directory_holder(settings.data_dir)
    if holder is not None:
        raise ConflictError(
            f"A service runs in {settings.data_dir} (pid {holder or 'unknown'}) and does not "
            "answer here.",
            hint="Give its --host and --port, or stop it.",
        )


def local_keys(settings: Settings) -> list[KeyRecord]:
    """Return the API keys with names of the data directory; their use is not known."""
    now = datetime.now(UTC)
    return [record_of(key, now) for key in read_keys(settings.data_dir)]


def add_local_key(settings: Settings, new: NewKey) -> CreatedKey:
    """Create an API key. Raises ``ConflictError`` while a service uses the file."""
    _check_no_service(settings)
    with DataDirectoryLock(settings.data_dir):
        now = datetime.now(UTC)
        keys, secret = with_new(read_keys(settings.data_dir), new, now)
        write_keys(settings.data_dir, keys)
        note_offline(settings, "key_created", name=new.name)
        return CreatedKey(**msgspec.structs.asdict(record_of(keys[-1], now)), key=secret)


def remove_local_key(settings: Settings, name: str) -> tuple[KeyRecord, bool]:
    """Remove an API key; return also whether it was the last. Raises as ``add_local_key``."""
    _check_no_service(settings)
    with DataDirectoryLock(settings.data_dir):
        keys, gone = without(read_keys(settings.data_dir), name)
        write_keys(settings.data_dir, keys)
        note_offline(settings, "key_removed", name=gone.name)
        return record_of(gone, datetime.now(UTC)), not keys


def note_offline(settings: Settings, event: str, **details: Any) -> None:
    """Write what this command did to the audit log; say so if the disk does not take it."""
    path = settings.data_dir / LOGS / AUDIT_FILE
    log = AuditLog(path, limits=lambda: LogLimits(settings.log_max_size, settings.log_keep))
    try:
        log.write(event, Caller(f"command of user {os.getuid()}"), **details)
    except OSError as error:
        click.echo(f"warning: {write_problem(path, error)}", err=True)


def local_log(
    loaded: LoadedSettings, name: str, lines: int, environ: Mapping[str, str]
) -> LocalLog | None:
    """Return the last ``lines`` of a log; ``name`` is a log's id, or a model's id or alias.

    Return ``None`` if there is no such file, or if ``--host`` names another machine, whose logs
    are not on this disk.
    """
    settings = loaded.settings
    host = urlsplit(base_url(settings.host, settings.port)).hostname or ""
    if loaded.sources["host"] is SettingSource.FLAG and not is_loopback(host):
        return None
    folder = settings.data_dir / LOGS
    log_id, files = name, open_log(folder, stem_of(name))
    if not files.path.exists():
        try:
            log_id = library_for(settings, demo=True, environ=environ).scan().resolve(name).id
        except ModelNotFoundError:
            return None
        files = open_log(folder, stem_of(log_id))
        if not files.path.exists():
            return None
    found, _ = read_lines(files.spans, limit=lines)
    return LocalLog(log_id, files.path, [(line.at, line.text) for line in found])

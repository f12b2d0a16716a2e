"""Call the service for the commands; each function runs an event loop until it has the answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from cyber_inference_tui.cli.service_access import (
    attached_client,
    client_of,
    explain_absence,
    explain_login,
    service_url,
)
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    AdminLoginError,
    CyberError,
    ModelLoadError,
    NoLlamaServerError,
    NoServiceError,
    NoServiceThereError,
    NotFoundError,
)
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    AdapterRecord,
    ClientRecord,
    CreatedKey,
    KeyRecord,
    ModelRecord,
    ModelStatus,
    NewKey,
    ProblemRecord,
    RequestRecord,
    RequestWhy,
    StatusRecord,
    endpoints,
    queries,
)
from cyber_inference_tui.records.gc import GcOrder, GcPlan, GcQuery, GcResult
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import counted

if TYPE_CHECKING:
    from cyber_inference_tui.cli.options import GlobalOptions
    from cyber_inference_tui.cli.output import ProgressLine
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.records.checks import ModelCheck

T = TypeVar("T")

ANSWER_LIMIT = 5.0
"""Seconds for the first answer; what takes longer is no service."""
_DAY = 86400.0
_MARGIN = 60.0
_CLIENTS = 20
_GC_SECONDS = 600.0
_POLL = 0.3
_HASHING_SECONDS = 600.0
"""Seconds for one file to be read; after that the plan leaves it out."""


class FoundModels(msgspec.Struct, frozen=True, kw_only=True):
    """The local models; ``absence`` says why they come from the disk instead of from a service."""

    records: list[ModelRecord]
    problems: list[ProblemRecord]
    directory: str
    absence: str = ""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """The data of ``status``; ``models`` leaves out those that are simply unloaded."""

    url: str
    status: StatusRecord
    models: list[ModelRecord]
    clients: list[ClientRecord]
    """Those of the last day."""


def with_client(
    options: GlobalOptions, call: Callable[[ServiceClient], Awaitable[T]], *, url: str = ""
) -> T:
    """Run ``call`` with a client of the service: that of ``--attach``, or of this machine, at
    ``url`` if given.

    Raises ``CyberError``; ``NoServiceError`` only if this machine's service does not answer.
    """
    settings, elsewhere = options.load().settings, options.attach

    async def run() -> T:
        if elsewhere:
            client = attached_client(options)
        else:
            client = client_of(url or service_url(settings), settings)
        async with client:
            if client.tunnel is not None:
                await client.tunnel.open(asks=True)
            await client.reach(ANSWER_LIMIT)
            return await call(client)

    try:
        return asyncio.run(run())
    except NoServiceError as error:
        if elsewhere:
            raise NoServiceThereError(error.message, hint=error.hint) from error
        raise explain_absence(error, settings) from error
    except AdminLoginError as error:
        raise explain_login(error, settings, attached=clean_line(elsewhere)) from error


def all_models(options: GlobalOptions) -> FoundModels:
    """Return the local models from the service, or from the disk if none answers."""
    settings = options.load().settings

    async def ask(client: ServiceClient) -> FoundModels:
        models = await client.call(endpoints.MODELS)
        directory = None if models else (await client.call(endpoints.STATUS)).models_dir
        problems: list[ProblemRecord] = []
        with contextlib.suppress(NoServiceError, NotFoundError):  # an older service
            problems = await client.call(endpoints.PROBLEMS)
        return FoundModels(
            records=models, problems=problems, directory=directory or str(settings.models_dir)
        )

    try:
        return with_client(options, ask)
    except NoServiceError as error:
        from cyber_inference_tui.cli.offline import local_records

        records, problems = local_records(settings, demo=options.demo, environ=options.environ)
        return FoundModels(
            records=records,
            problems=problems,
            directory=str(settings.models_dir),
            absence=error.message,
        )


def deletable_model(
    options: GlobalOptions, model_id: str
) -> tuple[ModelRecord, Callable[[], ModelRecord]]:
    """Return a model's record, and a function that deletes its files.

    The service deletes them, or this process if none answers. Both raise ``CyberError``.
    """
    settings = options.load().settings
    try:
        records = with_client(options, lambda client: client.call(endpoints.MODELS))
    except NoServiceError:
        from cyber_inference_tui.cli.offline import local_deletion

        return local_deletion(settings, model_id, demo=options.demo, environ=options.environ)

    def delete() -> ModelRecord:
        return with_client(options, lambda client: client.call(endpoints.DELETE_MODEL, model_id))

    found = next((record for record in records if is_called(record, model_id)), None)
    # The service refuses an unknown name, and suggests similar ones.
    return found or ModelRecord(id=model_id), delete


class Housekeeper(NamedTuple):
    """Plans what to delete, and deletes it; both raise ``CyberError``."""

    plan: Callable[[GcQuery], GcPlan]
    delete: Callable[[GcOrder], GcResult]


def housekeeper(options: GlobalOptions, progress: ProgressLine) -> Housekeeper:
    """Return the housekeeper of the service, or of this process if none answers.

    A plan waits until all files that may be duplicates are read, and reports that to ``progress``.
    """
    settings = options.load().settings

    async def whole_plan(client: ServiceClient, query: GcQuery) -> GcPlan:
        hashing, since = 0, time.monotonic()
        while True:
            plan = await client.call(endpoints.GC, query=query, timeout=_GC_SECONDS)
            if plan.hashing != hashing:
                hashing, since = plan.hashing, time.monotonic()
            if not hashing or time.monotonic() > since + _HASHING_SECONDS:
                return plan
            progress.show(f"comparing {counted(hashing, 'file')} of the same size")
            await asyncio.sleep(_POLL)

    def plan(query: GcQuery) -> GcPlan:
        return with_client(options, lambda client: whole_plan(client, query))

    def delete(order: GcOrder) -> GcResult:
        return with_client(
            options, lambda client: client.call(endpoints.DO_GC, body=order, timeout=_GC_SECONDS)
        )

    try:
        with_client(options, lambda client: client.call(endpoints.HEALTH))
    except NoServiceError:
        from cyber_inference_tui.cli.offline import local_housekeeper

        progress.show("looking at the disk")
        return local_housekeeper(settings, demo=options.demo, environ=options.environ)
    return Housekeeper(plan, delete)


def all_keys(options: GlobalOptions) -> list[KeyRecord]:
    """Return the API keys with names; if no service answers, those of the data directory."""
    settings = options.load().settings
    try:
        return with_client(options, lambda client: client.call(endpoints.KEYS))
    except NoServiceError:
        from cyber_inference_tui.cli.offline import local_keys

        return local_keys(settings)


def add_key(options: GlobalOptions, new: NewKey) -> CreatedKey:
    """Create an API key: the service does, or this process if none answers."""
    settings = options.load().settings
    try:
        return with_client(options, lambda client: client.call(endpoints.ADD_KEY, body=new))
    except NoServiceError:
        from cyber_inference_tui.cli.offline import add_local_key

        return add_local_key(settings, new)


def remove_key(options: GlobalOptions, name: str) -> tuple[KeyRecord, bool]:
    """Remove an API key, as ``add_key`` creates it; return also whether no key is left at all."""
    settings = options.load().settings

    async def remove(client: ServiceClient) -> tuple[KeyRecord, bool]:
        gone = await client.call(endpoints.REMOVE_KEY, name)
        has_others = settings.api_keys or options.attach
        is_open = not has_others and not await client.call(endpoints.KEYS)
        return gone, is_open

    try:
        return with_client(options, remove)
    except NoServiceError:
        from cyber_inference_tui.cli.offline import remove_local_key

        gone, is_last = remove_local_key(settings, name)
        return gone, is_last and not settings.api_keys


def service_view(options: GlobalOptions) -> ServiceView:
    """Return the status of the service and its models."""

    async def look(client: ServiceClient) -> ServiceView:
        status = await client.call(endpoints.STATUS)
        models = await client.call(endpoints.MODELS)
        busy = [record for record in models if record.status is not ModelStatus.UNLOADED]
        clients: list[ClientRecord] = []
        since = datetime.now(UTC) - timedelta(seconds=_DAY)
        with contextlib.suppress(CyberError):  # an older service, or a history that hangs
            clients = await client.call(
                endpoints.CLIENTS, query=queries.ClientsQuery(since=since, limit=_CLIENTS)
            )
        return ServiceView(url=client.place, status=status, models=busy, clients=clients)

    return with_client(options, look)


def finished_requests(options: GlobalOptions, query: queries.RequestQuery) -> list[RequestRecord]:
    """Return finished requests, newest first."""
    return with_client(options, lambda client: client.call(endpoints.REQUESTS, query=query))


def running_requests(options: GlobalOptions) -> list[ActiveRequestRecord]:
    """Return the requests in progress, oldest first."""
    return with_client(options, lambda client: client.call(endpoints.ACTIVE_REQUESTS))


def why_slow(options: GlobalOptions, request: str) -> RequestWhy:
    """Explain the time of a finished request. Raises ``NotFoundError``."""
    return with_client(options, lambda client: client.call(endpoints.WHY, name=request))


def load_model(options: GlobalOptions, model_id: str, progress: ProgressLine) -> ModelRecord:
    """Load a model and wait for it. Raises ``ModelLoadError`` with the end of its log."""
    settings = options.load().settings
    limits = (settings.queue_timeout, settings.load_timeout)
    timeout = sum(limits) + settings.stop_timeout + _MARGIN if all(limits) else _DAY

    async def act(client: ServiceClient) -> ModelRecord:
        progress.show(f"loading {model_id}")
        async with _watched(client, model_id, progress):
            try:
                return await client.call(endpoints.LOAD, model_id, timeout=timeout)
            except ModelLoadError as error:
                # All failed loads have one error code, but this one has its own exit code.
                if (await client.call(endpoints.STATUS)).llama_server.path is None:
                    raise NoLlamaServerError(error.message, hint=error.hint) from error
                raise

    return with_client(options, act)


def unload_model(
    options: GlobalOptions, model_id: str, progress: ProgressLine, *, force: bool
) -> ModelRecord:
    """Unload a model, after its requests unless ``force``; wait a day at most."""

    async def act(client: ServiceClient) -> ModelRecord:
        progress.show(f"unloading {model_id}")
        async with _watched(client, model_id, progress):
            return await client.call(
                endpoints.UNLOAD, model_id, query=queries.UnloadQuery(force=force), timeout=_DAY
            )

    return with_client(options, act)


def check_model(options: GlobalOptions, model_id: str, progress: ProgressLine) -> ModelCheck:
    """Load a model and try what it can do; wait a day at most."""

    async def act(client: ServiceClient) -> ModelCheck:
        progress.show(f"checking {model_id}")
        return await client.call(endpoints.CHECK_MODEL, model_id, timeout=_DAY)

    return with_client(options, act)


def adapters_of(options: GlobalOptions, model_id: str) -> list[AdapterRecord]:
    """Return the LoRA adapters of a model. Raises ``ModelNotFoundError``."""
    found = with_client(options, lambda client: client.call(endpoints.DETAILS, model_id))
    return list(found.adapters)


def scale_adapter(
    options: GlobalOptions, model_id: str, number: int, scale: float
) -> list[AdapterRecord]:
    """Set the strength of a loaded model's adapter, and return all. Raises ``ConflictError``."""
    new = queries.NewScale(id=number, scale=scale)
    return with_client(
        options, lambda client: client.call(endpoints.SCALE_ADAPTER, model_id, body=new)
    )


def is_called(record: ModelRecord, name: str) -> bool:
    """Return whether ``name`` is an id or alias of the record, in any case."""
    return name.casefold() in {record.id.casefold(), *(a.casefold() for a in record.aliases)}


@asynccontextmanager
async def _watched(
    client: ServiceClient, model_id: str, progress: ProgressLine
) -> AsyncIterator[None]:
    """Show the service's events about the model on ``progress`` meanwhile."""
    if not progress.visible:
        yield
        return
    watcher = asyncio.create_task(_watch(client, model_id, progress))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _watch(client: ServiceClient, model_id: str, progress: ProgressLine) -> None:
    # Only decoration: the call itself reports errors.
    with contextlib.suppress(CyberError):
        async with aclosing(client.events({"model"})) as events:
            async for event in events:
                try:
                    record = msgspec.json.decode(event.data, type=thread_safe(ModelRecord))
                except msgspec.MsgspecError:
                    continue  # a gap, or a model that was removed
                if is_called(record, model_id):
                    progress.show(progress_text(record))


def progress_text(record: ModelRecord) -> str:
    """Return a line about a model that is being loaded or unloaded."""
    text = f"{record.status.value} {record.id}"
    if record.status is ModelStatus.LOADING and record.progress is not None:
        return f"{text} {record.progress:.0%}"
    if record.in_flight and record.status in {ModelStatus.LOADED, ModelStatus.UNLOADING}:
        count = f"{record.in_flight} request{'s' if record.in_flight > 1 else ''}"
        return f"{record.id} still answers {count}"
    return text

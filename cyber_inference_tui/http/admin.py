"""The admin endpoints. Each calls the service; nothing here depends on HTTP.

Names in paths are looked up. They are never used as file names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.http.routing import Call, RouteTable, WithHeaders
from cyber_inference_tui.records import HubModelRecord, ModelDetails, endpoints, queries
from cyber_inference_tui.records.endpoints import LOG_POSITION, NEXT_CURSOR
from cyber_inference_tui.records.queries import SearchQuery, TailQuery
from cyber_inference_tui.service.model_details import with_drafted
from cyber_inference_tui.service.why import why_of

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service


def add_admin(table: RouteTable, service: Service) -> None:
    """Add the admin endpoints, except for the login and the event streams."""
    models = service.models
    config = service.configuration
    table.answer(endpoints.STATUS, lambda call: service.status())
    table.answer(endpoints.RESOURCE_HISTORY, lambda call: _samples(service, call.query.history))
    table.answer(endpoints.RESOURCES, lambda call: service.monitoring.latest())
    table.answer(endpoints.TREND, lambda call: service.trends.read(call.query))
    table.answer(endpoints.MEMORY, lambda call: models.memory_rooms())
    table.answer(endpoints.QUEUE, lambda call: service.queue())
    table.answer(endpoints.PROBLEMS, lambda call: models.problems())
    table.answer(endpoints.MODELS, lambda call: models.records())
    table.answer(endpoints.DETAILS, lambda call: _details(service, call.name))
    table.answer(endpoints.MODEL, lambda call: models.record(call.name))
    table.answer(endpoints.DELETE_MODEL, lambda call: models.delete(call.name))
    table.answer(endpoints.LOAD, lambda call: models.load(call.name, wait=call.query.wait))
    table.answer(endpoints.UNLOAD, lambda call: models.unload(call.name, force=call.query.force))
    table.answer(endpoints.CHECK_MODEL, lambda call: service.checker.check(call.name))
    table.answer(endpoints.PIN, lambda call: models.pin(call.name, True))
    table.answer(endpoints.UNPIN, lambda call: models.pin(call.name, False))
    table.answer(endpoints.SCALE_ADAPTER, lambda call: models.scale_adapter(call.name, call.body))
    table.answer(endpoints.ADD_DEMO, lambda call: models.add_demo())

    table.answer(endpoints.GC, lambda call: service.housekeeping.plan(call.query))
    table.answer(endpoints.DO_GC, lambda call: service.housekeeping.delete(call.body))

    table.answer(endpoints.SEARCH, lambda call: _search(service, call.query))
    table.answer(
        endpoints.HUB_FILES,
        lambda call: service.hub_files(call.query.repo, call.query.revision or None),
    )
    table.answer(
        endpoints.HUB_CARD,
        lambda call: service.hub.browse.card(call.query.repo, call.query.revision or None),
    )
    table.answer(endpoints.DOWNLOADS, lambda call: service.hub.downloads.records())
    table.answer(
        endpoints.DOWNLOAD,
        lambda call: service.hub.downloads.add(
            call.body.repo, call.body.filename, call.body.revision
        ),
    )
    table.answer(
        endpoints.CANCEL_DOWNLOAD,
        lambda call: service.hub.downloads.cancel(call.name, keep=call.query.keep),
    )
    table.answer(endpoints.PAUSE_DOWNLOAD, lambda call: service.hub.downloads.pause(call.name))
    table.answer(endpoints.RESUME_DOWNLOAD, lambda call: service.hub.downloads.resume(call.name))
    table.answer(endpoints.RETRY_DOWNLOAD, lambda call: service.hub.downloads.retry(call.name))

    _add_records(table, service)

    table.answer(endpoints.BENCH, lambda call: service.bench.status)
    table.answer(endpoints.START_BENCH, lambda call: service.bench.start(call.body))
    table.answer(endpoints.CANCEL_BENCH, lambda call: service.bench.cancel())
    table.answer(endpoints.BENCH_RESULTS, lambda call: service.history.benches(call.query))
    table.answer(endpoints.START_TUNING, lambda call: service.bench.start_tuning(call.body))
    table.answer(
        endpoints.UNDO_TUNING, lambda call: service.tuned.undo(models.resolve(call.name).id)
    )

    table.answer(endpoints.KEYS, lambda call: service.key_records())
    table.answer(endpoints.ADD_KEY, lambda call: service.keys.add(call.body))
    table.answer(endpoints.REMOVE_KEY, lambda call: service.keys.remove(call.name))

    table.answer(endpoints.CONFIG, lambda call: config.values())
    table.answer(
        endpoints.CHECK_CONFIG,
        lambda call: config.check(call.name, call.body.value, by_owner=call.by_owner),
    )
    table.answer(
        endpoints.SET_CONFIG,
        lambda call: config.set(call.name, call.body.value, by_owner=call.by_owner),
    )
    table.answer(
        endpoints.UNSET_CONFIG, lambda call: config.unset(call.name, by_owner=call.by_owner)
    )
    table.answer(endpoints.INSTALLATION, lambda call: service.installation.state())
    table.answer(endpoints.INSTALL, lambda call: service.installation.start(call.body.source))
    table.answer(endpoints.CANCEL_INSTALL, lambda call: service.installation.cancel())


def _add_records(table: RouteTable, service: Service) -> None:
    """Add the endpoints for logs, events and requests."""
    table.answer(endpoints.LOGS, lambda call: service.logs.records())
    table.answer(endpoints.LOG_TAIL, lambda call: _log_tail(service, call))
    table.answer(
        endpoints.LOG_LINES,
        lambda call: service.logs.page(service.log_id(call.name), call.query),
    )
    table.answer(
        endpoints.LOG_MATCHES,
        lambda call: service.logs.matches(service.log_id(call.name), call.query),
    )

    table.answer(endpoints.RECENT_EVENTS, lambda call: list(service.events.recent))
    table.answer(endpoints.ACTIVE_REQUESTS, lambda call: service.active_requests())
    table.answer(
        endpoints.REQUESTS,
        lambda call: service.past.requests(call.query),
    )
    table.answer(endpoints.WHY, lambda call: why_of(service.past, call.name))
    table.answer(endpoints.SESSIONS, lambda call: service.sessions(call.query))
    table.answer(endpoints.CLIENTS, lambda call: service.past.clients(call.query))
    table.answer(endpoints.TOTALS, lambda call: service.past.totals())
    table.answer(endpoints.KEY_TOTALS, lambda call: service.past.key_totals())
    table.answer(
        endpoints.SPEED_TOTALS,
        lambda call: service.past.speed_totals(call.query, service.settings.price_per_kwh),
    )


def is_model_name(service: Service, name: str) -> bool:
    """Check whether a model has exactly this id or alias."""
    try:
        record = service.models.record(name)
    except ModelNotFoundError:
        return False
    return name in {record.id, *record.aliases}


def _samples(service: Service, seconds: int) -> msgspec.Raw:
    return msgspec.Raw(b"[%b]" % b",".join(service.monitoring.history(seconds)))


async def _details(service: Service, name: str) -> ModelDetails:
    return await with_drafted(await service.models.details(name), service.past)


async def _search(service: Service, query: SearchQuery) -> WithHeaders[list[HubModelRecord]]:
    found, cursor = await service.hub.browse.search(
        query.q,
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor or None,
        author=query.author or None,
    )
    return WithHeaders(found, {NEXT_CURSOR: cursor} if cursor else {})


async def _log_tail(service: Service, call: Call[TailQuery, queries.Nothing]) -> WithHeaders[str]:
    # Read first: a line that arrives in between is sent twice rather than never.
    position = service.events.last_id
    tail = await service.log_tail(call.name, call.query.lines)
    return WithHeaders(tail, {LOG_POSITION: str(position)})

"""API keys with names: their file, their use and their limits."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cyber_inference_tui.errors import (
    ConfigError,
    ConflictError,
    CyberError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
)
from cyber_inference_tui.records import KeyLimits, NewKey, Priority
from cyber_inference_tui.service.api_keys import ApiKeys
from cyber_inference_tui.service.audit_log import AuditLog
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.key_file import KEYS_FILE, read_keys, with_new, without, write_keys
from cyber_inference_tui.settings.credentials import digest_of
from tests.service.history_records import NOW, request
from tests.waiting import until

LIMITED = KeyLimits(requests_per_minute=3, tokens_per_day=100)


class Clocks:
    """The time, and a clock in seconds."""

    def __init__(self) -> None:
        self.at = NOW
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.at

    def clock(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.seconds += seconds


def opened(folder: Path, clocks: Clocks | None = None) -> ApiKeys:
    clocks = clocks or Clocks()
    audit = AuditLog(folder / "audit.log")
    return ApiKeys(folder, now=clocks.now, audit=audit, clock=clocks.clock)


async def test_keys_are_kept_as_digests_that_others_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    keys = opened(folder)
    await keys.read()
    assert keys.present == ()
    made = await keys.add(
        NewKey(name="zoë", models=("a", "b"), priority=Priority.LOW, expires=date(2027, 1, 31))
    )
    path = folder / KEYS_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.key not in path.read_text("utf-8")
    again = opened(folder)
    await again.read()
    (key,) = again.present
    assert bytes.fromhex(key.digest) == digest_of(made.key)
    assert (key.name, key.models, key.priority) == ("zoë", ("a", "b"), Priority.LOW)
    assert (key.expires, key.created_at) == (date(2027, 1, 31), NOW)
    second = await again.add(NewKey(name="other"))
    assert second.key != made.key
    assert (await again.remove("zoë")).name == "zoë"
    assert [one.name for one in read_keys(folder)] == ["other"]
    lines = map(json.loads, (folder / "audit.log").read_text("utf-8").splitlines())
    events = [(line["event"], line["name"]) for line in lines]
    assert events == [("key_created", "zoë"), ("key_created", "other"), ("key_removed", "zoë")]


_BAD_DIGEST = '{"keys": [{"name": "x", "digest": "x", "created_at": "2026-01-01T00:00:00Z"}]}'


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"keys": [{"name": "x"}]}', _BAD_DIGEST, "\udcff"]
)
async def test_a_damaged_file_lets_nobody_in(tmp_path: Path, content: str) -> None:
    (tmp_path / KEYS_FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=KEYS_FILE):
        await opened(tmp_path).read()


async def test_a_change_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    keys = opened(tmp_path)
    await keys.add(NewKey(name="a"))
    before = keys.present
    (tmp_path / KEYS_FILE).unlink()
    (tmp_path / KEYS_FILE).mkdir()
    with pytest.raises(CyberError, match="cannot be written"):
        await keys.add(NewKey(name="b"))
    with pytest.raises(CyberError, match="cannot be written"):
        await keys.remove("a")
    assert keys.present is before


@pytest.mark.parametrize(
    "new",
    [
        NewKey(name=""),
        NewKey(name=" a"),
        NewKey(name="a\x1b[31m"),
        NewKey(name="a\nb"),
        NewKey(name="x" * 65),
        NewKey(name="2"),
        NewKey(name="a", models=("",)),
        NewKey(name="a", models=("x\ny",)),
        NewKey(name="a", requests_per_minute=-1),
        NewKey(name="a", tokens_per_day=1 << 60),
        NewKey(name="a", expires=NOW.date() - timedelta(days=1)),
    ],
)
def test_names_and_limits_make_sense(new: NewKey) -> None:
    with pytest.raises(InvalidRequestError):
        with_new((), new, NOW)


def test_a_name_is_used_once_and_close_ones_are_suggested(tmp_path: Path) -> None:
    keys, _ = with_new((), NewKey(name="Alice"), NOW)
    with pytest.raises(ConflictError):
        with_new(keys, NewKey(name="alice"), NOW)
    with pytest.raises(NotFoundError, match="Near it: Alice"):
        without(keys, "alise")
    with pytest.raises(NotFoundError, match="no keys"):
        without((), "a")
    write_keys(tmp_path, keys)
    assert json.loads((tmp_path / KEYS_FILE).read_text("utf-8"))["version"] == 1


def test_requests_per_minute_come_back_one_by_one(tmp_path: Path) -> None:
    clocks = Clocks()
    keys = opened(tmp_path, clocks)
    limits = KeyLimits(requests_per_minute=3)
    for _ in range(3):
        keys.admit("a", limits)
    keys.admit("b", limits)
    with pytest.raises(RateLimitedError) as refused:
        keys.admit("a", limits)
    assert (refused.value.retry_after, refused.value.status) == (20, 429)
    assert "3 requests per minute" in str(refused.value)
    assert dict(refused.value.left) == {
        "X-RateLimit-Limit-Requests": "3",
        "X-RateLimit-Remaining-Requests": "0",
        "X-RateLimit-Reset-Requests": "20s",
    }
    clocks.advance(20)
    keys.admit("a", limits)
    with pytest.raises(RateLimitedError):
        keys.admit("a", limits)
    # A changed limit counts at once.
    keys.admit("a", KeyLimits(requests_per_minute=5))
    clocks.advance(3600)
    for _ in range(3):
        keys.admit("a", limits)
    with pytest.raises(RateLimitedError):
        keys.admit("a", limits)


def test_tokens_per_day_begin_again_at_midnight_utc(tmp_path: Path) -> None:
    clocks = Clocks()
    keys = opened(tmp_path, clocks)
    keys.note([request(key_name="a", tokens_in=90, tokens_out=9), request(tokens_in=1000)])
    keys.admit("a", LIMITED)
    keys.note([request(key_name="a", tokens_in=None, tokens_out=1)])
    with pytest.raises(RateLimitedError) as refused:
        keys.admit("a", LIMITED)
    left = refused.value.left
    assert (left["X-RateLimit-Remaining-Tokens"], left["X-RateLimit-Limit-Tokens"]) == ("0", "100")
    # A request that is refused for its tokens uses up none of the minute.
    assert left["X-RateLimit-Remaining-Requests"] == "2"
    midnight = datetime.combine(NOW.date() + timedelta(days=1), datetime.min.time(), UTC)
    wait = (midnight - NOW).total_seconds()
    assert refused.value.retry_after == pytest.approx(wait, abs=1)
    clocks.advance(wait)
    keys.admit("a", LIMITED)
    # A request that began before midnight belongs to that day.
    keys.note([request(key_name="a", tokens_in=1000, at=NOW)])
    keys.admit("a", LIMITED)


def test_a_key_is_valid_to_the_end_of_its_last_day(tmp_path: Path) -> None:
    clocks = Clocks()
    keys = opened(tmp_path, clocks)
    limits = KeyLimits(expires=NOW.date())
    assert not keys.is_over(limits)
    clocks.at = datetime.combine(NOW.date(), datetime.max.time(), UTC)
    assert not keys.is_over(limits)
    clocks.advance(1)
    assert keys.is_over(limits)
    assert not keys.is_over(KeyLimits())


async def test_the_use_of_keys_outlives_the_service(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite3", now=lambda: NOW, batch_seconds=0)
    clocks = Clocks()
    keys = opened(tmp_path, clocks)
    await keys.add(NewKey(name="a"))
    await keys.add(NewKey(name="b"))
    yesterday = request(key_name="a", at=NOW - timedelta(days=1), tokens_in=50)
    today = request(key_name="a", at=NOW + timedelta(seconds=9), tokens_in=5, tokens_out=6)
    keys.note([yesterday, today])
    await history.start()
    history.add_all([yesterday, today])
    again = opened(tmp_path, clocks)
    await again.read()
    await again.recall(history)
    await history.stop()
    for one in (keys, again):
        a, b = one.records()
        assert (a.requests_today, a.tokens_today, a.last_used_at) == (1, 11, today.at)
        assert (b.requests_today, b.tokens_today, b.last_used_at) == (0, 0, None)
    await again.remove("a")
    clocks.advance(3600)
    await again.add(NewKey(name="a"))
    # The former key of this name was used before this one was made, and its tokens count.
    a = again.records()[-1]
    assert (a.last_used_at, a.tokens_today) == (None, 11)


async def test_a_change_that_has_begun_is_made(tmp_path: Path) -> None:
    keys = opened(tmp_path)
    await keys.add(NewKey(name="a"))
    task = asyncio.create_task(keys.remove("a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: keys.present == ())
    assert read_keys(tmp_path) == ()

"""All other boxes of this one: pairing with them, their models, and where requests run."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.certificates import fingerprint
from cyber_inference_tui.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from cyber_inference_tui.hub.boxes import NearbyBox
from cyber_inference_tui.peers.acceptance import Acceptance, Paired
from cyber_inference_tui.peers.caller import pair
from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.routing import HERE, Home, can_answer, order
from cyber_inference_tui.peers.secrets import PeerSecrets, read_secrets, write_secrets
from cyber_inference_tui.peers.wake import Known, asleep, read_known, write_known
from cyber_inference_tui.records.models import ModelRecord
from cyber_inference_tui.records.peers import (
    MOST_PEERS,
    Box,
    NewPeer,
    PeerRecord,
    PeerSuggestion,
    Role,
)
from cyber_inference_tui.settings.credentials import digest_of
from cyber_inference_tui.settings.peer_address import address_problem, split_address
from cyber_inference_tui.settings.schema import PeerSettings
from cyber_inference_tui.sockets import is_loopback
from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import escaped

_MOST_CONVERSATIONS = 256
_LONGEST_NAME = 32


class PeerKey(NamedTuple):
    """The owner of a box's key."""

    name: str
    role: Role


class Remote(NamedTuple):
    """A model of other boxes, by a name that clients use here."""

    name: str
    record: ModelRecord
    """The model at the best of them, with the name as its id."""
    boxes: tuple[str, ...]
    model_id: str
    """Its id there."""


class Peers:
    """The other boxes of a service. ``read``, then ``configure``; ``close`` at the end.

    ``local`` returns this box's models by id, always the same mapping until they change. ``write``
    writes a box's table to the configuration file, or removes it (``None``), and has
    ``configure`` called. ``changed`` is called when something of a box has changed. ``now`` returns
    the time in UTC.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        write: Callable[[str, Mapping[str, Any] | None], Awaitable[None]],
        local: Callable[[], Mapping[str, object]],
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._local = local
        self._data_dir = data_dir
        self._write = write
        self._now = now
        self._notify = changed
        self._secrets: dict[str, PeerSecrets] = {}
        self._known: Known = {}
        """The models of the boxes that may sleep."""
        self._remembering: asyncio.Task[None] | None = None
        self._present: dict[str, Peer] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tables: dict[str, PeerSettings] = {}
        self._changing = asyncio.Lock()
        self._configuring = asyncio.Lock()
        self.keys: dict[bytes, PeerKey] = {}
        """The boxes that may call, by the digest of their key. Each change replaces it."""
        self._remotes: dict[str, Remote] | None = None
        self._remotes_beside: object = None
        """The local models for which ``_remotes`` was made."""
        self.has_models = False
        """Whether a box that can be asked has models."""
        self._served: OrderedDict[tuple[str, str], str] = OrderedDict()
        """The box that has answered a conversation last, by model and client."""
        self.acceptance = Acceptance(keep=self._accept, now=now)

    def __bool__(self) -> bool:
        """Return whether there are other boxes."""
        return bool(self._present)

    async def read(self) -> None:
        """Read the keys of the boxes. Raises ``ConfigError`` for an unreadable file."""
        self._secrets = await asyncio.to_thread(read_secrets, self._data_dir)
        self._known = await asyncio.to_thread(read_known, self._data_dir)

    async def configure(self, tables: Mapping[str, PeerSettings]) -> None:
        """Connect to the boxes of these tables, and end the connections to all others."""
        async with self._configuring:
            self._tables = dict(tables)
            for name, peer in list(self._present.items()):
                if (tables.get(name), self._secrets.get(name)) != (peer.settings, peer.secrets):
                    await self._end(name)
            for name, table in tables.items():
                if name not in self._present:
                    self._begin(name, table)
            self.keys = {
                bytes.fromhex(peer.secrets.digest): PeerKey(name, Role(peer.settings.role))
                for name, peer in self._present.items()
                if peer.secrets is not None
            }
            self._changed()

    def _begin(self, name: str, table: PeerSettings) -> None:
        peer = self._present[name] = Peer(
            name,
            table,
            self._secrets.get(name),
            now=self._now,
            changed=self._changed,
            known=self._known.get(name, ()),
        )
        self._tasks[name] = asyncio.create_task(peer.run(), name=f"follow the box {name}")

    async def close(self) -> None:
        """End all connections."""
        self.acceptance.close()
        for name in list(self._present):
            await self._end(name)
        if self._remembering is not None:
            await self._remembering

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        peer, self._remotes = self._present.pop(name), None
        peer.lose()

    def _changed(self) -> None:
        self._remotes = None
        self.has_models = any(peer.models for peer in self._present.values() if peer.can_be_asked)
        known = {
            name: asleep(peer.models)
            for name, peer in self._present.items()
            if peer.settings.wake and peer.models
        }
        if known != self._known:
            self._known = known
            if self._remembering is None:
                self._remembering = asyncio.create_task(self._remember(), name="remember models")
        self._notify()

    async def _remember(self) -> None:
        """Write the models of the boxes that may sleep, until that is what is known."""
        written = None
        while written is not self._known:
            written = self._known
            await asyncio.to_thread(write_known, self._data_dir, written)
        self._remembering = None

    # The boxes

    def records(self) -> list[PeerRecord]:
        """Return the boxes, by name."""
        return [self._present[name].record() for name in sorted(self._present)]

    def nearby(self) -> list[NearbyBox]:
        """Return the boxes that can be asked for files now."""
        return [
            NearbyBox(name, *peer.address, on_lost=peer.on_lost)
            for name, peer in sorted(self._present.items())
            if peer.can_be_asked
        ]

    def peer(self, name: str) -> Peer:
        """Return a box. Raises ``NotFoundError``."""
        if (peer := self._present.get(name)) is not None:
            return peer
        near = close_names(name, self._present) or sorted(self._present)
        raise NotFoundError(
            f"There is no box {escaped(name, limit=64)}.",
            hint=f"There are: {', '.join(near)}." if near else "Pair one with `peers add URL`.",
        )

    def has(self, peer: Peer) -> bool:
        """Return whether this is a box still, with the same settings."""
        return self._present.get(peer.name) is peer

    def lending(self) -> dict[str, int]:
        """Return the bytes that each box lends to models of this one now, those that lend any."""
        return {
            name: peer.lends
            for name, peer in sorted(self._present.items())
            if peer.lends and peer.can_be_asked
        }

    def knows(self, box: PeerSuggestion) -> bool:
        """Return whether a box with this address or certificate is paired."""
        certificates = (one.secrets.certificate for one in self._present.values() if one.secrets)
        return any(one.settings.url == box.url for one in self._present.values()) or any(
            one and fingerprint(one) == box.fingerprint for one in certificates
        )

    async def add(self, new: NewPeer, own: Callable[[bool], Box]) -> PeerRecord:
        """Pair with the box that shows a code; ``own`` returns what this box says of itself, to
        one on this machine (``True``) or elsewhere.

        Raises ``InvalidRequestError`` and the errors of ``pair``.
        """
        if (why := address_problem(new.url, insecure=new.insecure)) is not None:
            raise InvalidRequestError(f"{escaped(new.url)}: {why}.", param="url")
        address = split_address(new.url)
        self._check_room()
        accepted = await pair(address, new.code, own(is_loopback(address.hostname or "")))
        secrets = PeerSecrets(
            key=accepted.keys.of_caller,
            digest=digest_of(accepted.keys.of_acceptor).hex(),
            certificate=accepted.certificate,
        )
        table = PeerSettings(url=address.geturl(), role=new.role.value, insecure=new.insecure)
        return self.peer(await self._keep(accepted.box.name, table, secrets)).record()

    async def remove(self, name: str) -> PeerRecord:
        """Remove a box, whose key is invalid from now on. Raises ``NotFoundError``."""
        record = self.peer(name).record()
        await to_its_end(self._remove(name))
        return record

    async def _remove(self, name: str) -> None:
        async with self._changing:
            secrets = {one: kept for one, kept in self._secrets.items() if one != name}
            await asyncio.to_thread(write_secrets, self._data_dir, secrets)
            self._secrets = secrets
            # Before the file is written: it may be read-only.
            self.keys = {digest: key for digest, key in self.keys.items() if key.name != name}
            await self._write(name, None)
            await self.configure({one: kept for one, kept in self._tables.items() if one != name})

    async def _accept(self, paired: Paired) -> str:
        """Keep a box that has proved to know the code; return its name here."""
        self._check_room()
        certificate, url = paired.box.certificate, paired.box.url
        secrets = PeerSecrets(
            key=paired.keys.of_acceptor,
            digest=digest_of(paired.keys.of_caller).hex(),
            certificate=certificate,
        )
        insecure = address_problem(url, insecure=False) is not None if url else False
        # An address without TLS is not used, unless the owner allows it in the table.
        table = PeerSettings(url="" if insecure else url, role=paired.role.value)
        return await self._keep(paired.box.name, table, secrets)

    def _check_room(self) -> None:
        if len(self._present) >= MOST_PEERS:
            raise ConflictError(
                f"There are {MOST_PEERS} boxes already.", hint="Remove one: `peers remove NAME`."
            )

    async def _keep(self, name: str, table: PeerSettings, secrets: PeerSecrets) -> str:
        return await to_its_end(self._keep_now(name, table, secrets))

    async def _keep_now(self, name: str, table: PeerSettings, secrets: PeerSecrets) -> str:
        async with self._changing:
            name = self._free_name(name, table, secrets)
            changed = {**self._secrets, name: secrets}
            await asyncio.to_thread(write_secrets, self._data_dir, changed)
            self._secrets = changed
            if (before := self._tables.get(name)) is not None:
                table = msgspec.structs.replace(table, wake=before.wake)
            values = msgspec.structs.asdict(table)
            blank = PeerSettings()
            await self._write(
                name,
                {
                    key: value
                    for key, value in values.items()
                    if key == "role" or value != getattr(blank, key)
                },
            )
            # The keys are new even if the table is not.
            await self.configure({**self._tables, name: table})
        return name

    def _free_name(self, name: str, table: PeerSettings, secrets: PeerSecrets) -> str:
        """Return a name for a box: its own, its former name here, or one with a number."""
        for known, peer in self._present.items():
            before = peer.secrets.certificate if peer.secrets is not None else ""
            same_certificate = bool(before) and before == secrets.certificate
            if same_certificate or (table.url and peer.settings.url == table.url):
                return known
        number, free = 2, name
        while free in self._present:
            end = f"-{number}"
            free, number = name[: _LONGEST_NAME - len(end)].rstrip("-") + end, number + 1
        return free

    # Their models

    def remotes(self) -> dict[str, Remote]:
        """Return the models of other boxes by the names that they have here.

        Each is ``BOX/ID``. An id that this box does not have, and that is the same file wherever it
        is, stands for all boxes that have it.
        """
        local = self._local()
        if self._remotes is None or local is not self._remotes_beside:
            self._remotes, self._remotes_beside = self._named(local), local
        return self._remotes

    def _named(self, local: Collection[str]) -> dict[str, Remote]:
        homes: dict[str, list[Home]] = {}
        for name in sorted(self._present):
            peer = self._present[name]
            for model_id, record in peer.models.items():
                home = peer.home(model_id)
                if home is None and peer.can_be_woken:
                    home = Home(name, record)
                if home is not None:
                    homes.setdefault(model_id, []).append(home)
        named: dict[str, Remote] = {}
        for model_id, found in homes.items():
            first = found[0].record
            if model_id not in local and all(is_same_file(first, one.record) for one in found[1:]):
                best = (order(found) or found)[0].record
                named[model_id] = Remote(
                    model_id, best, tuple(home.box for home in found), model_id
                )
            for home in found:
                name = f"{home.box}/{model_id}"
                base = home.record.preset_of and f"{home.box}/{home.record.preset_of}"
                record = msgspec.structs.replace(home.record, id=name, aliases=(), preset_of=base)
                named.setdefault(name, Remote(name, record, (home.box,), model_id))
        return named

    def listed(self, local: Iterable[ModelRecord]) -> list[Remote]:
        """Return the models to list behind the ``local`` ones, each under its shortest name.

        A file that this box has, too, is its own model, which others can answer for.
        """
        here = {record.id: record for record in local}
        remotes = self.remotes()
        shown = []
        for name, remote in sorted(remotes.items()):
            if name != remote.model_id:
                own = here.get(remote.model_id)
                if remote.model_id in remotes or (own and is_same_file(own, remote.record)):
                    continue
            shown.append(remote)
        return shown

    def others_with(self, record: ModelRecord) -> list[str]:
        """Return the boxes that have the same file as a model of this box."""
        return [home.box for home in self.homes(record.id, record, "") if home.box != HERE]

    def find(self, name: str) -> Remote | None:
        """Return the model of other boxes with this name or alias; ``None`` if there is none."""
        if not self._present:
            return None
        remotes = self.remotes()
        if (found := remotes.get(name)) is not None:
            return found
        folded = name.casefold()
        alike = [
            remote
            for remote in remotes.values()
            if remote.name.casefold() == folded
            or any(
                folded in (alias.casefold(), f"{box}/{alias}".casefold())
                for box in remote.boxes
                for alias in self._present[box].models[remote.model_id].aliases
            )
        ]
        # The shortest name stands for all boxes that have the model.
        return min(alike, key=lambda remote: len(remote.name), default=None)

    def homes(self, model_id: str, here: ModelRecord | None, who: str) -> list[Home]:
        """Return the boxes that can answer a request for a model, the best first.

        ``here`` is the model on this box, if it has it; ``who`` is the client.
        """
        warm = self._served.get((model_id, who))
        if here is not None:
            homes = [Home(HERE, here, warm=warm == HERE)]
            for name, peer in self._present.items():
                home = peer.home(model_id, warm=warm == name)
                if home is not None and is_same_file(here, home.record):
                    homes.append(home)
            return order(homes)
        remote = self.remotes().get(model_id)
        if remote is None:
            return []
        found = (
            self._present[box].home(remote.model_id, warm=warm == box)
            for box in remote.boxes
            if box in self._present
        )
        return order(home for home in found if home is not None)

    def sleepers(self, model_id: str, here: ModelRecord | None) -> list[Peer]:
        """Return the boxes that sleep and can answer a request for a model once they are awake.

        The arguments are those of ``homes``.
        """
        remote = self.remotes().get(model_id) if here is None else None
        id_there = model_id if remote is None else remote.model_id
        found = []
        for name, peer in sorted(self._present.items()):
            record = peer.models.get(id_there)
            is_meant = here is not None or (remote is not None and name in remote.boxes)
            if record is None or not (is_meant and peer.can_be_woken and can_answer(record)):
                continue
            if here is None or is_same_file(here, record):
                found.append(peer)
        return found

    def note_served(self, model_id: str, who: str, box: str) -> None:
        """Note the box that has answered a client's request, whose next one may continue it."""
        self._served[model_id, who] = box
        self._served.move_to_end((model_id, who))
        if len(self._served) > _MOST_CONVERSATIONS:
            self._served.popitem(last=False)


def is_same_file(one: ModelRecord, other: ModelRecord) -> bool:
    """Return whether two boxes have the same model file.

    The facts of its header and its size say so, unless the SHA-256 is known on both sides and is
    another one. A model with a ``command`` is not a file.
    """
    if one.sha256 and other.sha256 and one.sha256 != other.sha256:
        return False
    facts = ("size_bytes", "architecture", "parameters", "quantization", "trained_context_length")
    return one.size_bytes is not None and all(
        getattr(one, name) == getattr(other, name) for name in facts
    )


def own_name() -> str:
    """Return the name that this box gives itself: that of its machine."""
    name = socket.gethostname().partition(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", name)[:_LONGEST_NAME].strip("-") or "box"

"""The places at a loaded server, for requests that are sent as soon as they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.server_interface import Server
from cyber_inference_tui.scheduler.state import ModelState

if TYPE_CHECKING:
    from cyber_inference_tui.scheduler.control_loop import ControlLoop


class Places:
    """Counts requests at a loaded server, without an object for each of them.

    A request takes a place when it is sent. It either gives it back with its answer, or continues
    with a ``Lease``. After the end of the server ``take`` always returns ``False``.
    """

    __slots__ = ("_control", "_energy", "_exited", "_session", "_state", "server")

    def __init__(self, control: ControlLoop, state: ModelState, server: Server) -> None:
        self._control = control
        self._state = state
        self._session = state.session
        self.server = server
        self._exited = server.exited.done
        self._energy = control.energy

    @property
    def on_forced_unload(self) -> set[Callable[[], None]]:
        """The functions to call when the model is unloaded although it has requests."""
        return self._state.on_forced_unload

    @property
    def slots_are_busy(self) -> bool:
        """Whether a further request would wait for a slot of the server."""
        state = self._state
        slots = self.server.slots or state.next_spec.options.slots
        return bool(slots) and state.in_flight >= slots

    def take(self, now: float) -> bool:
        """Count a request that is sent now, if the server accepts it now: the hot path."""
        control, state, session = self._control, self._state, self._session
        if (
            state.server is not self.server
            or state.status is not ModelStatus.LOADED
            or state.leaving is not None
            or state.in_flight >= state.places
            or state.waiters
            or session is None
            or control.closing
            or self._exited()
        ):
            return False
        admission = control.admission
        if admission.waiting and not admission.may_overtake(state):
            return False
        self._energy.begin(now, admission.in_flight)
        state.in_flight += 1
        admission.in_flight += 1
        session.requests += 1
        session.unanswered += 1
        state.last_used = now
        control.on_detail(state.model.id)
        return True

    @property
    def mark(self) -> float:
        """The mark of ``EnergyShares`` when the last request took a place or gave it back."""
        return self._energy.mark

    def give_back(
        self, since: float, now: float, tokens_in: int | None, tokens_out: int | None
    ) -> float:
        """Count a complete answer with so many tokens to a request of the time ``since``.

        Return the mark of ``EnergyShares`` at its end.
        """
        session = self._session
        if session is not None:
            session.answered = True
            session.unanswered -= 1
            if tokens_in:
                session.tokens_in += tokens_in
            if tokens_out:
                session.tokens_out += tokens_out
            if session.retries and not session.unanswered:
                # A request may ``wait_alone``.
                self._state.changed.set()
        return self._control.release(self._state, since, now)

    def lease(self, since: float, begin: float) -> Lease:
        """Return a lease for a request without an answer that took its place at ``since``.

        ``begin`` is the ``mark`` of that time.
        """
        return Lease(
            self._control.release,
            self._state,
            self.server,
            since,
            self._session,
            begin=begin,
            is_sent=True,
        )

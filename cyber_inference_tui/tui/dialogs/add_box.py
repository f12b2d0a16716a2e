"""The questions before another box is added: its rights, its address and its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cyber_inference_tui.client.service_url import is_loopback_url
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.peers import NewPeer, Role
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.dialogs.question import Answer, Question

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

CODE_DIGITS = 6
_ADD_SECONDS = 60.0


def ask_role(app: CyberApp, then: Callable[[Role], None]) -> None:
    """Ask what another box may do here."""

    def answered(value: str | None) -> None:
        if value is not None:
            then(Role[value])

    app.push_screen(
        Question(
            "What may the other box do here?",
            "It may ask the models of this box. It may also steer it, if you trust its owner "
            "as yourself: load and unload models, and change settings.",
            (
                Answer(Role.SERVE.name, "m", "Ask models"),
                Answer(Role.ADMIN.name, "s", "Ask and steer"),
            ),
        ),
        answered,
    )


class AddBox:
    """Asks one question after the other, then pairs. ``added`` is called when that is done."""

    def __init__(self, app: CyberApp, *, added: Callable[[], None]) -> None:
        self._app = app
        self._added = added

    def ask(self, url: str = "") -> None:
        """Begin; ``url`` is the address that is offered."""
        ask_role(self._app, lambda role: self._ask_address(role, url))

    def _ask_address(self, role: Role, url: str) -> None:
        typed: list[str] = []

        async def accept(url: str) -> None:
            if not url.startswith(("https://", "http://")):
                raise InvalidRequestError("An address begins with https:// or http://.")
            try:
                is_loopback_url(url)
            except ValueError:
                raise InvalidRequestError("This is no address.") from None
            typed.append(url)

        def left(_: None) -> None:
            if typed:
                self._check_address(role, typed[-1])

        text = "The address of the box that shows a code."
        self._app.push_screen(
            Prompt("Add a box", text, accept, value=url, placeholder="https://192.168.1.20:8337"),
            left,
        )

    def _check_address(self, role: Role, url: str) -> None:
        """Go on, after a question if the address has no TLS and is not on this machine."""
        if url.startswith("https://") or is_loopback_url(url):
            self._ask_code(role, url, insecure=False)
            return

        def answered(value: str | None) -> None:
            if value == "use":
                self._ask_code(role, url, insecure=True)
            elif value == "other":
                self._ask_address(role, url)

        text = (
            "Prompts, answers and keys are readable on the way to this address. With a certificate "
            "('cyber-inference-tui tls make' there) the box has one that begins with https://."
        )
        answers = (Answer("other", "o", "Other address"), Answer("use", "u", "Use it", True))
        self._app.push_screen(
            Question(f"Use {clean_line(url, limit=100)} without TLS?", text, answers), answered
        )

    def _ask_code(self, role: Role, url: str, *, insecure: bool) -> None:
        async def accept(typed: str) -> None:
            code = typed.replace(" ", "")
            if len(code) != CODE_DIGITS or not (code.isascii() and code.isdecimal()):
                raise InvalidRequestError(f"The code has {CODE_DIGITS} digits.")
            new = NewPeer(url=url, code=code, role=role, insecure=insecure)
            added = await self._app.client.call(endpoints.ADD_PEER, body=new, timeout=_ADD_SECONDS)
            self._app.show_message(f"{clean_line(added.name)} is paired.")
            self._added()

        self._app.push_screen(
            Prompt("Add a box", f"The code that {clean_line(url, limit=100)} shows.", accept)
        )

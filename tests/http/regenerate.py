"""The tables in docs/http-api.md: ``python -m tests.http.regenerate`` writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec

from cyber_inference_tui.records.endpoints import ENDPOINTS, Area, Endpoint, Stream

PAGE = Path(__file__).parent.parent.parent / "docs" / "http-api.md"
_BEGIN = "<!-- endpoints: made by python -m tests.http.regenerate -->\n"
_END = "<!-- end of endpoints -->\n"


def tables() -> str:
    """Return a row for each admin endpoint, and a row for each record in their answers."""
    lines = ["| | | answer |", "|---|---|---|"]
    records: dict[str, Any] = {}
    for endpoint in ENDPOINTS.values():
        if endpoint.area in {Area.LOGIN, Area.ADMIN}:
            lines.append(f"| `{_call(endpoint)}` | {endpoint.summary} | {_answer(endpoint)} |")
            record = _record(endpoint)
            if record not in {str, Stream}:
                records[record.__name__] = record
    lines += ["", "| record | fields |", "|---|---|"]
    for name in sorted(records):
        fields = (field.encode_name for field in msgspec.structs.fields(records[name]))
        lines.append(f"| `{name}` | `{' '.join(fields)}` |")
    return "\n".join(lines) + "\n"


def with_tables(page: str) -> str:
    """Return the page with correct tables."""
    before, _, rest = page.partition(_BEGIN)
    return before + _BEGIN + tables() + _END + rest.partition(_END)[2]


def _call(endpoint: Endpoint[Any, Any, Any]) -> str:
    path = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), endpoint.path)
    query = "&".join(
        f"{one.encode_name}={_default(one)}" for one in msgspec.structs.fields(endpoint.query)
    )
    body = ", ".join(
        one.encode_name + ("" if one.required else "?")
        for one in msgspec.structs.fields(endpoint.body)
    )
    query, body = query and f"?{query}", body and f" {{{body}}}"
    return f"{endpoint.method} {path}{query}{body}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, str | int) else ""


def _record(endpoint: Endpoint[Any, Any, Any]) -> Any:
    return get_args(endpoint.answer)[0] if get_args(endpoint.answer) else endpoint.answer


def _answer(endpoint: Endpoint[Any, Any, Any]) -> str:
    if endpoint.answer in {Stream, str}:
        return "events" if endpoint.answer is Stream else "text"
    name = f"`{_record(endpoint).__name__}`"
    return f"a list of {name}" if get_args(endpoint.answer) else name


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")

"""Reads the Debian mirror and the trusted keys of this machine's own apt.

Format: sources.list(5), with one-line (``.list``) and deb822 (``.sources``) files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

_READ_LIMIT = 1 << 20
_URI = re.compile(r"^https?://[^\s\"'<>\\\[\]|]+$")
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)$")
_SUITES = frozenset(
    {"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid", "experimental"}
    | {"buster", "bullseye", "bookworm", "trixie", "forky", "duke"}
)
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """A Debian mirror and the keyrings that must have signed its ``Release`` files."""

    uri: str
    keyrings: tuple[Path, ...]
    """Empty if this machine has none: then nothing may be downloaded."""


class _AptSource(msgspec.Struct, frozen=True, kw_only=True):
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: tuple[Path, ...] = ()


def find_mirrors(root: Path) -> list[Mirror]:
    """Return the Debian mirrors in ``etc/apt`` below ``root``, in apt's order, each once."""
    own = _own_codename(root)
    found: dict[str, Mirror] = {}
    for entry in _entries(root):
        # The archives of updates and security have other suites and are incomplete.
        if not _SUITES.union(own).intersection(entry.suites) or "main" not in entry.components:
            continue
        for uri in _expand(entry.uris, root):
            if uri not in found:
                keyrings = tuple(path for path in entry.signed_by if path.is_file())
                found[uri] = Mirror(uri=uri, keyrings=keyrings or default_keyrings(root))
    return list(found.values())


def default_keyrings(root: Path) -> tuple[Path, ...]:
    """Return Debian's archive keys as its package installs them; empty without that package."""
    for name in _KEYRINGS:
        path = root / "usr/share/keyrings" / name
        if path.is_file():
            return (path,)
    return tuple(sorted((root / "etc/apt/trusted.gpg.d").glob("debian-archive-*.gpg")))


def is_web_address(uri: str) -> bool:
    """Return whether ``uri`` is an http(s) address that is safe in apt's files."""
    return bool(_URI.match(uri))


def _entries(root: Path) -> Iterator[_AptSource]:
    apt = root / "etc/apt"
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for path in files:
        if path.suffix == ".list":
            yield from _one_line(_read(path).splitlines(), root)
        elif path.suffix == ".sources":
            yield from _deb822(_read(path), root)


def _one_line(lines: Iterable[str], root: Path) -> Iterator[_AptSource]:
    for line in lines:
        found = _ONE_LINE.match(line.partition("#")[0].strip())
        if not found:
            continue
        suite, *components = found["rest"].split()
        options = dict(
            option.split("=", 1) for option in (found["options"] or "").split() if "=" in option
        )
        yield _AptSource(
            uris=(found["uri"],),
            suites=(suite,),
            components=tuple(components),
            signed_by=_paths(options.get("signed-by", "").split(","), root),
        )


def _deb822(text: str, root: Path) -> Iterator[_AptSource]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in {" ", "\t"}:
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in {"no", "false", "0", "off"}:
            continue
        if "deb" in fields.get("types", "").split():
            yield _AptSource(
                uris=tuple(fields.get("uris", "").split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                # A key in the file itself is not a path and is skipped.
                signed_by=_paths(re.split(r"[\s,]+", fields.get("signed-by", "")), root),
            )


def _paths(words: Iterable[str], root: Path) -> tuple[Path, ...]:
    return tuple(root / word.lstrip("/") for word in words if word.startswith("/"))


def _expand(uris: Iterable[str], root: Path) -> Iterator[str]:
    """Yield the web addresses; cloud images name a file with a list (apt-transport-mirror(1))."""
    for uri in uris:
        lines = [uri]
        if uri.startswith("mirror+file:"):
            path = re.sub(r"^mirror\+file:/*", "", uri)
            lines = [line.split()[0] for line in _read(root / path).splitlines() if line.split()]
        yield from (line.rstrip("/") for line in lines if is_web_address(line))


def _own_codename(root: Path) -> set[str]:
    """Return this Debian's code name, for releases newer than the list above."""
    release = dict(
        line.split("=", 1) for line in _read(root / "etc/os-release").splitlines() if "=" in line
    )
    if release.get("ID", "").strip('"') != "debian":
        return set()
    return {release.get("VERSION_CODENAME", "").strip('"')} - {""}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_READ_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""

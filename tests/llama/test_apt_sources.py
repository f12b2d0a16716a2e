"""Reading the mirror from apt's own files, as on Debian, Ubuntu and others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.install.apt_sources import (
    default_keyrings,
    find_mirrors,
    is_web_address,
)

KEYRING = "usr/share/keyrings/debian-archive-keyring.gpg"


def machine(tmp_path: Path, files: dict[str, str], *, keyring: bool = True) -> Path:
    root = tmp_path / "root"
    for name, text in {**files, **({KEYRING: "key"} if keyring else {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def uris(root: Path) -> list[str]:
    return [mirror.uri for mirror in find_mirrors(root)]


DEB822 = """\
# A comment
Types: deb deb-src
# http://mirror.invalid/commented
URIs: http://mirror.invalid/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main
"""


def test_deb822(tmp_path: Path) -> None:
    root = machine(tmp_path, {"etc/apt/sources.list.d/debian.sources": DEB822})
    [mirror] = find_mirrors(root)
    assert mirror.uri == "http://mirror.invalid/debian"
    assert mirror.keyrings == (root / KEYRING,)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("deb http://m.invalid/debian bookworm main contrib", ["http://m.invalid/debian"]),
        ("deb [arch=amd64] https://m.invalid/d trixie main", ["https://m.invalid/d"]),
        ("  deb  http://m.invalid/debian  sid  main # x", ["http://m.invalid/debian"]),
        ("# deb http://m.invalid/debian bookworm main", []),
        ("deb-src http://m.invalid/debian bookworm main", []),
        ("deb http://m.invalid/debian-security bookworm-security main", []),
        ("deb http://m.invalid/debian bookworm contrib", []),
        ("deb cdrom:[Debian 12]/ bookworm main", []),
        ("deb file:///srv/debian bookworm main", []),
        ("deb http://ports.invalid/ubuntu jammy main universe", []),
        ("deb", []),
        ("deb http://m.invalid/debian", []),
    ],
)
def test_one_line(tmp_path: Path, line: str, found: list[str]) -> None:
    assert uris(machine(tmp_path, {"etc/apt/sources.list": f"{line}\n"})) == found


def test_order_and_doubles(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "etc/apt/sources.list": "deb http://a.invalid/debian bookworm main\n",
            "etc/apt/sources.list.d/b.list": "deb http://b.invalid/debian bookworm main\n"
            "deb http://a.invalid/debian/ trixie main\n",
            "etc/apt/sources.list.d/c.list.disabled": "deb http://c.invalid/d bookworm main\n",
        },
    )
    assert uris(root) == ["http://a.invalid/debian", "http://b.invalid/debian"]


@pytest.mark.parametrize("word", ["no", "False", "0"])
def test_a_disabled_stanza_is_passed_over(tmp_path: Path, word: str) -> None:
    text = DEB822.replace("Types: deb deb-src", f"Enabled: {word}\nTypes: deb")
    assert uris(machine(tmp_path, {"etc/apt/sources.list.d/debian.sources": text})) == []


def test_a_list_of_mirrors_in_a_file(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "etc/apt/sources.list.d/debian.sources": DEB822.replace(
                "http://mirror.invalid/debian/", "mirror+file:///etc/apt/mirrors/debian.list"
            ),
            "etc/apt/mirrors/debian.list": "http://m.invalid/debian\tpriority:1\n\n",
        },
    )
    assert uris(root) == ["http://m.invalid/debian"]


def test_a_debian_newer_than_this_program(tmp_path: Path) -> None:
    files = {
        "etc/apt/sources.list": "deb http://m.invalid/debian zurg main\n",
        "etc/os-release": 'ID=debian\nVERSION_CODENAME="zurg"\n',
    }
    assert uris(machine(tmp_path, files)) == ["http://m.invalid/debian"]
    files["etc/os-release"] = "ID=ubuntu\nVERSION_CODENAME=zurg\n"
    assert uris(machine(tmp_path / "other", files)) == []


def test_a_signing_key_that_is_not_there_is_replaced_by_the_archive_keys(tmp_path: Path) -> None:
    line = "deb [signed-by=/etc/apt/keyrings/own.gpg] http://m.invalid/debian bookworm main\n"
    root = machine(tmp_path, {"etc/apt/sources.list": line})
    assert find_mirrors(root)[0].keyrings == (root / KEYRING,)
    (root / "etc/apt/keyrings").mkdir()
    (root / "etc/apt/keyrings/own.gpg").touch()
    assert find_mirrors(root)[0].keyrings == (root / "etc/apt/keyrings/own.gpg",)


def test_without_archive_keys_there_are_none(tmp_path: Path) -> None:
    root = machine(tmp_path, {"etc/apt/sources.list.d/debian.sources": DEB822}, keyring=False)
    assert find_mirrors(root)[0].keyrings == ()
    key = root / "etc/apt/trusted.gpg.d/debian-archive-bullseye-automatic.gpg"
    key.parent.mkdir()
    key.touch()
    assert default_keyrings(root) == (key,)


def test_a_machine_without_apt(tmp_path: Path) -> None:
    assert find_mirrors(tmp_path) == []


@pytest.mark.parametrize(
    "uri",
    ["ftp://m/d", "http://m/d d", 'http://m/"', "http://m/d\nSuites: evil", "http://", "m/d"],
)
def test_invalid_web_addresses(uri: str) -> None:
    assert not is_web_address(uri)


@given(
    st.text(
        alphabet="deb [signedby=/]:#\n\tTypesURIsSuitesComponentsmainbookwormhttp.", max_size=400
    )
)
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    files = {"etc/apt/sources.list": text, "etc/apt/sources.list.d/x.sources": text}
    for mirror in find_mirrors(machine(tmp_path_factory.mktemp("apt"), files)):
        assert is_web_address(mirror.uri)

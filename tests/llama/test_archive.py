"""Other people's archives: accepted ones, and everything that must be refused."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.install.archive import ArchiveLimits, unpack_archive
from tests.llama.release_server import good_tar, good_zip, member, tar


def unpack(tmp_path: Path, content: bytes, limits: ArchiveLimits | None = None) -> Path:
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    folder = tmp_path / "outer" / "folder"
    folder.mkdir(parents=True)
    unpack_archive(archive, folder, limits=limits)
    return folder


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
def test_a_good_tar(tmp_path: Path, mode: str) -> None:
    folder = unpack(tmp_path, good_tar(mode=mode)) / "llama-b6543"
    assert (folder / "llama-server").stat().st_mode & 0o777 == 0o755
    assert (folder / "libllama.so").readlink() == Path("libllama.so.0")
    assert (folder / "libllama.so").read_bytes() == b"library"


def test_a_good_zip(tmp_path: Path) -> None:
    folder = unpack(tmp_path, good_zip()) / "build" / "bin"
    assert (folder / "llama-server").stat().st_mode & 0o111
    assert not (folder / "libllama.so.0").stat().st_mode & 0o111
    assert (folder / "libllama.so").read_bytes() == b"library"


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "parent": [member("../escaped", b"x")],
    "parent within": [member("a/../../escaped", b"x")],
    "parent that stays inside": [member("a/../escaped", b"x")],
    "absolute": [member("/tmp/escaped-from-archive", b"x")],
    "absolute link": [member("link", kind=SYM, to="/etc/passwd")],
    "link out": [member("a/link", kind=SYM, to="../../escaped")],
    "link to a folder of the machine": [member("link", kind=SYM, to="../../../../tmp")],
    "write through a link": [
        member("link", kind=SYM, to="folder"),
        member("link/escaped", b"x"),
    ],
    "link to nothing": [member("link", kind=SYM, to="missing")],
    "link to a folder": [
        member("sub/", kind=tarfile.DIRTYPE, mode=0o755),
        member("link", kind=SYM, to="sub"),
    ],
    "hard link": [member("file", b"x"), member("link", kind=HARD, to="file")],
    "hard link out": [member("link", kind=HARD, to="/etc/passwd")],
    "character device": [member("device", kind=tarfile.CHRTYPE)],
    "block device": [member("device", kind=tarfile.BLKTYPE)],
    "pipe": [member("pipe", kind=tarfile.FIFOTYPE)],
    "same file twice": [member("file", b"x"), member("file", b"y")],
    "file over a link": [member("f", b"x"), member("l", kind=SYM, to="f"), member("l", b"y")],
    "backslash": [member("..\\escaped", b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InstallError):
        unpack(tmp_path, tar(*HOSTILE[name]))
    outside = {path for path in tmp_path.rglob("*escaped*") if "folder" not in path.parts}
    assert not outside
    assert not Path("/tmp/escaped-from-archive").exists()
    for path in tmp_path.rglob("*"):
        assert path.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    "name",
    sorted(HOSTILE.keys() - {"link to nothing", "link to a folder", "write through a link"}),
)
def test_sources_may_not_lead_outside_either(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(tar(*HOSTILE[name]))
    folder = tmp_path / "outer" / "folder"
    folder.mkdir(parents=True)
    with pytest.raises(InstallError):
        unpack_archive(archive, folder, sources=True)
    assert not {path for path in tmp_path.rglob("*escaped*") if "folder" not in path.parts}


def test_links_in_sources(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(
        tar(
            member("sub/file", b"x"),
            member("folder", kind=SYM, to="sub"),
            member("nowhere", kind=SYM, to="missing"),
            member("same", kind=SYM, to="sub/file"),
        )
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    unpack_archive(archive, folder, sources=True)
    assert (folder / "folder" / "file").read_bytes() == b"x"
    assert (folder / "same").read_bytes() == b"x"
    assert not (folder / "nowhere").is_symlink()


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped"])
def test_hostile_zips_are_refused(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InstallError, match="outside"):
        unpack(tmp_path, buffer.getvalue())
    assert not list(tmp_path.rglob("escaped"))


def test_a_zip_entry_without_a_name_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("x"), b"x")
    # Both in its own header and in the directory: a length of 0 in place of the name.
    content = buffer.getvalue().replace(b"\x01\x00\x00\x00x", b"\x00\x00\x01\x00x")
    content = content.replace(b"\x01\x00\x00\x00\x00\x00", b"\x00\x00\x01\x00\x00\x00")
    with pytest.raises(InstallError, match="no name"):
        unpack(tmp_path, content)


def test_a_zip_link_out_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "../../etc/passwd")
    with pytest.raises(InstallError, match="outside"):
        unpack(tmp_path, buffer.getvalue())


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_more_than_allowed_is_refused_early(tmp_path: Path, kind: str) -> None:
    limits = ArchiveLimits(size=1 << 20, count=10)
    bomb = bytes(64 << 20)
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("bomb", bomb)
    else:
        buffer.write(tar(member("bomb", bomb)))
    assert len(buffer.getvalue()) < 1 << 20
    with pytest.raises(InstallError, match="larger"):
        unpack(tmp_path, buffer.getvalue(), limits)
    assert sum(path.stat().st_size for path in (tmp_path / "outer").rglob("bomb")) <= 1 << 20


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    info, content = member("././@PaxHeader", bytes(64 << 20), kind=tarfile.XHDTYPE)
    with pytest.raises(InstallError):
        unpack(tmp_path, tar((info, content)), ArchiveLimits(size=1 << 20))


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="entries"):
        unpack(tmp_path, tar(*(member(f"f{n}") for n in range(11))), ArchiveLimits(count=10))


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", good_tar()[:200], good_zip()[:100]],
    # Not their bytes: a tar.gz contains its time of creation.
    ids=["empty", "text", "tar", "zip"],
)
def test_damaged_archives_are_one_plain_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InstallError):
        unpack(tmp_path, content)


@given(st.data())
def test_whatever_is_damaged_there_is_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = data.draw(st.sampled_from([good_tar(), good_tar(mode="w"), good_zip()]))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    tmp_path = tmp_path_factory.mktemp("fuzz")
    with contextlib.suppress(InstallError):
        unpack(tmp_path, bytes(damaged))
    for path in tmp_path.rglob("*"):
        assert path.resolve().is_relative_to(tmp_path.resolve())

"""Installing from releases, with a local server in place of GitHub."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.errors import ConflictError, InstallError
from cyber_inference_tui.llama.install.archive import ArchiveLimits
from cyber_inference_tui.llama.install.github import GithubSource
from cyber_inference_tui.llama.install.hardware import Platform, asset_patterns
from cyber_inference_tui.llama.install.layout import Layout, update_of
from tests.llama.install_stand_ins import X64, Steps, github, installer
from tests.llama.release_server import SCRIPT, ReleaseServer, good_tar, good_zip, member, tar
from tests.llama.test_archive import HOSTILE

NAME = "llama-b6543-bin-ubuntu-x64.tar.gz"
DOES_NOT_RUN = b"#!/bin/sh\necho \"libc.so.6: version 'GLIBC_2.99' not found\" >&2\nexit 1\n"


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as started:
        yield started


def test_installs_checks_and_swaps(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    steps = Steps()
    record = installer(tmp_path, lambda: github(server), progress=steps).install(
        version=None, force=False, keep_any=True
    )
    assert (record.version, record.source, record.installed) == ("b6543", "github", True)
    assert record.devices == ("Vulkan0: NVIDIA Thing (8000 MiB)",)
    assert steps.last == (len(good_tar()), len(good_tar()))
    folder = tmp_path / "data" / "llama"
    assert (folder / "current").readlink() == Path("github-b6543")
    program = folder / "current" / "bin" / "llama-server"
    assert str(program.resolve()) == record.path
    assert (program.resolve().parent / "libllama.so").read_bytes() == b"library"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("current", "github-b6543", "install.lock", "newest.json", "probe.json"),
    ]


def test_an_existing_server_is_kept(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    installing = installer(tmp_path, lambda: github(server))
    installing.install(version=None, force=False, keep_any=True)
    asked = len(server.asked)
    assert not installing.install(version=None, force=False, keep_any=True).installed
    assert len(server.asked) == asked
    assert not installing.install(version=None, force=False, keep_any=False).installed
    assert len(server.asked) == asked + 1
    assert not installing.install(version="b6543", force=False, keep_any=True).installed


def test_only_the_previous_build_is_kept(server: ReleaseServer, tmp_path: Path) -> None:
    installing = installer(tmp_path, lambda: github(server))
    for number in (1, 2, 3):
        server.add(f"b{number}", f"llama-b{number}-bin-ubuntu-x64.tar.gz", good_tar())
        installing.install(version=None, force=False, keep_any=False)
    folder = tmp_path / "data" / "llama"
    assert sorted(p.name for p in folder.glob("github-*")) == ["github-b2", "github-b3"]
    current = Layout(tmp_path / "data").current()
    assert current is not None
    assert (current.version, current.previous) == ("b3", "github-b2")


def test_force_never_writes_into_the_folder_in_use(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    installing = installer(tmp_path, lambda: github(server))
    first = installing.install(version=None, force=False, keep_any=True)
    second = installing.install(version=None, force=True, keep_any=True)
    assert second.installed
    assert second.path != first.path
    assert Path(first.path).is_file()


def test_a_version_by_tag_or_number(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b1", "llama-b1-bin-ubuntu-x64.zip", good_zip())
    server.add("b6543", NAME, good_tar())
    installing = installer(tmp_path, lambda: github(server))
    assert installing.install(version="1", force=False, keep_any=True).version == "b1"
    assert installing.install(version="b6543", force=False, keep_any=True).version == "b6543"
    with pytest.raises(InstallError, match="no such release"):
        installing.install(version="b999", force=False, keep_any=True)
    with pytest.raises(InstallError, match="not the name"):
        installing.install(version="../../x", force=False, keep_any=True)


def test_a_release_that_is_still_being_built_is_passed_over(
    server: ReleaseServer, tmp_path: Path
) -> None:
    server.add("b6543", NAME, good_tar())
    server.add("b6544", "llama-b6544-bin-macos-arm64.zip", good_zip())
    server.add(
        "b6545",
        "llama-b6545-bin-ubuntu-x64.tar.gz",
        good_tar(),
        change=lambda asset: asset.update(state="starter"),
    )
    record = installer(tmp_path, lambda: github(server)).install(
        version=None, force=False, keep_any=True
    )
    assert record.version == "b6543"


def test_check_compares(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    installing = installer(tmp_path, lambda: github(server))
    before = installing.check()
    assert (before.installed, before.newest.version, before.up_to_date) == (None, "b6543", None)
    installing.install(version=None, force=False, keep_any=True)
    assert installing.check().up_to_date is True
    server.add("b6600", "llama-b6600-bin-ubuntu-x64.tar.gz", good_tar())
    after = installing.check()
    assert after.installed is not None
    assert (after.installed.version, after.newest.version) == ("b6543", "b6600")
    assert after.up_to_date is False


def digest(value: object) -> Any:
    return lambda asset: asset.update(digest=value)


def size(value: int) -> Any:
    return lambda asset: asset.update(size=value)


WRONG = {
    "no digest": (good_tar(), digest(None), "no SHA-256"),
    "another kind of digest": (good_tar(), digest("md5:" + "0" * 32), "no SHA-256"),
    "another digest": (good_tar(), digest("sha256:" + "0" * 64), "digest"),
    "shorter than announced": (good_tar(), size(len(good_tar()) + 1), "ended after"),
    "longer than announced": (good_tar(), size(len(good_tar()) - 1), "longer"),
    "absurdly large": (good_tar(), size(1 << 40), "refused"),
    "empty": (b"", size(0), "refused"),
    "damaged": (good_tar()[:-100], lambda asset: None, "damaged"),
    "not an archive": (b"hello", lambda asset: None, "damaged"),
    "without the program": (tar(member("file", b"x")), lambda asset: None, "holds no llama"),
    "leading outside": (tar(member("../x", b"x")), lambda asset: None, "outside"),
    "not running": (good_tar(DOES_NOT_RUN), lambda asset: None, r"GLIBC_2\.99"),
    "not running at all": (good_tar(b"\x7fELFx"), lambda asset: None, "not run here"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_asset_is_refused_and_the_old_build_stays(
    server: ReleaseServer, tmp_path: Path, name: str
) -> None:
    content, change, words = WRONG[name]
    server.add("b1", "llama-b1-bin-ubuntu-x64.tar.gz", good_tar())
    installing = installer(tmp_path, lambda: github(server))
    old = installing.install(version=None, force=False, keep_any=True)
    server.add("b6543", NAME, content, change=change)
    with pytest.raises(InstallError, match=words):
        installing.install(version=None, force=True, keep_any=False)
    now = installing.in_use()
    assert now is not None
    assert (now.path, now.version) == (old.path, "b1")
    folder = tmp_path / "data" / "llama"
    assert {path.name for path in folder.iterdir()} == {
        *("current", "github-b1", "install.lock", "newest.json", "probe.json"),
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_with_the_right_digest_gets_nowhere(
    server: ReleaseServer, tmp_path: Path, name: str
) -> None:
    program = member("llama-b6543/llama-server", SCRIPT, mode=0o755)
    server.add("b6543", NAME, tar(program, *HOSTILE[name]))
    with pytest.raises(InstallError):
        installer(tmp_path, lambda: github(server)).install(
            version=None, force=False, keep_any=True
        )
    left = {path.name for path in (tmp_path / "data" / "llama").iterdir()}
    assert left == {"install.lock", "newest.json"}
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/tmp/escaped-from-archive").exists()


def keeping(server: ReleaseServer, tmp_path: Path) -> GithubSource:
    folder = tmp_path / "data" / "llama"
    return GithubSource(gpu=False, target=X64, api=server.url, download=server.url, keep=folder)


DOWNLOAD = f"/ggml-org/llama.cpp/releases/download/b6543/{NAME}"


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "llama").glob(".download-*"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_followed_by_the_next(
    server: ReleaseServer, tmp_path: Path, ranges: bool
) -> None:
    server.ranges = ranges
    server.add("b6543", NAME, good_tar())
    server.cuts[DOWNLOAD] = [100, 50]
    record = installer(tmp_path, lambda: keeping(server, tmp_path)).install(
        version=None, force=False, keep_any=True
    )
    assert record.installed
    assert server.parts[:2] == ([100, 150] if ranges else [])
    assert kept(tmp_path) == []


def test_an_interrupted_download_is_resumed(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    server.cuts[DOWNLOAD] = [100, 0, 0, 0, 0]
    installing = installer(tmp_path, lambda: keeping(server, tmp_path))
    with pytest.raises(InstallError):
        installing.install(version=None, force=False, keep_any=True)
    assert [path.stat().st_size for path in kept(tmp_path)] == [100]
    record = installing.install(version=None, force=False, keep_any=True)
    assert record.installed
    assert server.parts == [100] * 5
    assert kept(tmp_path) == []


def test_a_server_that_always_breaks_off_is_given_up(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    server.cuts[DOWNLOAD] = [10] * 100
    with pytest.raises(InstallError, match="cannot be reached"):
        installer(tmp_path, lambda: keeping(server, tmp_path)).install(
            version=None, force=False, keep_any=True
        )
    assert len(server.cuts[DOWNLOAD]) > 90


def test_more_than_the_file_has_is_not_taken_for_it(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    folder = tmp_path / "data" / "llama"
    folder.mkdir(parents=True)
    (folder / f".download-{NAME}").write_bytes(good_tar() + b"x")
    installing = installer(tmp_path, lambda: keeping(server, tmp_path))
    assert installing.install(version=None, force=False, keep_any=True).installed


def test_an_end_in_the_very_last_step_leaves_a_build_in_use(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during the removal of older builds."""
    server.add("b6543", NAME, good_tar())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            installer(tmp_path, lambda: github(server)).install(
                version=None, force=False, keep_any=True
            )
    in_use = installer(tmp_path, lambda: github(server)).in_use()
    assert in_use is not None
    assert in_use.version == "b6543"


def test_a_wrong_partial_download_is_deleted(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    folder = tmp_path / "data" / "llama"
    folder.mkdir(parents=True)
    (folder / f".download-{NAME}").write_bytes(b"x" * 50)
    (folder / ".download-of-another-release.tar.gz").write_bytes(b"x")
    installing = installer(tmp_path, lambda: keeping(server, tmp_path))
    with pytest.raises(InstallError, match="digest"):
        installing.install(version=None, force=False, keep_any=True)
    assert kept(tmp_path) == []
    assert installing.install(version=None, force=False, keep_any=True).installed


def test_a_server_that_gives_another_part(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    path = f"/ggml-org/llama.cpp/releases/download/b6543/{NAME}"
    server.answers[path] = (206, {"Content-Range": "bytes 0-9/10"}, b"0123456789")
    folder = tmp_path / "data" / "llama"
    folder.mkdir(parents=True)
    (folder / f".download-{NAME}").write_bytes(good_tar()[:50])
    with pytest.raises(InstallError, match="another part"):
        installer(tmp_path, lambda: keeping(server, tmp_path)).install(
            version=None, force=False, keep_any=True
        )


def test_rolling_back_and_forth(server: ReleaseServer, tmp_path: Path) -> None:
    installing = installer(tmp_path, lambda: github(server))
    with pytest.raises(InstallError, match="No earlier"):
        installing.rollback()
    for tag in ("b1", "b6543"):
        server.add(tag, f"llama-{tag}-bin-ubuntu-x64.tar.gz", good_tar())
        installing.install(version=None, force=False, keep_any=False)
    for tag in ("b1", "b6543", "b1"):
        assert installing.rollback().version == tag
        now = installing.in_use()
        assert now is not None
        assert now.version == tag
    # A later update keeps the build that it replaces.
    server.add("b7000", "llama-b7000-bin-ubuntu-x64.tar.gz", good_tar())
    installing.install(version=None, force=False, keep_any=False)
    assert installing.rollback().version == "b1"


def test_an_earlier_build_that_does_not_run_any_more_is_not_taken(
    server: ReleaseServer, tmp_path: Path
) -> None:
    installing = installer(tmp_path, lambda: github(server))
    for tag in ("b1", "b6543"):
        server.add(tag, f"llama-{tag}-bin-ubuntu-x64.tar.gz", good_tar())
        installing.install(version=None, force=False, keep_any=False)
    (tmp_path / "data/llama/github-b1/lib/llama-server").write_bytes(DOES_NOT_RUN)
    with pytest.raises(InstallError, match="does not run"):
        installing.rollback()
    now = installing.in_use()
    assert now is not None
    assert now.version == "b6543"


def test_an_update_is_known_after_a_look(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    layout = Layout(tmp_path / "data")
    installing = installer(tmp_path, lambda: github(server))
    installing.install(version=None, force=False, keep_any=True)
    assert update_of(layout.current(), layout.newest()) is None
    server.add("b6600", "llama-b6600-bin-ubuntu-x64.tar.gz", good_tar())
    installing.check()
    assert update_of(layout.current(), layout.newest()) == "b6600"
    installing.install(version=None, force=False, keep_any=False)
    assert update_of(layout.current(), layout.newest()) is None
    assert update_of(None, layout.newest()) is None


def test_an_unpacked_size_beyond_the_limit_is_refused(
    server: ReleaseServer, tmp_path: Path
) -> None:
    server.add("b6543", NAME, good_tar(SCRIPT + bytes(2 << 20)))

    def source() -> GithubSource:
        return GithubSource(
            gpu=False,
            target=X64,
            api=server.url,
            download=server.url,
            limits=ArchiveLimits(size=1 << 20),
        )

    with pytest.raises(InstallError, match="larger"):
        installer(tmp_path, source).install(version=None, force=False, keep_any=True)


RELEASES = "/repos/ggml-org/llama.cpp/releases"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {}, b"<html>"), "other than a list of releases"),
        ((200, {}, b'[{"tag_name": 5}]'), "other than a list of releases"),
        ((200, {}, b"[]"), "no build"),
        ((200, {}, b'[{"tag_name": "../../evil", "assets": []}]'), "no build"),
        ((500, {}, b""), "status 500"),
        ((403, {"x-ratelimit-remaining": "0"}, b""), "no more requests"),
        ((200, {"Content-Length": "999"}, b"[]"), "cannot be reached"),
        ((302, {"Location": RELEASES}, b""), "cannot be reached"),
    ],
)
def test_an_api_that_answers_oddly(
    server: ReleaseServer,
    tmp_path: Path,
    answer: tuple[int, dict[str, str], bytes],
    words: str,
) -> None:
    server.answers[RELEASES] = answer
    with pytest.raises(InstallError, match=words):
        installer(tmp_path, lambda: github(server)).install(
            version=None, force=False, keep_any=True
        )


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(InstallError, match="cannot be reached"):
            installer(
                tmp_path, lambda: GithubSource(gpu=False, target=X64, api=url, download=url)
            ).install(version=None, force=False, keep_any=True)


def test_a_socks_proxy_is_one_sentence(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(InstallError, match=r"SOCKS proxies are not supported\. Set an HTTP proxy"):
        installer(tmp_path, lambda: github(server)).install(
            version=None, force=False, keep_any=True
        )


def test_a_second_install_at_the_same_time_is_refused(
    server: ReleaseServer, tmp_path: Path
) -> None:
    server.add("b6543", NAME, good_tar())
    with Layout(tmp_path / "data").locked(), pytest.raises(ConflictError, match="Another"):
        installer(tmp_path, lambda: github(server)).install(
            version=None, force=False, keep_any=True
        )


def test_remains_of_a_killed_install_are_deleted(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    folder = tmp_path / "data" / "llama"
    (folder / ".staging-abc" / "lib").mkdir(parents=True)
    (folder / "github-b1" / "bin").mkdir(parents=True)
    (folder / "github-b1" / "bin" / "llama-server").symlink_to("../lib/llama-server")
    (folder / "mine").mkdir()
    installer(tmp_path, lambda: github(server)).install(version=None, force=False, keep_any=True)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        *("current", "github-b6543", "mine"),
    }


def test_the_next_source_takes_over(server: ReleaseServer, tmp_path: Path) -> None:
    with ReleaseServer() as other:
        other.add("b6543", NAME, good_tar())
        server.add("b7000", "llama-b7000-bin-ubuntu-x64.tar.gz", good_tar(DOES_NOT_RUN))
        steps = Steps()
        record = installer(
            tmp_path, lambda: github(server), lambda: github(other), progress=steps
        ).install(version=None, force=False, keep_any=True)
    assert record.version == "b6543"
    assert any("GLIBC_2.99" in step for step in steps.steps)


def test_all_reasons_are_reported_when_no_source_helps(
    server: ReleaseServer, tmp_path: Path
) -> None:
    server.answers[RELEASES] = (500, {}, b"")
    with ReleaseServer() as other:
        other.add("b1", "llama-b1-bin-ubuntu-x64.tar.gz", good_tar(DOES_NOT_RUN))
        other_source = github(other)
        other_source.name = "other"
        with pytest.raises(InstallError, match=r"status 500.*GLIBC_2\.99.*--from source"):
            installer(tmp_path, lambda: github(server), lambda: other_source).install(
                version=None, force=False, keep_any=True
            )


def test_the_plain_build_follows_a_gpu_build_that_does_not_run(
    server: ReleaseServer, tmp_path: Path
) -> None:
    server.add("b6543", NAME, good_tar())
    server.add("b6543", "llama-b6543-bin-ubuntu-vulkan-x64.tar.gz", good_tar(DOES_NOT_RUN))
    record = installer(
        tmp_path, lambda: github(server, gpu=True), lambda: github(server, gpu=False)
    ).install(version=None, force=False, keep_any=True)
    assert record.version == "b6543"
    downloads = [path for path in server.asked if "/download/" in path]
    assert ["vulkan" in path for path in downloads] == [True, False]


def test_a_gpu_that_the_build_does_not_list_is_said(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    root = tmp_path / "machine"
    (root / "dev").mkdir(parents=True)
    for device in ("nvidia0", "kfd"):
        (root / "dev" / device).touch()
    record = installer(tmp_path, lambda: github(server), root=root).install(
        version=None, force=False, keep_any=True
    )
    [warning] = record.warnings
    assert "AMD GPU" in warning


def test_a_setting_that_goes_before_is_said(server: ReleaseServer, tmp_path: Path) -> None:
    server.add("b6543", NAME, good_tar())
    record = installer(tmp_path, lambda: github(server), setting="/no/such").install(
        version=None, force=False, keep_any=True
    )
    [warning] = record.warnings
    assert "llama_server_path" in warning


REAL_NAMES = [
    "llama-b6543-bin-macos-arm64.zip",
    "llama-b6543-bin-macos-x64.tar.gz",
    "llama-b6543-bin-ubuntu-arm64.tar.gz",
    "llama-b6543-bin-ubuntu-s390x.tar.gz",
    "llama-b6543-bin-ubuntu-vulkan-arm64.tar.gz",
    "llama-b6543-bin-ubuntu-vulkan-x64.tar.gz",
    "llama-b6543-bin-ubuntu-rocm-7.2-x64.tar.gz",
    "llama-b6543-bin-ubuntu-x64.tar.gz",
    "llama-b6543-bin-win-cuda-12.4-x64.zip",
    "llama-b6543-xcframework.tar.gz",
    "cudart-llama-bin-win-cuda-12.4-x64.zip",
]


@pytest.mark.parametrize(
    ("target", "gpu", "chosen"),
    [
        (("Linux", "x86_64"), False, ["ubuntu-x64"]),
        (("Linux", "x86_64"), True, ["ubuntu-vulkan-x64", "ubuntu-x64"]),
        (("Linux", "aarch64"), True, ["ubuntu-vulkan-arm64", "ubuntu-arm64"]),
        (("Darwin", "arm64"), True, ["macos-arm64"]),
        (("Darwin", "x86_64"), False, ["macos-x64"]),
        (("Linux", "riscv64"), False, []),
        (("FreeBSD", "amd64"), False, []),
    ],
)
def test_assets_by_name(target: tuple[str, str], gpu: bool, chosen: list[str]) -> None:
    found = [
        name
        for pattern in asset_patterns(Platform(*target), gpu=gpu)
        for name in REAL_NAMES
        if pattern.match(name)
    ]
    names = [name.split("-bin-")[1].split(".")[0] for name in found]
    assert names == chosen

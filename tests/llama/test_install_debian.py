"""Installing from Debian's packages: with the real archive if this machine's apt has a mirror."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.binary import probe
from cyber_inference_tui.llama.install.apt import PrivateApt
from cyber_inference_tui.llama.install.apt_sources import Mirror, find_mirrors
from cyber_inference_tui.llama.install.debian import DebianSource
from cyber_inference_tui.llama.install.layout import Layout
from cyber_inference_tui.llama.worker import examine_worker
from tests.llama.demo import write_demo
from tests.llama.install_stand_ins import Steps, installer
from tests.llama.release_server import ReleaseServer

ROOT = Path("/")
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")


def source(tmp_path: Path, *, mirror: str | None = None, root: Path = ROOT) -> DebianSource:
    return DebianSource(
        work=Layout(tmp_path / "data").scratch("apt"),
        root=root,
        environ=os.environ,
        mirror=mirror,
    )


def refusal(tmp_path: Path, made: DebianSource) -> str:
    with pytest.raises(InstallError) as caught:
        installer(tmp_path, lambda: made).install(version=None, force=False, keep_any=True)
    assert not (tmp_path / "data" / "llama" / "current").exists()
    assert not list((tmp_path / "data" / "llama").glob(".staging*"))
    return str(caught.value)


@pytest.mark.real
@needs_apt
@pytest.mark.skipif(not find_mirrors(ROOT), reason="this machine's apt has no Debian mirror")
def test_the_packages_become_a_server_that_answers(tmp_path: Path) -> None:
    lists = Path("/var/lib/apt/lists")
    before = sorted(lists.iterdir()) if lists.is_dir() else []
    steps = Steps()
    record = installer(tmp_path, lambda: source(tmp_path), progress=steps).install(
        version=None, force=False, keep_any=True
    )
    assert (record.source, record.installed) == ("debian", True)
    assert sorted(lists.iterdir()) == before if lists.is_dir() else not before
    folder = tmp_path / "data" / "llama"
    assert not list(folder.glob(".staging*"))
    assert (folder / "current").readlink() == Path(f"debian-{record.version}")
    binary = probe(Path(record.path), data_dir=tmp_path / "data", environ=os.environ)
    assert binary.build is not None
    assert binary.router_child
    assert "--cache-ram" in binary.flags
    # The RPC backend, and the worker for models of other boxes.
    assert "--rpc" in binary.flags
    worker = examine_worker(binary, os.environ)
    assert worker.program == Path(record.path).with_name("ggml-rpc-server")
    assert worker.protocol

    model = tmp_path / "demo.gguf"
    write_demo(model)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [record.path, "-m", str(model), "--host", "127.0.0.1", "--port", "0", "-c", "256"],
            stdout=log,
            stderr=subprocess.STDOUT,
            # The system's own libraries must not get mixed in.
            env={**os.environ, "LD_LIBRARY_PATH": "/lib:/usr/lib:/lib/x86_64-linux-gnu"},
        )
    try:
        libraries = loaded_libraries(server, tmp_path / "log")
        assert libraries
        assert all(path.startswith(str(folder)) for path in libraries)
        assert any("libggml-cpu" in path for path in libraries)
    finally:
        server.kill()
        server.wait()


def loaded_libraries(server: subprocess.Popen[bytes], log: Path) -> set[str]:
    """Return the shared objects of a server that answered a chat."""
    url = ""
    while not url:
        assert server.poll() is None, log.read_text()
        found = re.search(r"listening on (http://[\d.]+:[1-9]\d*)", log.read_text())
        url = found[1] if found else ""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(
            {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        ).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["choices"][0]["message"]["content"].strip()
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    return set(re.findall(r"(/\S+\.so[.\d]*)$", maps, re.MULTILINE))


def write_keyring(root: Path) -> None:
    keyring = root / "usr/share/keyrings/debian-archive-keyring.gpg"
    keyring.parent.mkdir(parents=True)
    keyring.touch()


@needs_apt
def test_another_version_than_the_archive_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an archive: apt takes five seconds to read its lists."""
    write_keyring(tmp_path)
    monkeypatch.setattr(PrivateApt, "update", lambda self: None)
    monkeypatch.setattr(PrivateApt, "candidate", lambda self, package: "1:5882+dfsg-2")
    made = source(tmp_path, mirror="http://m.invalid/debian", root=tmp_path)
    for version in (None, "1:5882+dfsg-2", "5882+dfsg-2", "5882"):
        assert made.offer(version, Steps()).version == "5882+dfsg-2"
    with pytest.raises(InstallError, match=r"has llama\.cpp-tools 5882\+dfsg-2, not b6543"):
        made.offer("b6543", Steps())


def test_a_machine_without_a_mirror_gets_a_hint(tmp_path: Path) -> None:
    assert "--mirror URL" in refusal(tmp_path, source(tmp_path, root=tmp_path))


def test_macos_is_sent_to_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    message = refusal(tmp_path, source(tmp_path, mirror="http://127.0.0.1:1/debian"))
    assert message.startswith("Debian's packages run on Linux only. ")
    assert "--from github" in message


def test_invalid_mirrors(tmp_path: Path) -> None:
    assert "not a web address" in refusal(tmp_path, source(tmp_path, mirror="file:///srv"))


@needs_apt
def test_without_debians_keys_nothing_is_taken(tmp_path: Path) -> None:
    with ReleaseServer() as server:
        text = refusal(tmp_path, source(tmp_path, mirror=server.url, root=tmp_path))
        assert not server.asked
    assert "debian-archive-keyring" in text


@needs_apt
@pytest.mark.parametrize("signed", ["not at all", "wrongly"])
def test_a_mirror_that_is_not_signed_by_debian(tmp_path: Path, signed: str) -> None:
    write_keyring(tmp_path)
    release = b"Origin: Debian\nSuite: unstable\nCodename: sid\nArchitectures: amd64 arm64\n"
    with ReleaseServer() as server:
        path = "/dists/unstable/"
        if signed == "wrongly":
            text = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + release
            text += b"-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n"
            server.files[f"{path}InRelease"] = text
        else:
            server.files[f"{path}Release"] = release
        refusal(tmp_path, source(tmp_path, mirror=server.url, root=tmp_path))
        assert server.asked
        assert not any("Packages" in asked for asked in server.asked)


@needs_apt
def test_settings_that_weaken_signatures_are_not_copied(tmp_path: Path) -> None:
    own = tmp_path / "own.conf"
    own.write_text(
        'Acquire::AllowInsecureRepositories "true";\n'
        'Acquire::http::Proxy "http://proxy.invalid:3128";\n'
        'APT::Get::AllowUnauthenticated "true";\n'
    )
    (tmp_path / "key").touch()
    (tmp_path / "apt").mkdir()
    PrivateApt(
        tmp_path / "apt",
        mirror=Mirror(uri="http://m.invalid/debian", keyrings=(tmp_path / "key",)),
        suite="unstable",
        environ={"PATH": os.environ["PATH"], "APT_CONFIG": str(own)},
    )
    text = (tmp_path / "apt" / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.invalid:3128";' in text
    assert "true" not in [line.split('"')[1] for line in text.splitlines() if "Allow" in line]


@needs_apt
def test_a_folder_that_apt_could_misread(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="with this name"):
        PrivateApt(
            tmp_path / 'a"b',
            mirror=Mirror(uri="http://m.invalid/debian", keyrings=(tmp_path,)),
            suite="unstable",
            environ=os.environ,
        )

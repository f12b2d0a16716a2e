"""Installs a llama-server: tries the sources in turn, checks the build, and puts it in use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cyber_inference_tui.errors import (
    CyberError,
    InstallError,
    NoLlamaServerError,
    UnusableBuildError,
)
from cyber_inference_tui.llama.binary import (
    PROGRAM,
    ask_program,
    find_llama_server,
    listed_devices,
    probe,
)
from cyber_inference_tui.llama.install.build_source import BuildSource, Offer, Progress
from cyber_inference_tui.llama.install.hardware import Gpu, gpus, unused_gpus
from cyber_inference_tui.llama.install.layout import Installed, Layout, Newest
from cyber_inference_tui.llama.install.report import BuildName, CheckResult, InstallResult
from cyber_inference_tui.text import clean_line

MakeSource = Callable[[], BuildSource]

_TROUBLE = re.compile(r"\b(?:fail|error|insufficient|unsupported|no CUDA)", re.IGNORECASE)
_BUILD_ONE = (
    "`cyber-inference-tui install-llama --from source` builds one that uses it, if CUDA's "
    "compiler is installed."
)
_GPU_WAY_OUT = {
    Gpu.NVIDIA: _BUILD_ONE,
    Gpu.JETSON: _BUILD_ONE,
    Gpu.AMD: "Install a Vulkan driver (`sudo apt-get install -y mesa-vulkan-drivers libvulkan1`) "
    "and try again with --force.",
    Gpu.APPLE: "`cyber-inference-tui install-llama --from github --force` gets one that uses it.",
}
_DEVICE_NAMES = {"Metal": ("Metal", "MTL")}
"""Names of a backend's devices that differ from its own name: older and newer builds of
llama.cpp's ``ggml-metal``."""


class Installer:
    """Installs into ``data_dir``. ``setting`` is ``llama_server_path``. Everything blocks.

    ``sources`` are tried in order until one gives a build that runs; each is created when it is
    tried. GPUs are detected below ``root``; ``now`` is the clock.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        setting: str,
        environ: Mapping[str, str],
        root: Path,
        sources: Sequence[MakeSource],
        progress: Progress,
        now: Callable[[], datetime],
    ) -> None:
        self._data_dir = data_dir
        self._layout = Layout(data_dir)
        self._setting = setting
        self._environ = environ
        self._root = root
        self._sources = sources
        self._progress = progress
        self._now = now

    def in_use(self) -> InstallResult | None:
        """Return the llama-server that the service would start; ``None`` = none runs."""
        try:
            binary = find_llama_server(
                setting=self._setting, data_dir=self._data_dir, environ=self._environ
            )
        except NoLlamaServerError:
            return None
        current = self._layout.current()
        if binary.path.is_relative_to(self._layout.root.resolve()) and current is not None:
            return InstallResult(
                path=str(binary.path),
                version=current.version,
                source=current.source,
                devices=current.devices,
            )
        source = "setting" if self._setting else "path"
        return InstallResult(path=str(binary.path), version=binary.version, source=source)

    def check(self) -> CheckResult:
        """Compare the build in use with the newest one of the first source that answers."""
        in_use = self.in_use()
        reasons: list[CyberError] = []
        with self._layout.locked():
            for make in self._sources:
                with _opened(make) as source:
                    try:
                        offer = source.offer(None, self._progress)
                    except InstallError as error:
                        reasons.append(error)
                        continue
                    self._note(offer)
                    same = in_use is not None and in_use.source == offer.source
                    return CheckResult(
                        installed=in_use,
                        newest=BuildName(version=offer.version, source=offer.source),
                        up_to_date=in_use.version == offer.version if in_use and same else None,
                    )
        raise InstallError(f"No source answers. {_joined(reasons)}")

    def install(self, *, version: str | None, force: bool, keep_any: bool) -> InstallResult:
        """Install the newest build, or that version, unless it is installed.

        ``keep_any``: keep any llama-server that runs (unless ``version`` asks for another).
        ``force`` installs in any case. Raises ``InstallError`` with the reasons of all sources; the
        build in use then remains.
        """
        present = self.in_use()
        if present and keep_any and not force and version in {None, present.version}:
            return present
        reasons: list[CyberError] = []
        given_up: set[str] = set()
        with self._layout.locked():
            for make in self._sources:
                with _opened(make) as source:
                    if source.name in given_up:
                        continue
                    self._progress.begin(source.name)
                    try:
                        return self._install_from(source, version, None if force else present)
                    except InstallError as error:
                        # Try another build of the same source only if this one was downloaded but
                        # did not run.
                        if not isinstance(error, UnusableBuildError):
                            given_up.add(source.name)
                        reasons.append(error)
                        if make is not self._sources[-1]:
                            self._progress.step(f"{source.name}: {error}")
        if len(reasons) == 1:
            raise reasons[0]
        raise InstallError(
            f"No source gave a llama-server that runs here. {_joined(reasons)}",
            hint="`cyber-inference-tui install-llama --from source` builds one.",
        )

    def rollback(self) -> InstallResult:
        """Put the previous build in use; a second call undoes the first.

        Raises ``InstallError`` if none is kept, or if it no longer runs.
        """
        with self._layout.locked():
            found = self._layout.previous()
            if found is None:
                raise InstallError("No earlier llama-server is kept to go back to.")
            folder, record = found
            devices = self._verify(folder / "bin" / PROGRAM, backend="")
            left = self._layout.current()
            self._layout.restore(folder, record)
        return self._report(folder, record, devices, left)

    def _note(self, offer: Offer) -> None:
        self._layout.note_newest(
            Newest(source=offer.source, version=offer.version, seen_at=self._now())
        )

    def _install_from(
        self, source: BuildSource, version: str | None, present: InstallResult | None
    ) -> InstallResult:
        offer = source.offer(version, self._progress)
        if version is None:
            self._note(offer)
        if present and (present.source, present.version) == (offer.source, offer.version):
            return present
        final = self._layout.free_folder(offer.source, offer.version)
        with self._layout.staging() as staging:
            source.unpack(offer, staging, final, self._progress)
            self._layout.move_in(staging, final)
        self._progress.step("checking that it runs", upto=1.0)
        left = self._layout.current()
        try:
            devices = self._verify(final / "bin" / PROGRAM, backend=offer.backend)
            self._layout.activate(
                final,
                source=offer.source,
                version=offer.version,
                devices=devices,
                now=self._now(),
            )
        except BaseException:
            self._layout.remove(final)
            raise
        source.finished()
        return self._report(final, offer, devices, left)

    def _verify(self, program: Path, *, backend: str) -> tuple[str, ...]:
        """Run the build and return its devices. Raises ``UnusableBuildError`` with the reason.

        A build for a ``backend`` without a device of it would silently use the CPU.
        """
        try:
            probe(program, data_dir=self._data_dir, environ=self._environ)
            output = ask_program(program, "--list-devices", environ=self._environ)
        except NoLlamaServerError as error:
            raise UnusableBuildError(f"The build does not run here: {error.message}") from error
        devices = listed_devices(output)
        names = _DEVICE_NAMES.get(backend, (backend,))
        if backend and not any(device.startswith(names) for device in devices):
            line = next((line for line in output.splitlines() if _TROUBLE.search(line)), "")
            why = f": {clean_line(line.strip(), limit=300).rstrip('.')}" if line else ""
            raise UnusableBuildError(
                f"The build is made for {backend} but lists no such device{why}.",
                hint="`cyber-inference-tui doctor` looks at the driver.",
            )
        return devices

    def _report(
        self,
        final: Path,
        offer: Offer | Installed,
        devices: tuple[str, ...],
        replaced: Installed | None,
    ) -> InstallResult:
        warnings = [_gpu_warning(gpu) for gpu in unused_gpus(gpus(self._root), devices)]
        if self._setting:
            warnings.append(
                f"llama_server_path is {self._setting} and takes precedence: "
                "remove that setting to use the installed one."
            )
        return InstallResult(
            path=str((final / "lib" / PROGRAM).resolve()),
            version=offer.version,
            source=offer.source,
            devices=devices,
            warnings=tuple(warnings),
            installed=True,
            replaced=BuildName(version=replaced.version, source=replaced.source)
            if replaced
            else None,
        )


def _gpu_warning(gpu: Gpu) -> str:
    return (
        f"This machine has an {gpu.value}, but this llama-server lists no such device: models "
        f"will run on the CPU. {_GPU_WAY_OUT[gpu]}"
    )


@contextmanager
def _opened(make: MakeSource) -> Iterator[BuildSource]:
    source = make()
    try:
        yield source
    finally:
        source.close()


def _joined(reasons: Sequence[CyberError]) -> str:
    return " ".join(dict.fromkeys(str(reason) for reason in reasons))

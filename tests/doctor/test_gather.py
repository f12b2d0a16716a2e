"""Facts about machines that the tests build, and that nothing on them is changed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.doctor.examination import examine, gather_all, judge
from cyber_inference_tui.doctor.gather import file_system_of, gpu_facts, mount_table
from cyber_inference_tui.doctor.gather_memory import memory_facts
from cyber_inference_tui.doctor.records import Finding, Level
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.service.history import HISTORY_FILE
from cyber_inference_tui.settings.load import LoadedSettings, load_text
from tests.fakes.launcher import write_fake_llama
from tests.monitor import trees
from tests.monitor.fake_nvml import FakeGpu, FakeNvml
from tests.service.history_records import open_history
from tests.tui.world import mode_results

GIB = 1 << 30
MOUNTS = (
    "overlay / overlay rw 0 0\ntmpfs {0} tmpfs rw 0 0\n/dev/sda1 {0}/my\\040stick vfat rw 0 0\n"
)


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}


@pytest.fixture
def settings(tmp_path: Path, environ: Mapping[str, str]) -> Callable[..., LoadedSettings]:
    """Return the settings of a machine with a llama-server for the CPU, below ``root``."""

    def settings(root: Path, text: str = "") -> LoadedSettings:
        program = write_fake_llama(tmp_path / "bin/llama-server")
        head = (
            f"llama_server_path = '{program}'\nsystem_root = '{root}'\nport = 0\n"
            f"data_dir = '{tmp_path}/data'\nllama_server_base_port = 0\n"
        )
        return load_text(head + text, tmp_path / "config.toml", environ=environ, flags={})

    return settings


def of(findings: tuple[Finding, ...], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_an_orin_nano_that_saves_power(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    root = tmp_path / "orin"
    trees.orin_nano_jetpack5(root)
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    trees.write(
        root,
        {
            "var/lib/nvpmodel/status": "pmode:0001",
            f"{policy}/scaling_min_freq": "115200\n",
            f"{policy}/scaling_max_freq": "1510400\n",
        },
    )
    loaded = settings(root)
    before = contents(tmp_path)
    findings = examine(loaded, None, environ=environ, offline=True, container=root)
    assert contents(tmp_path) == before
    (machine,) = of(findings, "machine")
    assert machine.message.startswith("NVIDIA Orin Nano Developer Kit: Ubuntu 20.04.6 LTS")
    assert "L4T 35.3.1, JetPack 5.1.1" in machine.message
    mode, zram, clocks = of(findings, "jetson")
    assert zram.message.startswith("zram may compress 1.86 GiB")
    assert "power mode is 7W; the board has 15W" in mode.message
    assert mode.fix is not None
    assert "nvpmodel -m 0" in mode.fix
    assert "jetson_clocks is off" in clocks.message
    shared, build = of(findings, "gpu")
    assert shared.level is Level.OK
    assert build.level is Level.WARNING
    assert build.fix is not None
    assert "llama_server_path to a build with CUDA" in build.fix
    assert any("compressed in memory" in one.message for one in of(findings, "memory"))


async def test_an_orin_nano_whose_modes_were_measured(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    root, loaded = tmp_path / "orin", settings(tmp_path / "orin")
    trees.orin_nano_jetpack5(root)
    async with open_history(loaded.settings.data_dir / HISTORY_FILE) as history:
        for one, name in zip(mode_results(), ("15W", "25W", "7W"), strict=True):
            history.add_bench(msgspec.structs.replace(one, power_mode=name))
    before = contents(tmp_path)
    findings = await asyncio.to_thread(
        examine, loaded, None, environ=environ, offline=True, container=root
    )
    assert contents(tmp_path) == before
    mode, figures, thrifty, _ = of(findings, "jetson")
    assert mode.message == "The power mode is 15W."
    assert "15W 21.4 ± 0.2 tokens/s and 1.92 ± 0.02 tokens per joule" in figures.message
    assert "25W" not in figures.message, "the board has no such mode"
    assert thrifty.message.startswith("7W is 17 % slower than 15W")


def test_a_bare_container(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    root = tmp_path / "container"
    trees.container(root)
    findings = examine(settings(root), None, environ=environ, offline=True, container=root)
    assert [one.level for one in of(findings, "gpu")] == [Level.OK]
    assert of(findings, "jetson") == []
    limit = next(one for one in of(findings, "memory") if one.level is Level.HINT)
    assert "2.00 GiB of the machine's 7.44 GiB" in limit.message
    assert of(findings, "memory")[-1].message == "There is no swap."
    assert not [one for one in findings if one.level is Level.ERROR]


def test_an_amd_card(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    root = tmp_path / "amd"
    trees.amd_card(root)
    trees.write(root, {"dev/kfd": "", "usr/share/vulkan/icd.d/radeon.json": "{}"})
    findings = examine(settings(root), None, environ=environ, offline=True, container=root)
    card, build = of(findings, "gpu")
    assert card.message == "AMD GPU 744c: 24.0 GiB of memory, 3.00 GiB free."
    assert build.fix is not None
    assert build.fix.startswith("`cyber-inference-tui install-llama --force`")


def test_an_nvidia_card_and_its_driver(tmp_path: Path) -> None:
    trees.write(
        tmp_path,
        {
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
            "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
        },
    )
    library = FakeNvml(FakeGpu())
    facts = gpu_facts(tmp_path, {}, Nvml(lambda: library))
    assert facts.nvidia_card
    assert facts.nvidia_names == ("NVIDIA GeForce RTX 4090",)
    assert [gpu.total for gpu in facts.memory] == [24 * GIB]
    library = FakeNvml(FakeGpu())
    library.fails["nvmlInit"] = 18
    facts = gpu_facts(tmp_path, {}, Nvml(lambda: library))
    assert facts.nvml_library
    assert facts.nvidia_names == ()


def test_a_sound_chip_is_no_gpu(tmp_path: Path) -> None:
    device = "sys/bus/pci/devices/0000:01:00.1"
    trees.write(tmp_path, {f"{device}/vendor": "0x10de\n", f"{device}/class": "0x040300\n"})
    assert not gpu_facts(tmp_path, {}, Nvml(FakeNvml)).nvidia_card


def test_swap_by_kind(tmp_path: Path) -> None:
    trees.orin_nano_jetpack5(tmp_path)
    facts = memory_facts(tmp_path, tmp_path)
    assert (facts.swap, facts.zram) == (4 * GIB, 1950720 * 1024)
    assert facts.machine_total == facts.total == 7802880 * 1024


SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


@pytest.mark.parametrize(
    ("swap", "kind", "is_sd"),
    [
        ("/dev/mmcblk1p2 partition", "SD", True),
        ("/dev/mmcblk1p2 partition", "MMC", False),
        ("/var/swapfile file", "SD", True),
        ("/boot/swapfile file", "SD", False),
        ("/dev/zram0 partition", "SD", False),
    ],
)
def test_swap_on_an_sd_card(tmp_path: Path, swap: str, kind: str, is_sd: bool) -> None:
    trees.orin_nano_jetpack5(tmp_path)
    trees.write(
        tmp_path,
        {
            "proc/swaps": f"{SWAPS}{swap}\t4194304\t0\t-2\n",
            "proc/mounts": "/dev/mmcblk1p1 / ext4 rw 0 0\n/dev/nvme0n1p1 /boot ext4 rw 0 0\n",
            "sys/devices/mmc/mmcblk1/device/type": f"{kind}\n",
            "sys/devices/mmc/mmcblk1/mmcblk1p1/partition": "1\n",
            "sys/devices/mmc/mmcblk1/mmcblk1p2/partition": "2\n",
        },
    )
    (tmp_path / "sys/class/block").mkdir(parents=True, exist_ok=True)
    for part in ("mmcblk1p1", "mmcblk1p2"):
        link = tmp_path / "sys/class/block" / part
        link.symlink_to(f"../../devices/mmc/mmcblk1/{part}")
    assert memory_facts(tmp_path, tmp_path).swap_on_sd_card is is_sd


def test_a_running_desktop(tmp_path: Path) -> None:
    trees.orin_nano_jetpack5(tmp_path)
    assert memory_facts(tmp_path, tmp_path).desktop == ()
    trees.write(
        tmp_path,
        {
            "proc/812/comm": "Xorg\n",
            "proc/812/statm": "9000 3000 1000 1 0 1 0\n",
            "proc/900/comm": "gnome-shell\n",
            "proc/900/statm": "9000 500 1000 1 0 1 0\n",
            "proc/901/comm": "llama-server\n",
            "proc/901/statm": "9000 5000 1000 1 0 1 0\n",
        },
    )
    facts = memory_facts(tmp_path, tmp_path)
    page = os.sysconf("SC_PAGE_SIZE")
    assert (facts.desktop, facts.desktop_bytes) == (("Xorg", "gnome-shell"), 2000 * page)


def test_models_on_a_stick(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    stick = tmp_path.resolve() / "my stick"
    root = tmp_path / "root"
    trees.container(root)
    trees.write(root, {"proc/mounts": MOUNTS.format(tmp_path.resolve())})
    loaded = settings(root, f"models_dir = '{stick}/models'\n")
    stick.mkdir()
    (tmp_path / "data").mkdir()
    findings = examine(loaded, None, environ=environ, offline=True, container=root)
    hint = next(one for one in of(findings, "directories") if one.level is Level.HINT)
    assert "models_dir" in hint.message
    assert "vfat" in hint.message


def test_mounts() -> None:
    table = mount_table(b"a / ext4 rw\nb /mnt/a\\040b vfat rw\nc /mnt/x exfat rw\nodd\n")
    assert file_system_of(Path("/mnt/a b/c"), table) == "vfat"
    assert file_system_of(Path("/mnt/xy"), table) == "ext4"
    assert file_system_of(Path("/mnt/x"), table) == "exfat"
    assert file_system_of(Path("/mnt"), {}) is None


def test_directories_that_are_wrong(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    (tmp_path / "data").write_text("a file")
    text = f"models_dir = '{tmp_path}/m'\nmodel_dirs = ['{tmp_path}/none']\n"
    loaded = settings(tmp_path, text)
    findings = of(examine(loaded, None, environ=environ, offline=True), "directories")
    assert findings[0].level is Level.ERROR
    assert "is not a directory" in findings[0].message
    assert any("none does not exist" in one.message for one in findings)


def test_a_loop_of_links_is_said(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    loaded = settings(tmp_path, f"model_dirs = ['{tmp_path}/loop/models']\n")
    findings = of(examine(loaded, None, environ=environ, offline=True), "directories")
    assert findings[-1].level is Level.WARNING
    assert "loop/models" in findings[-1].message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_the_right_to_write(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    findings = examine(settings(tmp_path), None, environ=environ, offline=True)
    assert "cannot be written to" in of(findings, "directories")[0].message


def test_secrets_in_the_file_and_elsewhere(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    text = "hf_token = 'x'\n[models.a]\nenv = { TOKEN = 'y' }\n"
    loaded = settings(tmp_path, text)
    config = tmp_path / "config.toml"
    config.write_text(text)
    config.chmod(0o644)
    found = of(examine(loaded, None, environ=environ, offline=True), "security")
    assert 'holds hf_token, models."a".env' in found[0].message
    config.chmod(0o600)
    found = of(examine(loaded, None, environ=environ, offline=True), "security")
    assert not any("hf_token" in one.message for one in found)


def test_an_open_bind_is_judged_as_by_the_service(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    closed = examine(settings(tmp_path, "host = '0.0.0.0'\n"), None, environ=environ, offline=True)
    assert [one.level for one in of(closed, "configuration")] == [Level.OK]
    assert "makes api_keys and admin_password" in of(closed, "security")[0].message
    text = "host = '0.0.0.0'\ninsecure_no_auth = true\n"
    opened = examine(settings(tmp_path, text), None, environ=environ, offline=True)
    assert [one.level for one in of(opened, "configuration")] == [Level.OK]
    assert "anybody who can reach this machine" in of(opened, "security")[0].message


def test_a_variable_that_is_an_empty_list_keeps_an_open_address_from_being_guarded(
    tmp_path: Path, environ: Mapping[str, str]
) -> None:
    loaded = load_text(
        f"host = '0.0.0.0'\ndata_dir = '{tmp_path}/data'\nport = 0\n",
        tmp_path / "config.toml",
        environ={**environ, "CYBER_INFERENCE_API_KEYS": "[]"},
        flags={},
    )
    (refused,) = of(examine(loaded, None, environ=environ, offline=True), "configuration")
    assert refused.level is Level.ERROR
    assert "CYBER_INFERENCE_API_KEYS" in refused.message


def test_damaged_models_and_no_cache_left_behind(
    tmp_path: Path, settings: Callable[..., LoadedSettings], environ: Mapping[str, str]
) -> None:
    folder = tmp_path / "data/models"
    folder.mkdir(parents=True)
    (folder / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0")
    loaded = settings(tmp_path)
    before = contents(tmp_path)
    findings = of(examine(loaded, None, environ=environ, offline=True), "models")
    assert contents(tmp_path) == before
    assert any(one.message.startswith("broken: ") and one.fix for one in findings)


def test_hanging_groups_are_reported_and_not_awaited() -> None:
    release = threading.Event()
    try:
        report = gather_all({"models": release.wait, "hub": lambda: None}, limit=0.2)
    finally:
        release.set()
    assert report.late == ("models",)
    (found,) = judge(report)
    assert (found.check, found.level) == ("models", Level.WARNING)
    assert found.fix


def test_errors_are_not_hidden() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gather_all({"models": fail}, limit=30)

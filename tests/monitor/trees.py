"""Files of machines, written below a directory: with the structure of real devices, and test
values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

KIB = 1024
MIB = 1 << 20
GIB = 1 << 30

Files = Mapping[str, str]

OFF = "\0off"
"""In place of content: reading this file fails, like that of a zone without power."""

STAT = """\
cpu  1000 0 500 8000 300 0 100 0 0 0
cpu0 500 0 250 4000 150 0 50 0 0 0
cpu1 500 0 250 4000 150 0 50 0 0 0
intr 123456 0 0
ctxt 99
"""
# 400 ticks later: 100 busy on the first core of 200, 50 on the second of 200.
STAT_LATER = """\
cpu  1100 0 550 8200 350 0 100 0 0 0
cpu0 570 0 280 4080 170 0 50 0 0 0
cpu1 530 0 270 4120 180 0 50 0 0 0
intr 123457 0 0
ctxt 99
"""

HOST: Files = {
    "proc/stat": STAT,
    "proc/loadavg": "0.42 0.37 1.05 2/345 6789\n",
    "proc/uptime": "12345.67 23456.78\n",
    "proc/meminfo": "MemTotal:        7802880 kB\nMemFree:          300000 kB\n"
    "MemAvailable:    4268000 kB\nSwapTotal:       3901440 kB\nSwapFree:        3900416 kB\n"
    "NvMapMemUsed:     805068 kB\n",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/swapfile                               file\t\t4194304\t\t1024\t\t-2\n"
    "/dev/zram0                              partition\t1950720\t\t2048\t\t5\n",
    "sys/block/zram0/mm_stat": "  2097152   700000   786432        0   786432        0        0\n",
    "proc/net/dev": "Inter-|   Receive                            |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
    "    lo:     500       5    0    0    0     0          0         0      500       5    0\n"
    "  eth0: 1000000     100    0    0    0     0          0         0   250000      90    0\n"
    "veth12:     700       5    0    0    0     0          0         0      900       5    0\n",
    "proc/100/status": "Name:\tserver\nVmRSS:\t30 kB\nRssAnon:\t20 kB\nRssFile:\t7 kB\n"
    "RssShmem:\t3 kB\n",
    "proc/100/task/100/children": "101 ",
    "proc/101/status": "Name:\tchild\nVmRSS:\t3 kB\nRssAnon:\t2 kB\nRssFile:\t1 kB\n"
    "RssShmem:\t0 kB\n",
    "proc/sys/kernel/osrelease": "5.10.104-tegra\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 20.04.6 LTS"\nID=ubuntu\n',
}

ORIN_COMPATIBLE = (
    "nvidia,p3768-0000+p3767-0003\0nvidia,p3767-0003\0nvidia,tegra234\0nvidia,tegra23x\0"
)


def write(root: Path, *trees: Files) -> None:
    """Write the files; a later file replaces an earlier one with its name."""
    for name, content in {k: v for tree in trees for k, v in tree.items()}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if content == OFF:
            file.mkdir(exist_ok=True)
        else:
            file.write_text(content)


def link(root: Path, name: str, target: str) -> None:
    """Make a relative link at ``name`` to ``target``, both below ``root``, like sysfs."""
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(root / target, place.parent))


def under(folder: str, files: Files) -> dict[str, str]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def zones(temperatures: Mapping[str, int | None]) -> dict[str, str]:
    """Thermal zones by type, in m°C; ``None`` = off."""
    files = {}
    for number, (kind, value) in enumerate(temperatures.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        files[f"{folder}/type"] = f"{kind}\n"
        files[f"{folder}/temp"] = OFF if value is None else f"{value}\n"
    return files


def rail(
    channel: int, label: str, millivolts: int, milliamperes: int, limit: int = 32_760
) -> dict[str, str]:
    return {
        f"in{channel}_label": f"{label}\n",
        f"in{channel}_input": f"{millivolts}\n",
        f"curr{channel}_input": f"{milliamperes}\n",
        f"curr{channel}_max": f"{limit}\n",
    }


def cooling(states: Mapping[str, int]) -> dict[str, str]:
    """Cooling devices by type, with their present states."""
    files = {}
    for number, (kind, state) in enumerate(states.items()):
        folder = f"sys/class/thermal/cooling_device{number}"
        files[f"{folder}/type"] = f"{kind}\n"
        files[f"{folder}/cur_state"] = f"{state}\n"
    return files


OVER_CURRENT = "sys/class/hwmon/hwmon5"
OVER_CURRENT_FILES = {
    f"{OVER_CURRENT}/name": "soctherm_oc\n",
    f"{OVER_CURRENT}/oc1_event_cnt": "0\n",
    f"{OVER_CURRENT}/oc2_event_cnt": "15\n",
    f"{OVER_CURRENT}/oc3_event_cnt": "37\n",
}


def ina3221(device: str, hwmon: str, *rails: Files) -> dict[str, str]:
    """A power monitor on the I2C bus."""
    files = {
        "name": "ina3221\n",
        f"hwmon/{hwmon}/name": "ina3221\n",
        f"hwmon/{hwmon}/in7_label": "sum of shunt voltages\n",
        f"hwmon/{hwmon}/in7_input": "7\n",
    }
    for channels in rails:
        files |= under(f"hwmon/{hwmon}", channels)
    return under(f"sys/bus/i2c/devices/{device}", files)


def fan(pwm: int, rpm: int) -> dict[str, str]:
    return {
        "sys/class/hwmon/hwmon0/name": "pwm_tach\n",
        "sys/class/hwmon/hwmon0/rpm": f"{rpm}\n",
        "sys/class/hwmon/hwmon2/name": "pwmfan\n",
        "sys/class/hwmon/hwmon2/pwm1": f"{pwm}\n",
    }


def gpu_node(root: Path, device: str, name: str, *, load: int, hertz: int) -> None:
    """The GPU's device, and its link in devfreq."""
    node = device.rpartition("/")[2]
    tree = f"sys/firmware/devicetree/base/bus@0/{node}"
    write(
        root,
        {
            f"{device}/load": f"{load}\n",
            f"{tree}/name": f"{name}\0",
            f"{device}/devfreq/{node}/cur_freq": f"{hertz}\n",
            f"{device}/devfreq/{node}/max_freq": "1020000000\n",
            "sys/firmware/devicetree/base/bus@0/15340000.vic/name": "vic\0",
            "sys/devices/platform/vic/load": "7\n",
            "sys/devices/platform/vic/devfreq/15340000.vic/cur_freq": "7\n",
        },
    )
    link(root, f"{device}/of_node", tree)
    link(root, f"{device}/devfreq/{node}/device", device)
    link(root, f"sys/class/devfreq/{node}", f"{device}/devfreq/{node}")
    vic = "sys/devices/platform/vic"
    link(root, f"{vic}/of_node", "sys/firmware/devicetree/base/bus@0/15340000.vic")
    link(root, f"{vic}/devfreq/15340000.vic/device", vic)
    link(root, "sys/class/devfreq/15340000.vic", f"{vic}/devfreq/15340000.vic")


ORIN_NANO_ZONES = {
    "CPU-therm": 47_250,
    "GPU-therm": 46_500,
    "CV0-therm": None,
    "CV1-therm": None,
    "CV2-therm": -256_000,
    "SOC0-therm": 45_062,
    "SOC1-therm": 45_500,
    "SOC2-therm": 44_875,
    "tj-therm": 47_250,
}

ORIN_NANO_RAILS = ina3221(
    "1-0040",
    "hwmon3",
    rail(1, "VDD_IN", 5024, 960, 5000),
    rail(2, "VDD_CPU_GPU_CV", 5024, 103),
    rail(3, "VDD_SOC", 5024, 294),
)


def orin_nano_jetpack5(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "etc/nv_tegra_release": "# R35 (release), REVISION: 3.1, GCID: 32827747, "
            "BOARD: t186ref, EABI: aarch64, DATE: Sun Mar 19 15:19:21 UTC 2023\n",
            "proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0",
            "proc/device-tree/compatible": ORIN_COMPATIBLE,
            "var/lib/nvpmodel/status": "pmode:0000",
            "etc/nvpmodel.conf": "# models\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
            "< POWER_MODEL ID=1 NAME=7W >\n< PM_CONFIG DEFAULT=0 >\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy0/related_cpus": "0 1 2 3\n",
            "sys/devices/system/cpu/cpufreq/policy4/related_cpus": "4 5\n",
            "sys/kernel/debug/bpmp/debug/clk/emc/rate": "2133000000\n",
        },
        ORIN_NANO_RAILS,
        OVER_CURRENT_FILES,
        cooling({"pwm-fan": 2, "cpu-throttle-alert": 1, "gpu-throttle-alert": 1, "cpufreq-0": 0}),
        zones(ORIN_NANO_ZONES),
        fan(89, 2100),
    )
    gpu_node(root, "sys/devices/17000000.ga10b", "ga10b", load=630, hertz=624_750_000)


def orin_nano_jetpack6(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, "
            "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
            "etc/os-release": "PRETTY_NAME='Ubuntu 22.04.5 LTS'\n",
            "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference "
            "Developer Kit Super\0",
            "proc/device-tree/compatible": ORIN_COMPATIBLE,
            "var/lib/nvpmodel/status": "pmode:0002\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        },
        ORIN_NANO_RAILS,
        zones(
            {
                kind.lower().replace("therm", "thermal"): value
                for kind, value in ORIN_NANO_ZONES.items()
            }
        ),
        fan(255, 0),
    )
    gpu_node(root, "sys/devices/platform/bus@0/17000000.gpu", "gpu", load=1000, hertz=918_000_000)


def agx_orin(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 36191598, "
            "BOARD: generic, EABI: aarch64, DATE: Mon May  6 17:34:21 UTC 2024\n",
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0"
            "nvidia,tegra234\0",
            "var/lib/nvpmodel/status": "pmode:0003\n",
        },
        ina3221(
            "1-0040",
            "hwmon3",
            rail(1, "VDD_GPU_SOC", 19_000, 200),
            rail(2, "VDD_CPU_CV", 19_000, 40),
            rail(3, "VIN_SYS_5V0", 5_000, 600),
        ),
        ina3221(
            "1-0041",
            "hwmon4",
            rail(1, "NC", 0, 0),
            rail(2, "VDDQ_VDD2_1V8AO", 19_000, 30),
            rail(3, "NC", 0, 0),
        ),
        zones({"cpu-thermal": 50_000, "gpu-thermal": 48_500, "tj-thermal": 50_000}),
    )
    gpu_node(root, "sys/devices/platform/bus@0/17000000.gpu", "gpu", load=5, hertz=306_000_000)


def thor(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, "
            "BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025\n",
            "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,tegra264\0",
            "proc/meminfo": "MemTotal:       128000000 kB\nMemAvailable:   120000000 kB\n",
            "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
            "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
        },
        under(
            "sys/bus/i2c/devices/2-0044",
            {
                "name": "ina238\n",
                "hwmon/hwmon5/name": "ina238\n",
                "hwmon/hwmon5/power1_input": "38500000\n",
            },
        ),
        ina3221("2-0040", "hwmon4", rail(1, "VDD_GPU", 12_000, 500), rail(2, "NC", 0, 0)),
        zones({"cpu-thermal": 42_000, "gpu-thermal": 41_500, "tj-thermal": 43_000}),
    )


def xavier_nx(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, "
            "BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n",
            "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0",
            "var/lib/nvpmodel/status": "pmode:0008\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >\n",
        },
        ina3221(
            "7-0040",
            "hwmon2",
            rail(1, "VDD_IN", 4_936, 1_000),
            rail(2, "VDD_CPU_GPU_CV", 4_936, 250),
            rail(3, "VDD_SOC", 4_936, 125),
        ),
        zones({"CPU-therm": 39_500, "GPU-therm": 38_000, "AUX-therm": 38_500, "AO-therm": 39_000}),
    )
    gpu_node(root, "sys/devices/17000000.gv11b", "gv11b", load=250, hertz=114_750_000)


PC: Files = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\n"
    "model name\t: AMD Ryzen 9 7950X 16-Core Processor\nprocessor\t: 1\n",
    "sys/class/dmi/id/sys_vendor": "ASUS\n",
    "sys/class/dmi/id/product_name": "System Product Name\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
    "proc/sys/kernel/osrelease": "6.12.48+deb13-amd64\n",
    "sys/class/hwmon/hwmon1/name": "k10temp\n",
    "sys/class/hwmon/hwmon1/temp1_input": "55125\n",
    "sys/class/hwmon/hwmon1/temp1_label": "Tctl\n",
    "sys/class/hwmon/hwmon3/name": "nvme\n",
    "sys/class/hwmon/hwmon3/temp1_input": "41850\n",
    "sys/class/hwmon/hwmon3/temp1_label": "Composite\n",
    "sys/class/hwmon/hwmon4/name": "drivetemp\n",
    "sys/class/hwmon/hwmon4/temp1_input": "30000\n",
}


def amd_card(root: Path) -> None:
    hwmon = {
        "name": "amdgpu\n",
        "temp1_input": "52000\n",
        "temp1_label": "edge\n",
        "power1_average": "187000000\n",
        "power1_cap": "339000000\n",
        "temp1_crit": "100000\n",
        "pwm1": "102\n",
        "freq1_input": "2304000000\n",
        "freq2_input": "1249000000\n",
    }
    device = {
        "vendor": "0x1002\n",
        "device": "0x744c\n",
        "gpu_busy_percent": "98\n",
        "mem_busy_percent": "40\n",
        "mem_info_vram_total": f"{24 * GIB}\n",
        "mem_info_vram_used": f"{21 * GIB}\n",
        "mem_info_gtt_total": f"{16 * GIB}\n",
        "mem_info_gtt_used": f"{MIB}\n",
        "power/runtime_status": "active\n",
        **under("hwmon/hwmon2", hwmon),
    }
    write(root, HOST, PC, under("sys/class/drm/card1/device", device))
    write(root, {"sys/class/drm/card0/device/vendor": "0x8086\n", "sys/class/drm/version": "drm\n"})
    link(root, "sys/class/hwmon/hwmon2", "sys/class/drm/card1/device/hwmon/hwmon2")


def amd_apu(root: Path) -> None:
    hwmon = {
        "name": "amdgpu\n",
        "temp1_input": "44000\n",
        "power1_input": "15250000\n",
        "freq1_input": "800000000\n",
    }
    device = {
        "vendor": "0x1002\n",
        "device": "0x1586\n",
        "gpu_busy_percent": "3\n",
        "mem_info_vram_total": f"{512 * MIB}\n",
        "mem_info_vram_used": f"{100 * MIB}\n",
        "mem_info_gtt_total": f"{4 * GIB}\n",
        "mem_info_gtt_used": f"{50 * MIB}\n",
        "power/runtime_status": "active\n",
        **under("hwmon/hwmon2", hwmon),
    }
    write(root, HOST, PC, under("sys/class/drm/card0/device", device))
    link(root, "sys/class/hwmon/hwmon2", "sys/class/drm/card0/device/hwmon/hwmon2")


def raspberry_pi(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-2712\n",
            "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
            "sys/class/hwmon/hwmon0/temp1_input": "48850\n",
            "sys/class/hwmon/hwmon1/name": "rp1_adc\n",
            "sys/class/hwmon/hwmon1/temp1_input": "47000\n",
            "sys/class/hwmon/hwmon2/name": "pwmfan\n",
            "sys/class/hwmon/hwmon2/pwm1": "51\n",
            "sys/class/hwmon/hwmon2/fan1_input": "2900\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2400000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
        zones({"cpu-thermal": 48_850}),
    )
    link(root, "sys/class/hwmon/hwmon0/device", "sys/class/thermal/thermal_zone0")


def container(root: Path) -> None:
    write(
        root,
        HOST,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {256 * MIB}\n",
            "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
            "etc/os-release": 'PRETTY_NAME="Alpine Linux v3.20"\n',
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\n",
        },
    )


def workstation(root: Path) -> None:
    """A PC; the tests' fake NVML has its NVIDIA cards."""
    write(root, HOST, PC, {"sys/class/dmi/id/product_name": "Pro WS\n"})

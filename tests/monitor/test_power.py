"""What measures power on each kind of machine, without counting anything twice."""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.monitor.energy import Part
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.power import PowerSensor
from tests.monitor import trees
from tests.monitor.clock import Clock
from tests.monitor.fake_nvml import FakeGpu, FakeNvml


def powercap(*packages: tuple[str, str]) -> dict[str, str]:
    """Packages with their numbers and counters in µJ, each with a zone for its cores."""
    files = {"sys/class/powercap/intel-rapl/enabled": "1\n"}
    for number, (name, microjoules) in enumerate(packages):
        zone = f"sys/class/powercap/intel-rapl:{number}"
        files |= {
            f"{zone}/name": f"{name}\n",
            f"{zone}/energy_uj": microjoules,
            f"{zone}/max_energy_range_uj": "262143328850\n",
            f"{zone}:0/name": "core\n",
            f"{zone}:0/energy_uj": "7\n",
        }
    return files


def read(root: Path, *gpus: FakeGpu) -> tuple[Part, ...]:
    fake = FakeNvml(*gpus)
    return PowerSensor(root, Nvml(load=lambda: fake, clock=Clock()), Clock()).read()


def cpu(joules: float, name: str = "CPU") -> Part:
    return Part(name, counter_j=joules, wraps_at_j=262_143.32885)


def test_a_jetsons_board_contains_all_but_the_cards(tmp_path: Path) -> None:
    trees.xavier_nx(tmp_path)
    assert read(tmp_path) == (Part("board", watts=4.936),)
    assert read(tmp_path, FakeGpu(name="Xavier (nvgpu)"), FakeGpu(energy=5_000)) == (
        Part("board", watts=4.936),
        Part("NVIDIA GeForce RTX 4090", counter_j=5.0),
    )


def test_packages_are_read_without_the_zones_inside_or_around_them(tmp_path: Path) -> None:
    trees.write(
        tmp_path,
        powercap(("package-0", "1500000\n"), ("psys", "9000000\n"), ("package-1", "2500000\n")),
    )
    assert read(tmp_path) == (cpu(1.5), cpu(2.5, "CPU 2"))


def test_a_counter_that_only_root_may_read_is_left_out(tmp_path: Path) -> None:
    trees.write(tmp_path, powercap(("package-0", trees.OFF)))
    assert read(tmp_path) == ()


def test_cards_have_a_counter_or_else_their_power(tmp_path: Path) -> None:
    old, unknown = FakeGpu(energy=None), FakeGpu(energy=None, power=None)
    assert read(tmp_path, FakeGpu(energy=2_500), old, unknown) == (
        Part("NVIDIA GeForce RTX 4090", counter_j=2.5),
        Part("NVIDIA GeForce RTX 4090 2", watts=215.4),
    )


def test_an_amd_card_is_beside_the_package(tmp_path: Path) -> None:
    trees.amd_card(tmp_path)
    trees.write(tmp_path, powercap(("package-0", "1500000\n")))
    assert read(tmp_path) == (cpu(1.5), Part("AMD GPU 744c", watts=187.0))


def test_an_apu_is_its_package(tmp_path: Path) -> None:
    trees.amd_apu(tmp_path)
    assert read(tmp_path) == (Part("AMD GPU 1586", watts=15.25),)
    trees.write(tmp_path, powercap(("package-0", "1500000\n")))
    assert read(tmp_path) == (cpu(1.5),)


def test_a_machine_without_sensors_measures_nothing(tmp_path: Path) -> None:
    trees.raspberry_pi(tmp_path)
    assert read(tmp_path) == ()

"""The Machine page."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.geometry import Region

from cyber_inference_tui.records import (
    CpuRecord,
    DiskRecord,
    EnergyRecord,
    GpuRecord,
    MemoryRecord,
    ResourceSample,
    SwapRecord,
    ThrottleReason,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.pages.dashboard.measures import Measure
from cyber_inference_tui.tui.pages.machine.commands import all_commands
from cyber_inference_tui.tui.pages.machine.drawing import Drawing
from cyber_inference_tui.tui.pages.machine.page import Sheet
from cyber_inference_tui.tui.pages.machine.rows import mode_rows
from cyber_inference_tui.tui.pages.machine.sections import sections
from cyber_inference_tui.tui.pages.machine.slowdowns import slowdowns
from cyber_inference_tui.tui.snapshot import Snapshot, trend_point
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import running, screen_text, until
from tests.tui.world import (
    GIB,
    ago,
    busy_world,
    hot_world,
    jetson_sample,
    measured,
    mode_results,
    plain_world,
    streaming_world,
)


def drawn(
    sample: ResourceSample, width: int = 118, height: int = 37, charset: Charset = UNICODE
) -> list[str]:
    """The lines of the page as text."""
    snapshot = Snapshot(sample=sample, trend=(trend_point(sample),))

    def series(measure: Measure, count: int) -> Sequence[float | None]:
        return [measure.reading(snapshot.trend[0])] * count

    lines = Drawing(charset, True, series).lines(sections(snapshot, charset), [], (width, height))
    return ["".join(text for text, _ in line) for line in lines]


def sample_of(world: World) -> ResourceSample:
    return world.samples[-1]


def bare_sample() -> ResourceSample:
    """A machine that reports nothing but its name."""
    device = jetson_sample().device
    return ResourceSample(
        at=ago(0),
        device=msgspec.structs.replace(device, power_mode=None, power_modes={}),
        cpu=CpuRecord(),
        memory=MemoryRecord(),
        swap=SwapRecord(),
    )


async def test_8_shows_each_gpu_with_its_own_figures() -> None:
    async with running(streaming_world()) as (app, _, pilot):
        await pilot.press("8")
        await until(pilot, lambda: "GPU 1" in screen_text(app))
        shown = screen_text(app)
        assert "GPU 0 is at its power limit: 70 W of 70 W." in shown
        for figure in ("7.5 of 12.0 GiB", "6.5 of 12.0 GiB", "1.74 of 2.10 GHz", "72 of 96 °C"):
            assert figure in shown
        # Each core has its load and its clock.
        assert "58 %  3.68 GHz" in shown


async def test_the_page_follows_the_samples_only_while_it_is_shown() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await pilot.press("8")
        await until(pilot, lambda: "42 % 2,100 rpm" in screen_text(app))
        sheet = app.screen.query_one(Sheet)
        before = sheet._shown
        await pilot.press("1")
        client.publish("resources", jetson_sample(0, fan=None))
        await until(pilot, lambda: app.snapshot.sample is not None and not app.snapshot.sample.fan)
        assert sheet._shown is before
        await pilot.press("8")
        await until(pilot, lambda: "no sensor for the fan here" in screen_text(app))


async def test_only_changed_cells_are_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(busy_world(), first_page="machine") as (app, client, pilot):
        await until(pilot, lambda: "1.02 of 1.02 GHz" in screen_text(app))
        painted: list[Region] = []
        sheet = app.screen.query_one(Sheet)
        monkeypatch.setattr(sheet, "refresh", lambda *regions, **_: painted.extend(regions))
        (gpu,) = jetson_sample().gpus
        slower = msgspec.structs.replace(gpu, clock_hz=510_000_000)
        client.publish("resources", jetson_sample(0, gpus=(slower,)))
        await until(pilot, lambda: bool(painted))
        assert {region.height for region in painted} == {1}
        assert sum(region.area for region in painted) < 80


async def test_the_energy_is_said_with_what_it_covers_and_its_gaps() -> None:
    async with running(measured(busy_world()), first_page="machine") as (app, _, pilot):
        await until(pilot, lambda: "357 Wh of the board since the service" in screen_text(app))
        assert "gap, the longest 1 min 2 s" in screen_text(app)


def test_a_processor_with_a_counter_only_has_a_power_section() -> None:
    energy = EnergyRecord(joules=720.0, seconds=60.0, covers=("CPU",))
    snapshot = Snapshot(sample=msgspec.structs.replace(bare_sample(), energy=energy))
    found = {one.title: one for one in sections(snapshot, UNICODE)}
    assert found["POWER"].notes == (("energy", "720 J of the CPU since the service started"),)
    assert "power" not in dict(found["NOT REPORTED HERE"].notes)


async def test_measured_power_modes_are_shown_with_their_conditions() -> None:
    world = busy_world()
    world.benches = mode_results()
    async with running(world, first_page="machine") as (app, client, pilot):
        await until(pilot, lambda: "POWER MODES  25W now" in screen_text(app))
        lines = [" ".join(line.split()) for line in screen_text(app).splitlines()]
        modes = ("MAXN_SUPER 24.9 ± 0.2 1.49 ± 0.01", "15W 17.8 ± 0.2 2.44 ± 0.03")
        assert all(any(mode in line for line in lines) for mode in modes)
        assert "qwen3-4b-q4_k_m, 8K, 2 slots, 512 + 128" in screen_text(app)
        # Newer results are read when the page comes to the front again, or the mode changes.
        client.service.world.benches = mode_results()[:1]
        await pilot.press("1", "8")
        await until(pilot, lambda: "24.9 ± 0.2" not in screen_text(app))
        client.service.world.benches = mode_results()
        device = msgspec.structs.replace(jetson_sample().device, power_mode="15W")
        client.publish("resources", jetson_sample(0, device=device))
        await until(pilot, lambda: "24.9 ± 0.2" in screen_text(app))


async def test_a_machine_without_power_modes_does_not_ask_for_results() -> None:
    world = plain_world()
    world.benches = mode_results()
    async with running(world, first_page="machine") as (app, client, pilot):
        await until(pilot, lambda: "NOT REPORTED HERE" in screen_text(app))
        await pilot.pause()
        assert "benches" not in {name for name, *_ in client.service.reads}
        assert "POWER MODES" not in screen_text(app)


def test_modes_without_a_meter_have_no_column_of_energy() -> None:
    modes = [msgspec.structs.replace(one, joules_per_token=None) for one in mode_results()]
    assert [row.figure for row in mode_rows(modes, ASCII)] == [
        "   tokens/s",
        "21.4 +- 0.2",
        "24.9 +- 0.2",
        "17.8 +- 0.2",
    ]


async def test_throttling_is_said_in_words() -> None:
    async with running(hot_world(), first_page="machine") as (app, _, pilot):
        await until(pilot, lambda: "▲ The GPU slows down: 87 °C of 85 °C." in screen_text(app))


def test_every_reason_has_its_sentence() -> None:
    gpu = GpuRecord(name="one", throttled_by=tuple(ThrottleReason), temperature_c=90.0)
    throttling = {"cpu": (ThrottleReason.TEMPERATURE,), "board": (ThrottleReason.VOLTAGE,)}
    sample = jetson_sample(gpus=(gpu, gpu), throttling=throttling, temperatures={"cpu": 96.0})
    found = [text for text, _ in slowdowns(sample, ASCII)]
    assert "GPU 1 slows down: 90 C." in found
    assert "The CPU slows down: 96 C." in found
    assert "The board slows down: the supply's voltage has dropped." in found
    assert len(found) == 2 * len(ThrottleReason) + 2
    # Being at a power limit is usual, and comes last.
    assert found[-1] == "GPU 1 is at its power limit."


async def test_a_command_is_chosen_and_copied_but_never_run() -> None:
    async with running(busy_world(), first_page="machine") as (app, client, pilot):
        await until(pilot, lambda: "sudo nvpmodel -m 2" in screen_text(app))
        asked = len(client.calls)
        await pilot.press("c")
        await until(pilot, lambda: bool(app.screen.query(LiveTable)))
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.clipboard == "sudo nvpmodel -m 2")
        assert len(client.calls) == asked


async def test_a_single_command_is_copied_at_once_and_without_any_the_key_is_hidden() -> None:
    world = streaming_world()
    world.samples = [
        msgspec.structs.replace(sample, gpus=sample.gpus[:1]) for sample in world.samples
    ]
    async with running(world, first_page="machine") as (app, client, pilot):
        await until(pilot, lambda: "Copy command" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: app.clipboard == "sudo nvidia-smi -i 0 -pl 70")
        client.publish("resources", sample_of(plain_world()))
        await until(pilot, lambda: "NOT REPORTED HERE" in screen_text(app))
        assert "Copy command" not in screen_text(app)


def test_the_present_power_mode_and_other_makers_gpus_have_no_command() -> None:
    found = [one.text for one in all_commands(jetson_sample())]
    assert found == ["sudo nvpmodel -m 0", "sudo nvpmodel -m 2", "sudo jetson_clocks"]
    amd = GpuRecord(name="Radeon Pro", power_limit_w=200.0)
    nvidia = GpuRecord(name="NVIDIA L4", power_limit_w=72.0)
    sample = msgspec.structs.replace(sample_of(plain_world()), gpus=(amd, nvidia))
    assert [one.text for one in all_commands(sample)] == ["sudo nvidia-smi -i 0 -pl 72"]


def test_what_is_not_reported_is_never_a_zero() -> None:
    shown = "\n".join(drawn(bare_sample()))
    assert "0" not in shown
    for reason in ("only root may read it", "no power monitor here", "no sensor for the fan here"):
        assert reason in shown
    for title in ("TEMPERATURE", "DISK", "NETWORK", "zram"):
        assert title not in shown
    shown = "\n".join(drawn(sample_of(plain_world())))
    assert "no driver of NVIDIA or AMD" in shown
    assert "W" not in shown.replace("NETWORK", "")
    assert "°C" not in shown


def test_paths_on_one_disk_are_shown_once_and_a_full_disk_is_a_problem() -> None:
    disk = DiskRecord(path="/srv/models", total=GIB, available=1, used=GIB, percent=99.9)
    other = msgspec.structs.replace(disk, path="/srv")
    snapshot = Snapshot(sample=jetson_sample(disks=(disk, other, DiskRecord(path="/gone"))))
    found = [one for one in sections(snapshot, UNICODE) if one.title == "DISK"]
    assert [(one.about, one.main and one.main.figure) for one in found] == [
        ("/srv", "1.00 of 1.00 GiB"),
        ("/gone", "–"),  # noqa: RUF001 - the dash is meant
    ]
    assert found[0].main is not None
    assert found[0].main.tone == "bad"


@given(st.integers(58, 240), st.integers(10, 70), st.sampled_from([UNICODE, ASCII]))
def test_every_line_has_the_width_of_the_page(width: int, height: int, charset: Charset) -> None:
    for world in (_HOT, _MANY, bare_sample()):
        lines = drawn(world, width, height, charset)
        assert {len(line) for line in lines} == {width}
        assert charset.unicode or all(line.isascii() for line in lines)


_HOT = sample_of(hot_world())
_MANY = msgspec.structs.replace(
    sample_of(streaming_world()),
    cpu=CpuRecord(percent=50.0, per_core=(50.0,) * 128, count=128),
    gpus=sample_of(streaming_world()).gpus * 4,
)


def test_a_wide_screen_has_more_columns_and_graphs_take_the_height() -> None:
    # The first lines are the titles of the columns.
    assert drawn(_HOT, 58)[1].startswith("GPU  ")
    assert [title in drawn(_HOT, 118)[1] for title in ("GPU", "POWER", "MEMORY")] == [
        True,
        True,
        False,
    ]
    assert all(title in drawn(_HOT, 198, 57)[1] for title in ("GPU", "MEMORY", "TEMPERATURE"))
    for height in (34, 37, 50):
        assert len(drawn(_HOT, 118, height)) == height


def test_little_room_has_the_essentials_first() -> None:
    lines = drawn(_HOT, 58, 15)[:13]
    shown = "\n".join(lines)
    for figure in ("40 %", "5.10 of 7.40 GiB", "12.0 of 25.0 W", "87 °C", "2,100 rpm"):
        assert figure in shown
    assert "sudo nvpmodel -m 2" in shown


def test_many_cores_are_a_character_each() -> None:
    shown = drawn(_MANY, 198, 57)
    assert any("  0 ▄▄▄▄" in line for line in shown)
    assert any(" 64 ▄▄▄▄" in line for line in shown)


def test_of_many_sensors_the_first_have_their_names() -> None:
    heat = {f"coretemp Core {core}": 40.0 + core for core in range(40)}
    shown = "\n".join(drawn(jetson_sample(temperatures=heat)))
    assert "40 sensors" in shown
    assert "coretemp Core 0 " in shown
    assert shown.count("coretemp") == 16


def test_limits_that_make_no_sense_are_left_out() -> None:
    gpu = GpuRecord(
        name="one", power_w=9.0, power_limit_w=0.0, temperature_c=30.0, temperature_limit_c=0.0
    )
    shown = "\n".join(drawn(jetson_sample(gpus=(gpu,))))
    assert "9.0 W" in shown
    assert "30 °C" in shown
    assert "of 0" not in shown.replace("0.00 of", "")

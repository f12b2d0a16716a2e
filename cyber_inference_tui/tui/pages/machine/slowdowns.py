"""Which parts of the machine are slowed down, and why, in sentences."""

from __future__ import annotations

from cyber_inference_tui.records import ResourceSample, ThrottleReason
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.pages.machine.sections import gpu_name


def slowdowns(sample: ResourceSample, charset: Charset) -> list[tuple[str, str]]:
    """Return a sentence for each part that is slowed down, with its tone.

    A GPU at its power limit is only ``busy``: that is where it works when it has much to do.
    """
    found = []
    unit = "°C" if charset.unicode else "C"
    for number, gpu in enumerate(sample.gpus):
        name = gpu_name(sample, number)
        name = f"The {name}" if name == "GPU" else name
        heat = _figures(gpu.temperature_c, gpu.temperature_limit_c, unit)
        watts = _figures(gpu.power_w, gpu.power_limit_w, "W")
        found += [_slowdown(name, reason, heat, watts) for reason in gpu.throttled_by]
    for part, reasons in sample.throttling.items():
        name = "The board" if part == "board" else f"The {plain(part, limit=40).upper()}"
        heat = _figures(sample.temperatures.get(part), None, unit)
        watts = _figures(sample.power.get("total"), None, "W") if part == "board" else ""
        found += [_slowdown(name, reason, heat, watts) for reason in reasons]
    return sorted(found, key=lambda one: one[1])


def _slowdown(name: str, reason: ThrottleReason, heat: str, watts: str) -> tuple[str, str]:
    if reason is ThrottleReason.POWER:
        return f"{name} is at its power limit{watts and ': '}{watts}.", "busy"
    why = {
        ThrottleReason.TEMPERATURE: heat or "it is too hot",
        ThrottleReason.CURRENT: "too much current for its supply",
        ThrottleReason.VOLTAGE: "the supply's voltage has dropped",
        ThrottleReason.HARDWARE: "its hardware asks for it",
    }[reason]
    return f"{name} slows down: {why}.", "bad"


def _figures(value: float | None, limit: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if limit is None else f"{value:.0f} {unit} of {limit:.0f} {unit}"

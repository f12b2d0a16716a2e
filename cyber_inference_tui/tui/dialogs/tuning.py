"""Asks for the goal of a tuning."""

from __future__ import annotations

from cyber_inference_tui.records import ResourceSample
from cyber_inference_tui.records.tuning import Goal
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer, Question

_MEANINGS = {
    Goal.SPEED: "the time from a request to the end of its answer",
    Goal.ENERGY: "joules per token",
    Goal.MEMORY: "the most memory of the model's server",
}
_ABOUT = (
    "It tries up to 12 changes while nobody is served, and writes better settings to its table. The"
    " command tune --undo takes them back."
)


def goal_question(model: str, sample: ResourceSample | None) -> Question:
    """Return a question whose answers are goals; ``sample`` is the newest one of the machine."""
    measured = sample is not None and sample.energy is not None
    goals = [goal for goal in Goal if measured or goal is not Goal.ENERGY]
    lines = [f"{goal.value:8}{_MEANINGS[goal]}" for goal in goals]
    if not measured:
        lines += ["", "Energy cannot be the goal: nothing measures it on this machine."]
    return Question(
        f"Tune {clean_line(model, limit=60)} for what?",
        "\n".join([*lines, "", _ABOUT]),
        tuple(Answer(goal.value, goal.value[0], goal.value.capitalize()) for goal in goals),
    )

"""This machine's line for the table "On other machines" in docs/cost.md: how long the model takes on it, every way."""

from __future__ import annotations

from transkd_ros.model.bundle import Bundle
from transkd_ros.model.engines import tune
from transkd_ros.model.tuning import Timing
from transkd_ros.reports.machine import machine

HEADINGS = ("machine", "cores", "model", "the fastest", "ms", "the others (ms)")


def measured_row(bundle: Bundle) -> str:
    """The line, after every candidate was timed at the model's own size. Raises RuntimeUnavailable."""
    choice = tune(bundle)
    choice.runtime.close()
    height, width = bundle.manifest.input_size
    return row(f"{bundle.manifest.name} {width}×{height}", choice.timings)


def row(model: str, timings: tuple[Timing, ...]) -> str:
    """A line of Markdown; `timings` fastest first, those without a time left out."""
    here = machine()
    best, *others = (timing for timing in timings if timing.ms is not None)
    slower = ", ".join(f"{timing.candidate} {timing.ms:.1f}" for timing in others)
    cells = (here["cpu"], str(here["cpus"]), model, str(best.candidate), f"{best.ms:.1f}", slower or "–")
    return f"| {' | '.join(cells)} |"

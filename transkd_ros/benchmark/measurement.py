"""What the measurements share: settings, results and targets, the frames, the taking of turns, and the report."""

from __future__ import annotations

import datetime
import json
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from transkd_ros.bags.messages import image_message
from transkd_ros.files import write_atomic
from transkd_ros.model.bundle import Bundle
from transkd_ros.reports.machine import machine, versions
from transkd_ros.scenes import Drive

CAMERA_SIZE = (720, 1280)  # (height, width)
TURN = 3  # frames in a row of one peer: only the first finds the caches full of another's data
_SENSES = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


class Skipped(Exception):  # noqa: N818
    """A measurement that this machine cannot make; the text is the one line that says why."""


@dataclass(frozen=True)
class Settings:
    """What is measured; `size` (H, W) is that of frames and network input of `rate`."""

    bundle: Bundle
    size: tuple[int, int]
    frames: int | None
    quick: bool

    def count(self, full: int, quick: int) -> int:
        """How many frames: the user's number, else one of these two."""
        return self.frames or (quick if self.quick else full)


@dataclass(frozen=True)
class Target:
    """A measured value and the limit that it has to keep; `sense` is one of ≥, ≤ and <."""

    name: str
    value: float
    sense: str
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return bool(_SENSES[self.sense](self.value, self.limit))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


@dataclass(frozen=True)
class Measurement:
    """`values` are JSON-ready, `table` shows them, `notes` say what a reader has to know beside."""

    values: dict[str, Any]
    table: Table
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**self.values, "targets": [target.to_json() for target in self.targets], "notes": self.notes}


def measure_all(measurements: Mapping[str, Callable[[], Measurement]], about: dict[str, Any], output: Path) -> None:
    """Measure, show, and write the JSON file `output` after each, so that an interrupt leaves what there is.

    `about` says what was measured; date, machine and versions are added.
    """
    console = Console()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    done: dict[str, Any] = {}
    report = {"date": now, "machine": machine(), "versions": versions(), **about, "measurements": done}
    shown: list[Target] = []
    for name, measure in measurements.items():
        console.print(f"\n[bold]{name}[/bold]")
        start = time.monotonic()
        try:
            measurement = measure()
        except Skipped as reason:
            console.print(f"skipped: {reason}", highlight=False, soft_wrap=True)
            done[name] = {"skipped": str(reason)}
        else:
            _show(console, measurement)
            shown += measurement.targets
            done[name] = measurement.to_json()
        done[name]["seconds"] = round(time.monotonic() - start, 1)
        write_atomic(output, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    console.print("\n[bold]targets[/bold]")
    for target in shown:
        _judge(console, target)
    minutes = sum(values["seconds"] for values in done.values()) / 60
    print(f"\n{output}, after {minutes:.1f} minutes")


def _show(console: Console, measurement: Measurement) -> None:
    console.print(measurement.table)
    for note in measurement.notes:
        console.print(note, highlight=False, markup=False, style="dim", soft_wrap=True)
    for target in measurement.targets:
        _judge(console, target)


def _judge(console: Console, target: Target) -> None:
    verdict = "[green]met[/green]" if target.met else "[red]missed[/red]"
    text = f"{target.name}: {target.value:.2f} {target.unit}, target {target.sense} {target.limit:.2f}: {verdict}"
    console.print(text, highlight=False, soft_wrap=True)


def frame_messages(count: int, size: tuple[int, int]) -> list[Any]:
    """Different streets as sensor_msgs/Image (bgr8) of `size` (H, W)."""
    return [image_message(Drive(seed, size).frame(0)[0][..., ::-1], "bgr8", 0) for seed in range(count)]


Peer = Callable[[Any], Any]


def take_turns(peers: Mapping[str, Peer], inputs: Sequence[Any], frames: int) -> dict[str, list[float]]:
    """Milliseconds of each frame of each peer, TURN frames at a time, so that a noisy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for first in range(0, frames, TURN):
        for name, peer in peers.items():
            for index in range(first, min(first + TURN, frames)):
                start = time.perf_counter()
                peer(inputs[index % len(inputs)])
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in times.items()}


def table(*headings: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = Table(headings[0])
    for heading in headings[1:]:
        made.add_column(heading, justify="right")
    return made

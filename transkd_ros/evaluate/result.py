"""What an evaluation found, and its two files: metrics.json, and report.html with the help of `offline_page`.

All of metrics.json but its section `timings` is the same whenever the same models see the same bag on the same engine.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from transkd_ros import sizes
from transkd_ros.evaluate.scoring import Metrics, Score
from transkd_ros.evaluate.truth import Truth
from transkd_ros.files import write_atomic
from transkd_ros.model.bundle import Bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports.machine import machine, versions
from transkd_ros.timing import Timings, histogram

METRICS, REPORT = "metrics.json", "report.html"


@dataclass
class ModelRun:
    """One model on all cameras. `seconds` is how long the frames of `latencies` took, with everything around them."""

    name: str
    labels: LabelTable
    details: dict[str, Any]
    scores: dict[str, Score] = field(default_factory=dict)  # by camera
    latencies: Timings = field(default_factory=lambda: Timings(window=None))
    seconds: float = 0.0
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)  # by camera: its bag, when that starts, its name

    @property
    def metrics(self) -> Metrics:
        """Of all cameras together."""
        nothing = np.zeros(len(self.labels.names), bool)
        return reduce(add, (score.metrics for score in self.scores.values()), Metrics(self.labels, nothing))

    @property
    def frames(self) -> int:
        """How many got a mask."""
        return sum(len(score.frames) for score in self.scores.values())

    @property
    def rate_hz(self) -> float | None:
        """Frames per second from the bag to the score."""
        return self.frames / self.seconds if self.seconds > 0 and self.frames else None

    def to_json(self) -> dict[str, Any]:
        cameras = {camera: self.origins.get(camera, {}) | score.to_json() for camera, score in self.scores.items()}
        return {**self.details, "total": self.metrics.to_json(), "cameras": cameras}

    def timings(self) -> dict[str, Any]:
        """`engine_hz` is what the engine alone would reach; `histogram_ms` is that of `timing.histogram`."""
        stages = self.latencies.snapshot()
        engine_hz = 1e3 / stages["infer"]["mean"] if "infer" in stages else None
        histograms = {stage: histogram(seconds) for stage, seconds in self.latencies.seconds.items()}
        rates = {"frames_per_second": self.rate_hz, "engine_hz": engine_hz, "seconds": self.seconds}
        return rates | {"latency_ms": stages, "histogram_ms": histograms}


@dataclass
class Evaluation:
    """Models on the frames of one source. `truth` says in words what they were held against, "" if nothing.

    `partial` is the reason why not all frames were seen, `notes` are remarks that a reader has to know.
    """

    source: str
    truth: str
    models: list[ModelRun] = field(default_factory=list)
    partial: str = ""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        labels = self.models[0].labels
        return {
            "source": self.source,
            "ground_truth": self.truth or None,
            "partial": self.partial or None,
            "notes": self.notes,
            "classes": list(labels.names),
            "ignore_id": labels.ignore_id,
            "models": {model.name: model.to_json() for model in self.models},
            "timings": {
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "machine": machine(),
                "versions": versions(),
                "models": {model.name: model.timings() for model in self.models},
            },
        }

    def note(self, text: str) -> None:
        """Add a remark, once; "" is none."""
        if text and text not in self.notes:
            self.notes.append(text)

    def note_unmatched(self, camera: str, score: Score, truth: Truth | None) -> None:
        """Note labels of which not one has the stamp of a frame: a mistake that the numbers would not show."""
        if truth is None or not score.frames or score.metrics.labelled or score.problems:
            return
        stamp = "" if truth.first_stamp is None else f", the first label {truth.first_stamp}"
        note = f"No frame of {camera} has a label: its first frame is stamped {score.frames[0].stamp_ns}{stamp}."
        self.note(note)

    def write(self, folder: Path, make_page: Callable[[Evaluation], str]) -> list[Path]:
        """Write metrics.json, then the page that `make_page` makes; their paths. Raises OSError."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(folder / METRICS, text + "\n")
        write_atomic(folder / REPORT, make_page(self))
        return [folder / METRICS, folder / REPORT]


class Ran(Protocol):
    """What a Runtime tells of itself, or a running node of its."""

    engine: str
    device: str
    precision: str
    input_size: tuple[int, int]  # (H, W)


def details_of(bundle: Bundle, runtime: Ran) -> dict[str, Any]:
    """Which model ran, to the hash of its graph, and on what."""
    manifest = bundle.manifest
    return {
        "bundle": {key: getattr(manifest, key) for key in ("name", "role", "parameters", "files")},
        "engine": f"{runtime.engine} on {runtime.device}, {runtime.precision}",
        "input_size": sizes.named(runtime.input_size),
    }
